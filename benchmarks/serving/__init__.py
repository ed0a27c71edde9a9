"""Ekiben's server beside those that people would pick instead: `python -m benchmarks.serving` (see docs/benchmarks.md)."""
