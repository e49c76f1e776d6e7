"""Serving: the ingress replica that answers, and how a version gets there."""
