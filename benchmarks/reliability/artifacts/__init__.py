"""Hostile artifacts: what somebody who can write to the object store, or even has a signing key, may leave there."""
