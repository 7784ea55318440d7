"""Who belongs to the cluster, how to reach them, and who holds what."""
