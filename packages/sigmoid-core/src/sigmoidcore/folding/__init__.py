"""`fold`: a copy of plain PyTorch layers, with slopes and shifts in their weights."""
