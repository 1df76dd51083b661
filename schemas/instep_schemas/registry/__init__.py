"""A Kafka-backed schema registry that speaks Confluent's API."""
