"""Networks of cores (`networks`), recurrent layers of cores (`recurrent`) and norms that are bounded functions."""

from sigmoidcore.nn.bounded_norm import BoundedNorm

__all__ = ["BoundedNorm"]
