"""The parameters of a model around one step: their sizes, their gradients, and how far the step moves them."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore._torch import foreach
from sigmoidcore.diagnosis.measure.measurement import Weight
from sigmoidcore.diagnosis.measure.statistics import SAFE, SMALL, Number, size_on_cpu
from sigmoidcore.gain import norm
from sigmoidcore.observation.process_group import Ranks

PIECE = 2**18
"""Numbers of a parameter that are compared with earlier ones while they are in the processor's cache."""
_ORDINARY = (Tensor, nn.Parameter)
_UNLIKE = [1.0, 0.0, 0.0, 0.0, 0.0]
"""Of a parameter whose rows differ: see `_row_facts`."""


class Parameters:
    """Reads the parameters of a model around one step.

    Args:
        named: the parameters by name.
        buffers: tensors to copy them into, by name, as `buffers` of the step before.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], buffers: Mapping[str, Tensor] | None = None) -> None:
        self.named = dict(named)
        self.buffers: dict[str, Tensor] = dict(buffers or {})
        self._gradients: dict[str, float] = {}
        self._nonfinite_gradients: dict[str, int] = {}
        self._used_up: set[str] = set()
        self._sizes: dict[str, float] = {}
        self._nonfinite: dict[str, int] = {}
        self._rows: dict[str, list[float]] = {}
        self._moves: dict[str, Number] = {}
        self._before: dict[str, Tensor] = {}

    @property
    def moved(self) -> bool:
        """Whether a step has moved every parameter that has a gradient."""
        return all(name in self._moves for name in self._gradients)

    @torch.no_grad()
    def emptied(self, names: Container[str]) -> bool:
        """Whether the gradients of some parameters were there after the last backward pass, and are gone.

        The first one that had any tells: in a backward pass that has just begun, nothing has come back to it yet.
        """
        for name, parameter in self.named.items():
            if name in names and self._gradients.get(name, 0.0) != 0:
                return parameter.grad is None or not bool(_local(parameter.grad).any())
        return False

    def forget_gradients(self) -> None:
        """Drop the sizes of the gradients: they were emptied."""
        self._gradients, self._nonfinite_gradients, self._used_up = {}, {}, set()

    @torch.no_grad()
    def read_gradients(self) -> None:
        """Read every `.grad`; keep the sizes of those that optimizers used up in the backward pass."""
        self._read({name: p for name, p in self.named.items() if name not in self._used_up})

    @torch.no_grad()
    def before_step(self, moving: set[int], *, in_backward: bool = False) -> None:
        """Copy the parameters that are going to move.

        Args:
            moving: identities of the parameters of one optimizer.
            in_backward: it steps in the backward pass, and may empty the gradients.
        """
        own = {name: p for name, p in self.named.items() if id(p) in moving and p.requires_grad}
        self._read_sizes()
        self._before |= self._copies({name: _local(p) for name, p in own.items() if name not in self._moves})
        if in_backward:
            self._read(own)
            self._used_up.update(own)

    @torch.no_grad()
    def after_step(self, moving: set[int]) -> None:
        """Measure how far each has moved, and give the copies back."""
        own = [name for name in self._before if id(self.named[name]) in moving]
        before = {name: self._before.pop(name) for name in own}
        self._moves |= _distances(before, {name: _local(self.named[name]) for name in own})
        self.buffers |= before

    @torch.no_grad()
    def summarize(self, used: set[str], scale: float, ranks: Ranks) -> tuple[Weight, ...]:
        """The parameters as they are, or were before the step.

        Args:
            used: names of those that the forward pass took.
            scale: the factor of the loss.
            ranks: the processes; sharded parameters are summed over them.
        """
        self._read_sizes()
        sharded = _Sharded(self.named, ranks)
        moves = dict(zip(self._moves, fetch(list(self._moves.values())), strict=True))
        sizes, gradients, updates = map(sharded.norms, (self._sizes, self._gradients, moves))
        nonfinite, nonfinite_gradients = map(sharded.counts, (self._nonfinite, self._nonfinite_gradients))
        used, alike = sharded.agreed(used | set(gradients), self._rows)
        return tuple(
            Weight(
                name=name,
                shape=tuple(parameter.shape),
                trains=parameter.requires_grad,
                used=name in used,
                size=sizes[name],
                gradient=gradients[name] / scale if name in gradients else None,
                update=updates[name] / sizes[name] if name in updates and sizes[name] > 0 else None,
                nonfinite=nonfinite.get(name, 0),
                nonfinite_gradient=nonfinite_gradients.get(name, 0),
                alike=name in alike,
            )
            for name, parameter in self.named.items()
        )

    def _read(self, parameters: Mapping[str, nn.Parameter]) -> None:
        sizes, nonfinite = _sizes({name: _local(p.grad) for name, p in parameters.items() if p.grad is not None})
        self._gradients = {n: size for n, size in self._gradients.items() if n not in parameters} | sizes
        others = {n: count for n, count in self._nonfinite_gradients.items() if n not in parameters}
        self._nonfinite_gradients = others | nonfinite

    def _read_sizes(self) -> None:
        """Read the sizes of the parameters, once in a step."""
        if not self._sizes:
            local = {name: _local(p) for name, p in self.named.items()}
            self._sizes, self._nonfinite = _sizes(local)
            unlike = {name for name in _unlike(local) if type(self.named[name]) in _ORDINARY}
            self._rows = {name: _UNLIKE if name in unlike else _row_facts(p) for name, p in self.named.items()}

    def _copies(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies, in the buffers where they fit: fresh memory takes longer than the copy."""
        copies: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            buffer = self.buffers.pop(name, None)
            fits = buffer is not None and (buffer.shape, buffer.dtype, buffer.device) == (
                tensor.shape, tensor.dtype, tensor.device,
            )  # fmt: skip
            copies[name] = buffer if fits and buffer is not None else torch.empty_like(tensor)
        for names in _groups(tensors):
            foreach.copy([copies[name] for name in names], [tensors[name] for name in names])
        return copies


