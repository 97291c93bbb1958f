"""`fold`: a copy of plain PyTorch layers, with slopes and shifts in their weights."""

from sigmoidcore.folding.fold import fold

__all__ = ["fold"]
