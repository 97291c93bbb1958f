"""What the commands print with; it is made in `sigmoidcore.training.live`, and the benchmarks take it from here."""

from sigmoidcore.training.live import Screen

__all__ = ["Screen"]
