"""PostgreSQL as a source: logical replication, snapshot, slot."""
