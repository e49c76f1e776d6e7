"""`make bench-reliability`: what a stack survives, and who gets in."""
