"""Capture beside Debezium and pg_recvlogical: `python -m benchmarks.capture`. See benchmarks/README.md."""
