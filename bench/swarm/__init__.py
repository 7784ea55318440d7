"""Distribution to many nodes, measured: see `bench.swarm.__main__`."""
