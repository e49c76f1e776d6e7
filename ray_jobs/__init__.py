"""What runs inside the Ray cluster: stage, train, evaluate, serve."""
