"""`python -m verifkit.cli`: the command `verifkit`."""

from verifkit.cli import main

main()
