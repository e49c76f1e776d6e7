"""Benchmarks: each prints a table and writes benchmarks/results/NAME.json with hardware, date and commit."""
