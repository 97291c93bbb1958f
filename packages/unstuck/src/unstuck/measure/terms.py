"""The terms of a loss: what its functions return, and what each adds to the loss."""

import math
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unstuck.measure import calls
from unstuck.measure.flow import Flow
from unstuck.measure.losses import Pair
from unstuck.measure.measurement import LossTerm
from unstuck.measure.statistics import Number, fetch, unmeasured
from unstuck.observation.process_group import Alone, Ranks
from unstuck.step.node import Node

MOST_TERMS = 16
Inputs = Sequence[Callable[[], Tensor | None]]
"""The model's, while they exist."""


@dataclass
class TermCall:
    """A call of a loss function; what it adds to the loss is the sum of its numbers times their gradients."""

    node: Node
    function: str
    reads: str  # the name of the layer whose output it reads; "": of none
    value: Tensor
    reconstructs: bool = False
    part: Number = 0.0
    reduced: bool = True  # it is one number; else a part only if the loss adds it up
    count: int = 1  # of the numbers of which the value is the mean

    @classmethod
    def of(cls, flow: Flow, node: Node, value: Tensor, inputs: Inputs) -> "TermCall":
        """Note a call, and wait for the gradient of its result."""
        argument = calls.given(node, "input", "target").get("target")
        targets = argument.tensor() if isinstance(argument, Node) else None
        own = value.detach().float().clone()  # the caller may change it in place
        reads, count = flow.read(next(iter(node.args), None)), own.numel()
        among = _is_among(targets, inputs)
        call = cls(node, node.function, reads, own.mean(), among, reduced=count == 1, count=count)
        value.register_hook(lambda gradient: call.take(own, gradient))  # type: ignore[no-untyped-call]
        return call

    @classmethod
    def of_square(cls, flow: Flow, difference: Node, pair: Pair, inputs: Inputs) -> "TermCall | None":
        """Note a difference that is squared, and wait for its gradient.

        By Euler's theorem on homogeneous functions, the squares add half of the product of both to the loss, however
        they are weighed and summed.
        """
        tensor = difference.tensor()
        if tensor is None or unmeasured(tensor):
            return None
        targets = pair[1].tensor()
        if targets is None:  # a view is gone, and what it views may be there
            targets = pair[1].through(calls.MOVES).tensor()
        own, reads = tensor.detach(), flow.read(pair[0])
        among = _is_among(targets, inputs)
        call = cls(difference, difference.function, reads, own.square().mean(), among, count=own.numel())
        tensor.register_hook(lambda gradient: call.take(own / 2, gradient))  # type: ignore[no-untyped-call]
        return call

    @torch.no_grad()
    def take(self, own: Tensor, gradient: Tensor) -> None:
        """Take the gradient of some numbers, once for each backward pass; those that do not matter may be infinite."""
        gradient = gradient.to(own.dtype)
        self.part = self.part + torch.where(gradient == 0, 0.0, gradient * own).sum()


def joined(
    found: Iterable[TermCall],
    added: Container[Node],
    places: Mapping[str, int],
    scale: float,
    ranks: Ranks,
    device: torch.device,
) -> Iterator[LossTerm]:
    """The terms of a step; its losses add up the `added` calls, and `places` has where layers are, by name.

    `scale` multiplied the loss of each rank. Of ranks with different terms, each reports its own.
    """
    kinds: dict[tuple[str, str], list[TermCall]] = {}
    for call in (call for call in found if call.reduced or call.node in added):
        kinds.setdefault((call.function, call.reads), []).append(call)
    kinds = dict(list(kinds.items())[:MOST_TERMS])
    fingerprint = torch.tensor([zlib.crc32(repr([*kinds]).encode())], dtype=torch.float64, device=device)
    together = ranks if ranks.same(fingerprint) else Alone()  # sums of different lengths would wait forever
    rows = torch.tensor([_sums(own) for own in kinds.values()], dtype=torch.float64).reshape(-1, 3)
    sums = together.total(rows, device).tolist()
    for ((function, reads), own), (value, count, part) in zip(kinds.items(), sums, strict=True):
        if not math.isfinite(part):
            continue
        yield LossTerm(
            function=function,
            reads=places.get(reads),
            value=value / count if count else math.nan,
            part=part / (scale * together.count),
            reconstructs=all(call.reconstructs for call in own),
        )


def _sums(own: Sequence[TermCall]) -> tuple[float, float, float]:
    """The sum of all numbers of some calls, how many they are, and what they add to the loss."""
    values, parts = fetch([call.value for call in own]), fetch([call.part for call in own])
    numbers = [call.count for call in own]
    return sum(value * n for value, n in zip(values, numbers, strict=True)), sum(numbers), sum(parts)


def _is_among(targets: Tensor | None, inputs: Inputs) -> bool:
    """Whether the targets of a loss have the numbers of an input of the model."""
    if targets is None or not targets.is_floating_point() or targets.layout != torch.strided:
        return False
    targets, living = targets.detach(), (x for given in inputs if (x := given()) is not None)
    alike = (x for x in living if x.numel() == targets.numel() and x.dtype == targets.dtype)
    return any(x.layout == torch.strided and torch.equal(x.detach().flatten(), targets.flatten()) for x in alike)
