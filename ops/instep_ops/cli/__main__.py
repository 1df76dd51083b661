"""`python -m instep_ops.cli`: the same as the `instep` command."""

from instep_ops.cli import main

main()
