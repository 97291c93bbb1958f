"""Slopes and shifts go into the weights."""

from sigmoidcore.folding.fold import fold

__all__ = ["fold"]
