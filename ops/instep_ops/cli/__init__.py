"""The `instep` command. Importing it is cheap: commands import what they run when they run."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    from instep_ops.cli.app import run

    sys.exit(run(sys.argv[1:]))


__all__ = ["main"]
