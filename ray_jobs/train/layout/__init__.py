"""Layouts: one engine that trains a module, however it is spread over the workers."""
