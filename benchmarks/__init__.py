"""How fast and how small the model is: `python -m benchmarks`."""
