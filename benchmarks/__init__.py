"""What Asparagus costs, side by side with what a user would pick instead: `python -m benchmarks`."""
