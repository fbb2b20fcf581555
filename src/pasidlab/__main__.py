"""`python -m pasidlab`."""

from pasidlab.cli import main

main()
