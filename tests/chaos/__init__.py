"""Kill and fail everything everywhere, start it again, and compare the world with the one that nothing happened to."""
