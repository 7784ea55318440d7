"""Room for the durable store behind all nodes: `origin.Origin` says what it does, `gcs.Gcs` is Google Cloud Storage."""
