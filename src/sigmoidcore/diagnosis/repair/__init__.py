"""Repairs of what a diagnosis names."""
