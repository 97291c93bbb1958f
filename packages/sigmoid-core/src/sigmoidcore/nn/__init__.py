"""Networks of cores, recurrent layers of cores, and norms that are bounded functions."""

from sigmoidcore.core import Stepwise
from sigmoidcore.nn.bounded_norm import BoundedNorm
from sigmoidcore.nn.networks import MLP, RNN, Chain, ConvNet
from sigmoidcore.nn.recurrent import CoreGRU, CoreLSTM, CoreRNN, RecurrentCores, converted, folded

__all__ = [
    "MLP",
    "RNN",
    "BoundedNorm",
    "Chain",
    "ConvNet",
    "CoreGRU",
    "CoreLSTM",
    "CoreRNN",
    "RecurrentCores",
    "Stepwise",
    "converted",
    "folded",
]
