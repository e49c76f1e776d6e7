"""Reliability, measured: each module has a `measure` that returns its figures as a dict."""
