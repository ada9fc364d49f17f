"""`python -m perfkit` is the `perfkit` command."""

from perfkit.cli.main import main

main()
