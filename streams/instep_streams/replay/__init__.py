"""Replay: past documents delivered again, beside the live flow."""
