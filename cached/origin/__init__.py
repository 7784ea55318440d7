"""Room for the durable store behind all nodes."""
