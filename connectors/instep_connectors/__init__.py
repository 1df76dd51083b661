"""What Instep reads from and writes to: PostgreSQL, Kafka, CRMs."""
