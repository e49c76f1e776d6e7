"""Staging: the source's rows, validated and written as shards by calendar period."""
