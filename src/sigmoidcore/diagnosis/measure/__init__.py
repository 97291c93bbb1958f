"""Measurements of one training step."""
