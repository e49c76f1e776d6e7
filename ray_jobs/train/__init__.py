"""Training on Ray Train: the loop, its checkpoints, its result."""
