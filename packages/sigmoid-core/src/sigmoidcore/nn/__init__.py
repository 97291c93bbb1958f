"""Networks of cores, recurrent layers of cores, and norms that are bounded functions."""

from sigmoidcore.nn.bounded_norm import BoundedNorm
from sigmoidcore.nn.networks import Chain
from sigmoidcore.nn.recurrent import CoreGRU, CoreLSTM, CoreRNN, converted, folded

__all__ = ["BoundedNorm", "Chain", "CoreGRU", "CoreLSTM", "CoreRNN", "converted", "folded"]
