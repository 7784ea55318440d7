"""The durable store behind all nodes: `origin.Origin` says what it does, `gcs.Gcs` is Google Cloud Storage.

How a set lies there is `document`, where the objects of its files lie `places` (docs/adr/0014); who may name which
bucket is `rights`.
"""
