"""CRM sinks, one per file."""
