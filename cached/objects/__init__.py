"""The cache of Cloud Storage objects: copies in memory and on disk, which all nodes together keep and read once.

`read`, `write` and `clear` are what users ask for; `bring` and `gather` fetch, with the `homes` of parts; `tiers` keeps
copies under the rules of `admission`, `eviction` and `room`; `redis` is a tier that nodes share. Why it asks Cloud
Storage at every open: docs/adr/0016.
"""