class _Sharded:
    """Joins numbers of parameters over the ranks: those of sharded parameters are sums over the parts."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], ranks: Ranks) -> None:
        self._ranks = ranks
        self._device = next((p.device for p in parameters.values()), torch.device("cpu"))
        self._replicas = {} if ranks.count == 1 else {name: _replicas(p) for name, p in parameters.items()}
        self._names = list(parameters)

    def norms(self, mine: Mapping[str, float]) -> Mapping[str, float]:
        """L2 norms."""
        squares = self._sums({name: size * size for name, size in mine.items()})
        return {**mine, **{name: math.sqrt(square) for name, square in squares.items()}}

    def counts(self, mine: Mapping[str, int]) -> Mapping[str, int]:
        """Counts; a rank has those that are not 0."""
        sums = self._sums({name: float(mine.get(name, 0)) for name in self._names})
        return {**mine, **{name: round(count) for name, count in sums.items()}}

    def agreed(self, used: set[str], rows: Mapping[str, list[float]]) -> tuple[set[str], set[str]]:
        """Names of the parameters that any rank uses, and of those whose rows are alike on all ranks."""
        mine = [[float(name in used), *facts] for name, facts in rows.items()]
        if self._ranks.count > 1:
            mine = self._ranks.total(torch.tensor(mine, dtype=torch.float64), self._device, "MAX").tolist()
        of = dict(zip(rows, mine, strict=True))
        alike = {name for name, (_, unlike, a, b, c, d) in of.items() if not unlike and a == -b and c == -d != 0}
        return {name for name, (is_used, *_) in of.items() if is_used}, alike

    def _sums(self, mine: Mapping[str, float]) -> dict[str, float]:
        """Sums over the ranks of the sharded parameters among these."""
        sharded = [name for name in mine if self._replicas.get(name)]
        if not sharded:
            return {}
        parts = torch.tensor([mine[name] / self._replicas[name] for name in sharded], dtype=torch.float64)
        return dict(zip(sharded, self._ranks.total(parts, self._device).tolist(), strict=True))


def _norms(tensors: dict[str, Tensor]) -> dict[str, Number]:
    """L2 norms; small tensors in one call, where float32 holds their squares."""
    found: dict[str, Number] = {}
    few = {name: t for name, t in tensors.items() if t.numel() <= SMALL and t.element_size() >= 4}
    for names in _groups(few):
        sizes = torch.stack(foreach.norms([few[name] for name in names])).tolist()
        found.update((n, size) for n, size in zip(names, sizes, strict=True) if SAFE[0] < size < SAFE[1])
    for name in tensors.keys() - found.keys():
        found[name] = size_on_cpu(tensors[name]) if tensors[name].is_cpu else norm(tensors[name])
    return {name: found[name] for name in tensors}


def _distances(before: dict[str, Tensor], now: dict[str, Tensor]) -> dict[str, Number]:
    """L2 norms of differences; overwrites `before`."""
    large = {n: t for n, t in before.items() if t.is_cpu and t.numel() > PIECE and t.is_contiguous()}
    for names in _groups({name: t for name, t in before.items() if name not in large}):
        foreach.subtract([before[name] for name in names], [now[name] for name in names])
    found = _norms({name: t for name, t in before.items() if name not in large})
    for name, tensor in large.items():
        pieces = zip(*(torch.split(t.flatten(), PIECE) for t in (tensor, now[name])), strict=True)
        found[name] = math.hypot(*(size_on_cpu(one.sub_(other)) for one, other in pieces))
    return found


def _sizes(tensors: dict[str, Tensor]) -> tuple[dict[str, float], dict[str, int]]:
    """L2 norms, and the number of non-finite entries of tensors that have any."""
    norms = _norms(tensors)
    sizes = dict(zip(norms, fetch(list(norms.values())), strict=True))
    odd = [name for name, size in sizes.items() if not math.isfinite(size)]
    return sizes, {name: int((~torch.isfinite(tensors[name])).sum()) for name in odd}


def _groups(tensors: Mapping[str, Tensor]) -> Iterable[list[str]]:
    """Names of tensors that one call may take together."""
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault((tensor.device, tensor.dtype), []).append(name)
    return groups.values()


def fetch(values: Sequence[Number]) -> list[float]:
    """Numbers of 0-dim tensors and numbers: one transfer for each device and dtype."""
    result: list[Any] = list(values)
    found = {str(i): value for i, value in enumerate(values) if isinstance(value, Tensor)}
    for places in _groups(found):
        numbers = torch.stack([found[place] for place in places]).tolist()
        for place, number in zip(places, numbers, strict=True):
            result[int(place)] = float(number)
    return result


def _local(values: Any) -> Tensor:
    """The part of a tensor that this rank has (of a DTensor), or the values of a sparse one, without a graph."""
    if type(values) not in _ORDINARY and hasattr(values, "to_local"):
        values = values.to_local()
    local: Tensor = values if values.layout is torch.strided else values.coalesce().values()
    return local


def _replicas(parameter: nn.Parameter) -> int:
    """The number of ranks that have each part of a sharded parameter; 0 if every rank has all of it."""
    placements = getattr(parameter, "placements", None)
    if placements is None or not any(p.is_shard() for p in placements):
        return 0
    sizes = parameter.device_mesh.shape  # type: ignore[attr-defined]
    return math.prod(size for size, place in zip(sizes, placements, strict=True) if not place.is_shard())


def _unlike(tensors: dict[str, Tensor]) -> set[str]:
    """Tensors whose first two rows do not begin with the same number, found in one call."""
    several = {name: t for name, t in tensors.items() if t.dim() > 1 and len(t) > 1 and t.numel()}
    unlike = tensors.keys() - several.keys()
    for names in _groups(several):
        begin = [t.as_strided((2,), (t.stride(0),)) for t in map(several.__getitem__, names)]
        first, second = torch.stack(begin, 1)
        unlike.update(name for name, differ in zip(names, (first != second).tolist(), strict=True) if differ)
    return unlike


def _row_facts(parameter: nn.Parameter) -> list[float]:
    """Whether the rows on this rank are unlike, and two sums of its first row with both signs.

    The maxima over the ranks tell whether all rows are alike; a rank without rows changes nothing.
    """
    local, placements = _local(parameter), getattr(parameter, "placements", ())
    by_row = any(p.is_shard(0) for p in placements)
    if parameter.dim() < 2 or len(parameter) < 2 or not (by_row or _all_alike(local)):
        return _UNLIKE
    if not len(local):
        return [0.0, *[-math.inf] * 4]
    if len(local) > 1 and not _all_alike(local):
        return _UNLIKE
    if not by_row:
        return [0.0, 1.0, -1.0, 1.0, -1.0]
    row = local[0].double().flatten()
    first, second = float(row.sum()), float(row.square().sum())
    return [0.0, first, -first, second, -second]


def _all_alike(weight: Tensor) -> bool:
    """Whether all rows are the same, and not 0."""
    if weight.dim() < 2 or len(weight) < 2 or not torch.equal(weight[0], weight[1]):
        return False
    return bool((weight == weight[:1]).all()) and bool(weight[0].any())
