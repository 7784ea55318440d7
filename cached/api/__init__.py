"""What callers meet on the local sockets and what peers meet on the control port."""
