"""`python -m ekiben.cli`: the same as `ekiben`."""

from ekiben.cli import main

main()
