"""Capture: a store's changes into Kafka, exactly once."""
