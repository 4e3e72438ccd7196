"""Benchmarks: this code and a peer in turns, ratios only. See benchmarks/README.md."""
