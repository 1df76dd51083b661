"""Flows: one SELECT each, compiled into dirty-key rules and evaluated by PostgreSQL itself on the replica."""
