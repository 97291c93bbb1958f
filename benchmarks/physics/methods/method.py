"""What a method is: how it makes a network, and what it is trained with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from peers.method import one_rate

RATES = (0.0005, 0.0015, 0.005)
"""Rates of Adam that are tried for a method with one rate for all parameters."""


@dataclass(frozen=True)
class Method:
    """A network and its rates.

    Attributes:
        name: of a row.
        source: the paper, with its arXiv number.
        build: makes the network from points as it will read them [points, dimensions], within -1 and 1, the width, the
            number of hidden layers and of outputs. Random numbers are those of `torch.manual_seed`.
        rates: three that are tried.
        groups: parameter groups of Adam from the network and a rate.
        penalty: is added to the loss.
        equalizes: whether an Equalizer runs during the training with Adam.
    """

    name: str
    source: str
    build: Callable[[Tensor, int, int, int], nn.Module]
    rates: tuple[float, float, float] = RATES
    groups: Callable[[nn.Module, float], list[dict[str, Any]]] = one_rate
    penalty: Callable[[nn.Module], Tensor | float] = lambda model: 0.0
    equalizes: bool = False
