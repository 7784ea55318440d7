"""How bytes get from holders to the nodes that should hold them."""
