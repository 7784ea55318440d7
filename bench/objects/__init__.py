"""What the object cache promises, measured: `python -m bench.objects`, one module for each row."""
