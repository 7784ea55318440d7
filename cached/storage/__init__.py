"""Bytes on this node: staged, published, verified, given back."""
