"""What every part of Instep shares: changes, documents, protocols, errors, settings. Imports nothing of ours."""

__version__ = "0.1.0"
