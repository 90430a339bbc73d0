"""Comparative benchmarks: `python -m bench --help`, and docs/benchmarks.md."""
