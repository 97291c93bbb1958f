"""Networks of cores, and recurrent layers of cores."""

from sigmoidcore.nn.networks import Chain
from sigmoidcore.nn.recurrent import CoreGRU, CoreLSTM, CoreRNN, converted, folded

__all__ = ["Chain", "CoreGRU", "CoreLSTM", "CoreRNN", "converted", "folded"]
