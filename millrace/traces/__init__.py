"""Traces of prediction requests: one record a request, kept as Parquet always and sent by OTLP where that is set."""
