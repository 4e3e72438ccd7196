"""Benchmarks: this code alternated with a peer; only ratios count. See benchmarks/README.md."""
