"""The durable metadata of one node, in SQLite."""
