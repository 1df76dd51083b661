"""A shop whose life goes on, and the terminal that shows it."""
