"""What shows the product at work: the demonstration (`python -m bench.demo`)."""
