"""The parameters of a model around one step: their sizes, their gradients, and how far the step moves them."""

import math
from collections.abc import Container, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore._torch import foreach
from sigmoidcore.diagnosis.measure.measurement import Weight
from sigmoidcore.diagnosis.measure.statistics import SAFE, SMALL, Number, fetch, size_on_cpu
from sigmoidcore.gain import norm
from sigmoidcore.observation.process_group import Ranks

PIECE = 2**18
"""Numbers of a parameter that are compared with earlier ones while they are in the processor's cache."""
_ORDINARY = (Tensor, nn.Parameter)
_DIFFER = math.inf, math.inf
"""`_row_bounds` of rows that differ."""


class Parameters:
    """Reads the parameters of a model, by name, around one step; `buffers` are those of the step before."""

    def __init__(self, named: Mapping[str, nn.Parameter], buffers: Mapping[str, Tensor] | None = None) -> None:
        self.named = dict(named)
        self.buffers: dict[str, Tensor] = dict(buffers or {})
        self._gradients: dict[str, float] = {}
        self._nonfinite_gradients: dict[str, float] = {}
        self._used_up: set[str] = set()
        self._sizes: dict[str, float] = {}
        self._nonfinite: dict[str, float] = {}
        self._rows: dict[str, tuple[float, float]] = {}
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
        """Copy the parameters of one optimizer, which is going to move them.

        Args:
            moving: their identities.
            in_backward: the optimizer steps in the backward pass, and may empty the gradients.
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
        """The parameters before the step, over all ranks; the forward pass took the `used` ones."""
        self._read_sizes()
        moves = dict(zip(self._moves, fetch(list(self._moves.values())), strict=True))
        parts = _Parts(self.named, ranks)
        sizes, gradients, updates = (parts.join(norms, 2) for norms in (self._sizes, self._gradients, moves))
        nonfinite, nonfinite_gradients = (parts.join(n, 1) for n in (self._nonfinite, self._nonfinite_gradients))
        used, alike = parts.agree(used | set(gradients), self._rows)
        return tuple(
            Weight(
                name=name,
                shape=tuple(parameter.shape),
                trains=parameter.requires_grad,
                used=name in used,
                size=sizes[name],
                gradient=gradients[name] / scale if name in gradients else None,
                update=updates[name] / sizes[name] if name in updates and sizes[name] > 0 else None,
                nonfinite=round(nonfinite[name]),
                nonfinite_gradient=round(nonfinite_gradients.get(name, 0)),
                alike=name in alike,
            )
            for name, parameter in self.named.items()
        )

    def _read(self, parameters: Mapping[str, nn.Parameter]) -> None:
        sizes, nonfinite = _sizes({name: _local(p.grad) for name, p in parameters.items() if p.grad is not None})
        for known, new in ((self._gradients, sizes), (self._nonfinite_gradients, nonfinite)):
            for name in parameters.keys() & known.keys():
                del known[name]
            known.update(new)

    def _read_sizes(self) -> None:
        """Read the sizes of the parameters, once in a step."""
        if not self._sizes:
            local = {name: _local(p) for name, p in self.named.items()}
            self._sizes, self._nonfinite = _sizes(local)
            differ = {name for name in _begin_differently(local) if type(self.named[name]) in _ORDINARY}
            self._rows = {name: _DIFFER if name in differ else _row_bounds(p) for name, p in self.named.items()}

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


class _Parts:
    """Joins the ranks' numbers of parameters; a rank may have a part of a parameter."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], ranks: Ranks) -> None:
        self._ranks = ranks
        self._device = next((p.device for p in parameters.values()), torch.device("cpu"))
        self._replicas = {} if ranks.count == 1 else {name: _replicas(p) for name, p in parameters.items()}

    def join(self, numbers: dict[str, float], power: int) -> dict[str, float]:
        """The numbers of whole parameters: counts (power 1) or L2 norms (power 2)."""
        names = [name for name in numbers if self._replicas.get(name)]
        if not names:
            return numbers
        parts = torch.tensor([numbers[name] ** power / self._replicas[name] for name in names], dtype=torch.float64)
        sums = self._ranks.total(parts, self._device).tolist()
        return numbers | {name: total ** (1 / power) for name, total in zip(names, sums, strict=True)}

    def agree(self, used: set[str], rows: Mapping[str, tuple[float, float]]) -> tuple[set[str], set[str]]:
        """Names of the parameters that any rank uses, and of those whose rows are alike on all ranks."""
        facts = [[float(name in used), *bounds] for name, bounds in rows.items()]
        if self._ranks.count > 1:
            facts = self._ranks.total(torch.tensor(facts, dtype=torch.float64), self._device, "MAX").tolist()
        of = dict(zip(rows, facts, strict=True))
        alike = {name for name, (_, upper, lower) in of.items() if upper == -lower != 0}
        return {name for name, (is_used, *_) in of.items() if is_used}, alike


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


def _sizes(tensors: dict[str, Tensor]) -> tuple[dict[str, float], dict[str, float]]:
    """L2 norms, and the number of non-finite entries."""
    norms = _norms(tensors)
    sizes = dict(zip(norms, fetch(list(norms.values())), strict=True))
    return sizes, {n: 0.0 if math.isfinite(s) else float((~torch.isfinite(tensors[n])).sum()) for n, s in sizes.items()}


def _groups(tensors: Mapping[str, Tensor]) -> Iterable[list[str]]:
    """Names of tensors that one call may take together."""
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault((tensor.device, tensor.dtype), []).append(name)
    return groups.values()


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


def _begin_differently(tensors: dict[str, Tensor]) -> set[str]:
    """Tensors whose first two rows do not begin with the same number, found in one call."""
    several = {name: t for name, t in tensors.items() if t.dim() > 1 and len(t) > 1 and t.numel()}
    different = tensors.keys() - several.keys()
    for names in _groups(several):
        begin = [t.as_strided((2,), (t.stride(0),)) for t in map(several.__getitem__, names)]
        first, second = torch.stack(begin, 1)
        different.update(name for name, differ in zip(names, (first != second).tolist(), strict=True) if differ)
    return different


def _row_bounds(parameter: nn.Parameter) -> tuple[float, float]:
    """Largest checksum of the rows on this rank, and of its negative; all rows are alike if their sum is 0.

    Infinite if rows differ. The maxima over the ranks tell of all rows; a rank without rows changes nothing.
    """
    local = _local(parameter)
    by_row = any(p.is_shard(0) for p in getattr(parameter, "placements", ()))
    if parameter.dim() < 2 or len(parameter) < 2:
        return _DIFFER
    if by_row and not len(local):
        return -math.inf, -math.inf
    if len(local) > 1 and not (torch.equal(local[0], local[1]) and bool((local == local[:1]).all())):
        return _DIFFER
    row = local[0].double().flatten() if by_row else local.any().double().reshape(1)
    checksum = float(row @ torch.linspace(1, 2, len(row), dtype=torch.float64, device=row.device))
    return checksum, -checksum
