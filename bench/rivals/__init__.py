"""Others' programs that bring the same files from one node to many, on the same links."""
