"""Other servers of the same model: how each is installed, started, asked and stopped."""
