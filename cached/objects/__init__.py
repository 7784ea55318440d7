"""Room for the read-through cache of Cloud Storage objects."""
