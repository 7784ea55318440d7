"""What schedulers ask: where the data lies."""
