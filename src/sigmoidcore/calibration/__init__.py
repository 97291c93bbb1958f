"""Slopes, shifts and fresh weights before training."""
