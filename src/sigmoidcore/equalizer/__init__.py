"""Slopes during training."""
