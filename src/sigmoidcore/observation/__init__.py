"""Observers of layers, and the gradient profile that they measure."""
