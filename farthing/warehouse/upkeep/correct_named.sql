-- The rows in the places that are named here get the right verdict.
{{corrected}} {places:Array(Tuple(UInt64, UInt64, UInt64))}
