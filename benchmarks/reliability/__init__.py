"""Measures of reliability, each of which the aggregator writes into `results/reliability.json`."""
