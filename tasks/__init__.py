"""Prefect tasks: thin wrappers over plain functions, and the adapters to MLflow, Evidently and Serve."""
