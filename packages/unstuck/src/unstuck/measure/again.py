"""A recorded step that runs again with other inputs, the same random numbers and the same statistics of a batch."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unstuck.measure import calls
from unstuck.step import Node, Replay, Step, gpus

ALIASES = calls.MOVES | {"detach", "data"}
EMBEDDING = ("input", "weight", "padding_idx or offsets", "max_norm")
MOST_COPIED = 2**28
"""Bytes of weights; of larger ones only those are copied that a call may change in place."""
FEWEST = 3
"""Samples and positions that a comparison needs."""
EQUAL, LEAK, MIXED = 1e-4, 1e-3, 3e-3
"""Outputs that differ by less of their size are equal; the same beside later tokens, which the largest of all keys may
round in another way; the same beside other samples, which may tell an iteration when to stop."""

Change = Callable[[Tensor], Tensor]


@dataclass
class Again:
    """Runs a recorded step again; `values` are its parameters and buffers, by name, after some training or before.

    Without training, an input whose weights start at 0 has no effect yet.
    """

    step: Step
    values: Mapping[str, Tensor]
    trained: bool = False
    earlier: Sequence[Step] = ()  # recorded before this one, oldest first
    first: Mapping[str, Tensor] = field(default_factory=dict)  # values at the beginning of the training, if known
    until: float = math.inf  # by `time.monotonic`

    @cached_property
    def given(self) -> list[Node]:
        """What the step reads that has the samples in its first dimension, in order; nothing of fewer than `FEWEST`."""
        data = (n for n in self.step.nodes if n.op == "input" or (n.op == "constant" and not n.requires_grad))
        read = [node for node in data if node.shape and not _is_statistic(node)]
        within = [n for n in read if any(user.module is not None for user in n.users) and not _is_pairs(n)]
        first = next((n for n in within if n.op == "input"), next(iter(within), None))
        if first is None or first.shape[0] < FEWEST or self._is_one_sample(first):
            return []
        return [n for n in read if n.shape[0] == first.shape[0]]

    def _is_one_sample(self, inputs: Node) -> bool:
        """Whether dimension 0 of the inputs counts features, channels, steps or tokens of one sample."""
        layer = next((n for n in self.step.calls(*calls.WEIGHTED) if n.reads), None)
        if layer is None:
            return False
        if layer.function == "embedding" and len(inputs.shape) == len(layer.reads[0].shape) == 1:
            return any(self.step.calls(*calls.RECURRENT, calls.ATTENTION, calls.DOT_PRODUCT))
        return calls.reads_one_sample(layer)

    @property
    def samples(self) -> int:
        """How many samples the batch has."""
        return self.given[0].shape[0] if self.given else 0

    @cached_property
    def outputs(self) -> list[Node]:
        """The outputs that have something for each sample; similarities of all pairs of samples do not."""
        own = (n for n in self.step.outputs if n.floating and n.shape and n.shape[0] and n.shape[0] % self.samples == 0)
        given = set(self.given)
        pairs = (self.samples, self.samples)
        return [n for n in own if n.shape != pairs and not given.isdisjoint(self.step.needed([n]))]

    @cached_property
    def read(self) -> list[Node]:
        """Those of `given` that the outputs depend on."""
        needed = set(self.step.needed(self.outputs))
        return [node for node in self.given if node in needed]

    @cached_property
    def tokens(self) -> list[Node]:
        """The tokens that embeddings read, [samples, positions], in the order of the samples."""
        read = (calls.given(n, "input").get("input") for n in self.step.calls("embedding"))
        own = (n for n in read if isinstance(n, Node) and len(n.shape) == 2 and n.shape[0] == self.samples)
        return [n for n in dict.fromkeys(own) if n.shape[1] >= FEWEST and not self._is_reordered(n)]

    def _is_reordered(self, node: Node) -> bool:
        """Whether samples were picked by their numbers, as where they are sorted by length."""
        picked = (n for n in self.step.needed([node]) if n.function in ("getitem", "index_select"))
        return any(index.shape == (self.samples,) for n in picked for index in n.reads[1:])

    @cached_property
    def _first(self) -> tuple[list[Tensor], bool]:
        outputs, after = self.run(self.outputs), torch.get_rng_state()
        self._seed()
        return outputs, bool(self.devices) or not torch.equal(after, torch.get_rng_state())

    @property
    def before(self) -> list[Tensor]:
        """The outputs as they were."""
        return self._first[0]

    @property
    def draws(self) -> bool:
        """Whether the outputs draw random numbers; on a GPU they may."""
        return self._first[1]

    @cached_property
    def devices(self) -> list[int]:
        """The GPUs on which random numbers may be drawn."""
        return gpus(self.values)

    def _seed(self) -> None:
        for generator in (torch.default_generator, *(torch.cuda.default_generators[i] for i in self.devices)):
            generator.manual_seed(0)  # `torch.manual_seed` would seed every GPU

    @cached_property
    def _norms(self) -> dict[Node, Callable[..., Tensor]]:
        return {n: _OfWholeBatch() for n in self.step.calls("batch_norm") if n.target is functional.batch_norm}

    @cached_property
    def _replay(self) -> Replay:
        if sum(value.nbytes for value in self.values.values()) <= MOST_COPIED:
            return Replay(self.values)
        written = {read.through(ALIASES).target for n in self.step.calls() if _writes(n) for read in n.reads}
        return Replay(self.values, {n.target for n in self.step.placeholders("parameter")} - written)

    def other(self, step: Step, values: Mapping[str, Tensor] | None = None) -> "Again":
        """Another step, or this one with other values."""
        return Again(step, self.values if values is None else values, self.trained, until=self.until)

    def run(
        self,
        ends: Sequence[Node],
        changes: Mapping[Node, Change] | None = None,
        edits: Mapping[Node, Callable[..., Any]] | None = None,
    ) -> list[Tensor]:
        """The results of some nodes, where those of others change, or other functions take their place.

        Raises:
            TimeoutError: it has run for too long.
        """
        if time.monotonic() > self.until:
            raise TimeoutError
        self._seed()
        changed = {node: _changed(node, change) for node, change in (changes or {}).items()}
        self._replay.renew(self.values)
        return self._replay.results(self.step, ends, {**self._norms, **changed, **(edits or {})})

    def gradients(self, nodes: Sequence[Node], ends: Sequence[Node] | None = None) -> list[Tensor | None]:
        """The gradients of the losses, or of random sums of some results, at the results of nodes; None without one."""
        made: dict[Node, Tensor] = {}

        def kept(node: Node) -> Change:
            def keep(x: Tensor) -> Tensor:
                made[node] = x if x.requires_grad else x.detach().clone().requires_grad_()
                return made[node]

            return keep

        with torch.enable_grad():
            results = self.run(self.step.losses if ends is None else ends, {node: kept(node) for node in nodes})
            generator = torch.Generator().manual_seed(0)
            parts = [x if ends is None else x * torch.randn(x.shape, generator=generator).to(x.device) for x in results]
            total = torch.stack([part.sum().float() for part in parts if part.requires_grad]).sum()
            found = torch.autograd.grad(total, [made[n] for n in nodes], allow_unused=True)
        return list(found)


def _writes(node: Node) -> bool:
    """Whether a call may change in place what it reads; an embedding with `max_norm` changes its weight."""
    limited = node.function.startswith("embedding") and calls.given(node, *EMBEDDING).get("max_norm") is not None
    named = node.function == "setitem" or "out" in node.kwargs
    return limited or named or calls.writes_in_place(node.target, node.args, node.kwargs)


class _OfWholeBatch:
    """Batch normalisation by the statistics of its first call."""

    def __init__(self) -> None:
        self._known: tuple[Tensor, Tensor] | None = None

    def __call__(
        self, x: Tensor, mean: Any, var: Any, weight: Any = None, bias: Any = None, training: bool = False,
        momentum: float = 0.1, eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        if training or mean is None:
            dims = [0, *range(2, x.dim())]
            self._known = self._known or (x.mean(dims), x.var(dims, correction=0))
            mean, var = self._known
        return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


def _is_pairs(node: Node) -> bool:
    """Whether it is [2, n] whole numbers, such as the edges of a graph, and no two sequences of tokens."""
    whole = len(node.shape) == 2 and node.shape[0] == 2 < node.shape[1] and not node.floating
    return whole and all(user.function != "embedding" for user in node.users)


def _is_statistic(node: Node) -> bool:
    """Whether batch normalisations keep a mean or a variance in it: another network may have as many as samples."""
    return bool(node.users) and all(n.function == "batch_norm" and n.reads[0] is not node for n in node.users)


def _changed(node: Node, change: Change) -> Callable[..., Any]:
    """What takes the place of a node in a replay: its result, changed."""
    return change if not node.function else lambda *args, **kwargs: change(node.target(*args, **kwargs))


def differ(one: Tensor, other: Tensor, tolerated: float) -> bool:
    """Whether outputs differ by more than rounding; those that are not finite tell nothing."""
    change, size = (one - other).abs(), one.abs()
    change, size = change[change.isfinite()], size[size.isfinite()]
    return change.numel() > 0 and bool(change.max() > tolerated * size.max())


def rolled(x: Tensor) -> Tensor:
    """The numbers of the sample before."""
    return x.roll(1, 0)


def with_others_in(x: Tensor, part: slice) -> Tensor:
    """Sequences of which a part is that of another sample."""
    x = x.clone()
    x[:, part] = x.roll(1, 0)[:, part]
    return x


def by_position(outputs: Tensor, samples: int, length: int) -> Tensor | None:
    """Outputs as [samples, positions, ...]; None if they have no positions."""
    if len(outputs) == samples * length:
        return outputs.reshape(samples, length, *outputs.shape[1:])
    dim = next((i for i in (1, 2) if outputs.dim() > i and outputs.shape[i] == length), None)
    return None if dim is None or len(outputs) != samples else outputs.movedim(dim, 1)


def kinds(x: Tensor) -> set[int]:
    """The different whole numbers in a tensor."""
    return set(x.flatten().tolist())
