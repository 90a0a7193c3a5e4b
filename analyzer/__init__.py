"""The analyzer: reads the warehouse's rows, writes findings and reports."""
