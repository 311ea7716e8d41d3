"""Measurements of the hot paths, each beside a peer in the same run: `python -m benchmarks NAME…` or `all`."""
