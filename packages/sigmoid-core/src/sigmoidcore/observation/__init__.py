"""Observers of cores (`unstuck.observation` has their base classes), and the gradient profile that they measure."""
