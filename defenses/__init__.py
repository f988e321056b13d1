"""Defenses, one file each: training recipes and test-time steps."""
