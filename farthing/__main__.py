"""`python -m farthing` is the command `farthing`."""
from farthing.cli import main

main()
