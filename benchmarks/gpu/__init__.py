"""How fast one GPU trains, and what it waits for."""
