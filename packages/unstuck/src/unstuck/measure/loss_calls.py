"""The calls of a loss: which outputs they compare with which targets, and which parameters they take."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unstuck._torch.autograd import gradient_state
from unstuck.measure import calls
from unstuck.measure.logarithms import Logarithms, Origins
from unstuck.measure.tensor_origin import UNKNOWN

Pairing = tuple[str, int, Tensor, Tensor, bool]
"""The function, the position of the layer or -1, outputs and targets, and whether they are swapped."""


class LossCalls:
    """Finds comparisons of outputs with targets in the calls after a forward pass.

    Outputs come from the model and have a gradient; targets have none.
    """

    def __init__(self) -> None:
        self.logarithms = Logarithms()
        self._products: dict[int, tuple[weakref.ref[Tensor], weakref.ref[Tensor]]] = {}  # outputs, targets, by layer
        # of no module of the model, that the loss takes, with the states of their gradients
        self.parameters: dict[str, weakref.ref[nn.Parameter]] = {}
        self.gradients: dict[str, tuple[int, int] | None] = {}

    def take_parameters(self, name: str, arguments: Sequence[Tensor], known: Mapping[int, str]) -> None:
        """Note parameters that train and that the model, whose own are known, lacks."""
        for tensor in arguments if torch.is_grad_enabled() else ():
            if not isinstance(tensor, nn.Parameter) or not tensor.requires_grad or id(tensor) in known:
                continue
            if id(tensor) not in {id(own()) for own in self.parameters.values()}:
                place = f"{name} {list(tensor.shape)}" if tensor.dim() else name
                place += f" ({len(self.parameters)})" if place in self.parameters else ""
                self.parameters[place] = weakref.ref(tensor)
                self.gradients[place] = gradient_state(tensor)

    def difference(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], origin_of: Origins
    ) -> Pairing | None:
        """What a loss function or a difference compares."""
        given = args[0:3:2] if name in calls.OF_TWO else args[:2]
        names = ("input", "input1", "target", "other")
        pair = _pair([*given, *(kwargs[key] for key in names if key in kwargs)], origin_of)
        swapped = pair is not None and given[0:1] != () and given[0] is pair[1]
        if pair is None and name in calls.DIFFERENCES:
            pair = _detached_pair(given, origin_of)
        return None if pair is None else (name, origin_of(pair[0]).producer, *pair, swapped)

    def product_or_sum(self, name: str, args: tuple[Any, ...], origin_of: Origins) -> Pairing | None:
        """Note a product of outputs and targets; they are compared if the same are added, too (Dice, IoU).

        A cross-entropy by hand compares them, too.
        """
        if by_hand := self.logarithms.cross_entropy(name, args):
            return by_hand
        pair = _pair(args, origin_of)
        if pair is None:
            return None
        origin, shapes = origin_of(pair[0]), (pair[0].shape, pair[1].shape)
        if name in calls.ADDITIONS:
            reads = max(origin.producer, origin.summed)
            outputs, targets = (known() for known in self._products.get(reads, (lambda: None, lambda: None)))
            if outputs is not None and targets is not None:
                return calls.OVERLAP, reads, outputs, targets, False
        elif origin.producer >= 0 and shapes[0] == shapes[1]:
            self._products[origin.producer] = weakref.ref(pair[0]), weakref.ref(pair[1])
        return (name, origin.producer, *pair, False) if calls.pairs_all(*shapes) else None


def _detached_pair(pair: Sequence[Any], origin_of: Origins) -> tuple[Tensor, Tensor] | None:
    """Outputs without a gradient, as in an advantage, and targets, if the difference pairs all of them."""
    if len(pair) != 2 or not all(isinstance(x, Tensor) for x in pair) or any(x.requires_grad for x in pair):
        return None
    outputs, targets = pair if origin_of(pair[0]).sources else pair[::-1]
    known = origin_of(outputs).sources and origin_of(targets) is UNKNOWN
    return (outputs, targets) if known and calls.pairs_all(outputs.shape, targets.shape) else None


def _pair(pair: Sequence[Any], origin_of: Origins) -> tuple[Tensor, Tensor] | None:
    """Outputs and targets, in this order."""
    if len(pair) != 2 or not all(isinstance(x, Tensor) for x in pair):
        return None
    outputs, targets = pair if pair[0].requires_grad else pair[::-1]
    known = outputs.requires_grad and not targets.requires_grad and origin_of(outputs) is not UNKNOWN
    return (outputs, targets) if known else None
