"""Judging: challenger, champion and a trivial baseline on the same newest labelled rows."""
