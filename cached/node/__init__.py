"""What a node does, one verb a file."""
