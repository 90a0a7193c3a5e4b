-- The grain of cells that are split by what a reader chose from.
if(empty({teams:Array(String)}), 0, 1) + if(empty({models:Array(String)}), 0, 2)
