"""Flows: one SELECT each, kept true on a replica."""
