"""Measurements of one training step, from the hooks to the numbers."""
