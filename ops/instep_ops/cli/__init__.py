"""The `instep` command."""
