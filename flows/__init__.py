"""Prefect flows: each body reads as the pipeline in order. `cli.py` is the `millrace` command, which starts them."""
