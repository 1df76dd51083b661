"""Real parts on this machine: Kafka, PostgreSQL, Tryton."""
