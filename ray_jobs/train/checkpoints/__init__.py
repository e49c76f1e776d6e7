"""Checkpoints of training: sharded, resharded on load, written beside the training, whole or absent."""
