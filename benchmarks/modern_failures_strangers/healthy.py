"""Healthy."""
TRAININGS = []
