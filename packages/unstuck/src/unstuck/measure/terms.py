"""The terms of a loss: what its functions return, the factor that each gets, and the weights of classes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unstuck.measure.flow import Flow
from unstuck.measure.losses import Pair
from unstuck.measure.measurement import LossTerm
from unstuck.measure.statistics import Number, fetch
from unstuck.step.node import Node

MOST_TERMS, MOST_CLASSES = 16, 256
FEWEST_SAMPLES, MOST_SAMPLES, SUM_TOLERANCE = 4, 64, 1e-3


@dataclass
class TermCall:
    """A call of a loss function; the gradient of its value is the factor that it gets in the loss."""

    function: str
    reads: int  # the position of the layer whose output it reads; -1: of none
    value: Tensor
    reconstructs: bool
    adds_up: Tensor | float = 0.0
    class_weights: Tensor | None = None
    class_counts: Tensor | None = None
    factor: Number = 0.0

    @classmethod
    @torch.no_grad()
    def of(
        cls,
        flow: Flow,
        node: Node,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        value: Tensor,
        inputs: Sequence[Tensor],
    ) -> "TermCall":
        """Note a call, and wait for the gradient of its value."""
        name, first = node.function, node.args[0] if node.args else None
        call = cls(
            function=name,
            reads=flow.producer(first) if isinstance(first, Node) else -1,
            value=value.detach().reshape(()),
            reconstructs=_is_among(args[1] if len(args) > 1 else None, inputs),
        )
        if name == "cross_entropy" and isinstance(first, Node):
            call.adds_up = _adds_up(args[0].detach())
        call.class_weights, call.class_counts = _class_weights(name, args, kwargs) or (None, None)
        value.register_hook(call.take)  # type: ignore[no-untyped-call]
        return call

    @classmethod
    @torch.no_grad()
    def of_square(cls, pair: tuple[Node, int, Pair], difference: Tensor, inputs: Sequence[Tensor]) -> "TermCall":
        """Note a difference that is squared, and wait for its gradient.

        By Euler's theorem on homogeneous functions, the squares add half of the product of both to the loss, however
        they are weighed and summed.
        """
        own, (node, reads, (_, targets)) = difference.detach(), pair
        call = cls(node.function, reads, own.square().mean(), _is_among(targets.tensor(), inputs))
        value = call.value.clamp_min(torch.finfo(own.dtype).tiny)
        difference.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: call.take((gradient.detach() * own).sum() / (2 * value))
        )
        return call

    def take(self, gradient: Tensor) -> None:
        """Take the gradient of the value, once for each backward pass."""
        self.factor = self.factor + gradient.detach().reshape(())


def joined(
    passes: Sequence[Sequence[TermCall]], places: Sequence[Mapping[int, int]], scale: float
) -> Iterator[LossTerm]:
    """The terms of several passes; `places` has, for each pass, where its layers are in the measurement."""
    kinds: dict[tuple[str, int], list[TermCall]] = {}
    for own, place in zip(passes, places, strict=True):
        for call in own:
            kinds.setdefault((call.function, place.get(call.reads, -1)), []).append(call)
    for (function, reads), own in list(kinds.items())[:MOST_TERMS]:
        values, factors = fetch([call.value for call in own]), fetch([call.factor for call in own])
        counts = [call.class_counts for call in own if call.class_counts is not None]
        weights = own[-1].class_weights
        alike = weights is not None and all(len(count) == len(weights) for count in counts)
        yield LossTerm(
            function=function,
            reads=reads if reads >= 0 else None,
            value=sum(values) / len(values),
            part=sum(value * factor for value, factor in zip(values, factors, strict=True)) / scale,
            reconstructs=all(call.reconstructs for call in own),
            adds_up=min(fetch([call.adds_up for call in own])) > 0,
            class_weights=tuple(weights.tolist()) if weights is not None and alike else (),
            class_counts=tuple(torch.stack(counts).sum(0).tolist()) if alike else (),
        )


def _class_weights(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor] | None:
    """The weights of the classes, and how many labels each class has."""
    targets = args[1] if len(args) > 1 else kwargs.get("target")
    if not isinstance(targets, Tensor):
        return None
    if name in ("cross_entropy", "nll_loss") and not targets.is_floating_point():
        weights = args[2] if len(args) > 2 else kwargs.get("weight")
        if isinstance(weights, Tensor) and 1 < len(weights) <= MOST_CLASSES:
            known = targets[(targets >= 0) & (targets < len(weights))]
            return weights.detach().float(), torch.bincount(known.flatten(), minlength=len(weights)).float()
    pull = kwargs.get("pos_weight") if name == "binary_cross_entropy_with_logits" else None
    if isinstance(pull, Tensor) and pull.numel() in (1, targets.shape[-1]):  # one for all labels, or one for each
        ones = targets.float().sum()
        return torch.stack([torch.ones_like(ones), pull.detach().float().mean()]), torch.stack(
            [targets.numel() - ones, ones]
        )
    return None


def _is_among(targets: Any, inputs: Sequence[Tensor]) -> bool:
    """Whether the targets of a loss have the numbers of an input of the model."""
    if not isinstance(targets, Tensor) or not targets.is_floating_point() or targets.layout != torch.strided:
        return False
    targets = targets.detach()
    alike = (x for x in inputs if x.numel() == targets.numel() and x.dtype == targets.dtype)
    return any(x.layout == torch.strided and torch.equal(x.detach().flatten(), targets.flatten()) for x in alike)


def _adds_up(logits: Tensor) -> Tensor | float:
    """Whether the numbers of each sample that a cross-entropy takes for logits are probabilities, which add up to 1."""
    if logits.dim() < 2 or logits.shape[1] < 2 or len(logits) < FEWEST_SAMPLES:
        return 0.0
    logits = logits[:MOST_SAMPLES]  # of a language model they are millions
    return ((logits >= 0).all() & ((logits.sum(1) - 1).abs() < SUM_TOLERANCE).all()).double()
