"""Kafka: transactions with their journal entry, offset ranges, topics."""
