"""The `cached` command: what people and scripts type; everything it does goes through `cached.client`."""
