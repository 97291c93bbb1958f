"""What a step shows of the parameters: their sizes, their gradients, and how far the step moves them."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.diagnosis.measure.measurement import Weight
from sigmoidcore.diagnosis.measure.statistics import SAFE, SMALL, Number, size_on_cpu
from sigmoidcore.gain import norm
from sigmoidcore.observation.process_group import Ranks


class Weights:
    """Reads the parameters of a model around one step.

    Args:
        parameters: of the model, by name.
        room: tensors to copy them into, by name, as `room` of the step before.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], room: Mapping[str, Tensor] | None = None) -> None:
        self.parameters = dict(parameters)
        self.room: dict[str, Tensor] = dict(room or {})
        self._gradients: dict[str, float] = {}
        self._bad: dict[str, int] = {}
        self._used_up: set[str] = set()
        self._sizes: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._rows: dict[str, list[float]] = {}
        self._moves: dict[str, Number] = {}
        self._before: dict[str, Tensor] = {}

    @property
    def moved(self) -> bool:
        """Whether a step has moved every parameter that has a gradient."""
        return all(name in self._moves for name in self._gradients)

    @torch.no_grad()
    def emptied(self, names: Container[str]) -> bool:
        """Whether the gradients of some parameters were there after the last backward pass, and are not any more.

        The first one that had any tells: in a backward pass that has just begun, nothing has come back to it yet.
        """
        for name, parameter in self.parameters.items():
            if name in names and self._gradients.get(name, 0.0) != 0:
                return parameter.grad is None or not bool(_local(parameter.grad).any())
        return False

    def forget_gradients(self) -> None:
        """Drop what was seen of them: they were emptied."""
        self._gradients, self._bad, self._used_up = {}, {}, set()

    @torch.no_grad()
    def see_gradients(self) -> None:
        """Read every `.grad` that there is now; those that optimizers have used up before are kept as they were."""
        self._see({name: p for name, p in self.parameters.items() if name not in self._used_up})

    @torch.no_grad()
    def before_step(self, moving: set[int], *, in_backward: bool = False) -> None:
        """Keep copies of the parameters whose identities are in `moving`.

        Args:
            moving: of one optimizer.
            in_backward: it steps in the backward pass, and may empty the gradients.
        """
        own = {name: p for name, p in self.parameters.items() if id(p) in moving and p.requires_grad}
        self._see_sizes()
        self._before |= self._copies({name: _local(p) for name, p in own.items() if name not in self._moves})
        if in_backward:
            self._see(own)
            self._used_up.update(own)

    @torch.no_grad()
    def after_step(self, moving: set[int]) -> None:
        """See how far each has moved since, and let the copies go."""
        own = [name for name in self._before if id(self.parameters[name]) in moving]
        now = {name: _local(self.parameters[name]) for name in own}
        before = {name: self._before.pop(name) for name in own}
        self._moves |= _distances(before, now)
        self.room |= before

    @torch.no_grad()
    def conclude(self, used: set[str], scale: float, ranks: Ranks) -> tuple[Weight, ...]:
        """The parameters as they are, or were before the step.

        Args:
            used: names of those that the forward pass took.
            scale: what the loss was multiplied by.
            ranks: the processes; sums over the parts of sharded parameters.
        """
        self._see_sizes()
        sizes = self._over(self._sizes, ranks)
        moves = dict(zip(self._moves, fetch(list(self._moves.values())), strict=True))
        gradients, moves = self._over(self._gradients, ranks), self._over(moves, ranks)
        bad, bad_gradients = self._counted(self._counts, ranks), self._counted(self._bad, ranks)
        used, alike = self._agreed(used | set(gradients), ranks)
        return tuple(
            Weight(
                name=name,
                shape=tuple(parameter.shape),
                trains=parameter.requires_grad,
                used=name in used,
                size=sizes[name],
                gradient=gradients[name] / scale if name in gradients else None,
                update=moves[name] / sizes[name] if name in moves and sizes[name] > 0 else None,
                nonfinite=bad.get(name, 0),
                nonfinite_gradient=bad_gradients.get(name, 0),
                alike=name in alike,
            )
            for name, parameter in self.parameters.items()
        )

    def _see(self, parameters: Mapping[str, nn.Parameter]) -> None:
        seen = {name: _local(p.grad) for name, p in parameters.items() if p.grad is not None}
        sizes, bad = _sizes(seen)
        self._gradients = {n: size for n, size in self._gradients.items() if n not in parameters} | sizes
        self._bad = {n: count for n, count in self._bad.items() if n not in parameters} | bad

    def _see_sizes(self) -> None:
        """The parameters as they are now, if it is the first time in this step that somebody asks."""
        if not self._sizes:
            local = {name: _local(p) for name, p in self.parameters.items()}
            self._sizes, self._counts = _sizes(local)
            unlike = {name for name in _unlike(local) if type(self.parameters[name]) in _WHOLE}
            self._rows = {name: _UNLIKE if name in unlike else _rows(p) for name, p in self.parameters.items()}

    def _copies(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies, in the room that there is: fresh memory takes longer than to copy."""
        copies: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            room = self.room.pop(name, None)
            if room is None or (room.shape, room.dtype, room.device) != (tensor.shape, tensor.dtype, tensor.device):
                room = torch.empty_like(tensor)
            copies[name] = room
        for names in _groups(tensors):
            torch._foreach_copy_([copies[name] for name in names], [tensors[name] for name in names])
        return copies

    def _over(self, mine: dict[str, float], ranks: Ranks) -> dict[str, float]:
        """Norms; those of sharded parameters over the parts of all ranks."""
        if ranks.count == 1:
            return mine
        squares = self._summed({name: size * size for name, size in mine.items()}, ranks)
        return {name: math.sqrt(squares[name]) if _copies(self.parameters[name]) else mine[name] for name in mine}

    def _summed(self, mine: dict[str, float], ranks: Ranks) -> dict[str, float]:
        """Numbers of parameters; those of sharded ones summed over the parts of all ranks."""
        copies = {name: _copies(self.parameters[name]) for name in mine}
        sharded = [name for name in mine if copies[name]]
        if not sharded:
            return mine
        parts = torch.tensor([mine[name] / copies[name] for name in sharded], dtype=torch.float64)
        return mine | dict(zip(sharded, ranks.total(parts, self._device).tolist(), strict=True))

    def _counted(self, mine: Mapping[str, int], ranks: Ranks) -> Mapping[str, int]:
        """Counts of parameters that are not 0; those of sharded ones over the parts of all ranks."""
        if ranks.count == 1:
            return mine
        everything = self._summed({name: float(mine.get(name, 0)) for name in self.parameters}, ranks)
        return {name: round(count) for name, count in everything.items()}

    def _agreed(self, used: set[str], ranks: Ranks) -> tuple[set[str], set[str]]:
        """Names of the parameters that are used on any rank, and of those whose rows are alike on all of them."""
        mine = [[float(name in used), *rows] for name, rows in self._rows.items()]
        if ranks.count > 1:
            mine = ranks.total(torch.tensor(mine, dtype=torch.float64), self._device, "MAX").tolist()
        names = list(zip(self._rows, mine, strict=True))
        alike = {name for name, (_, unlike, *at) in names if not unlike and at[0] == -at[1] and at[2] == -at[3] != 0}
        return {name for name, (is_used, *_) in names if is_used}, alike

    @property
    def _device(self) -> torch.device:
        return next(iter(self.parameters.values())).device


def _norms(tensors: dict[str, Tensor]) -> dict[str, Number]:
    """L2 norms; all at once where they are small enough for the sums of squares that PyTorch's fast kernels make."""
    found: dict[str, Number] = {}
    few = {name: t for name, t in tensors.items() if t.numel() <= SMALL and t.element_size() >= 4}
    for names in _groups(few):
        sizes = torch.stack(torch._foreach_norm([few[name] for name in names])).tolist()
        found.update((n, size) for n, size in zip(names, sizes, strict=True) if SAFE[0] < size < SAFE[1])
    for name in tensors.keys() - found.keys():
        tensor = tensors[name]
        found[name] = size_on_cpu(tensor) if tensor.is_cpu else norm(tensor)
    return {name: found[name] for name in tensors}


def _distances(before: dict[str, Tensor], now: dict[str, Tensor]) -> dict[str, Number]:
    """L2 norms of differences; what was before is overwritten."""
    large = {n: t for n, t in before.items() if t.is_cpu and t.numel() > PIECE and t.is_contiguous()}
    for names in _groups({name: t for name, t in before.items() if name not in large}):
        torch._foreach_sub_([before[name] for name in names], [now[name] for name in names])
    found = _norms({name: t for name, t in before.items() if name not in large})
    for name, tensor in large.items():
        pieces = zip(*(torch.split(t.flatten(), PIECE) for t in (tensor, now[name])), strict=True)
        found[name] = math.hypot(*(size_on_cpu(one.sub_(other)) for one, other in pieces))
    return found


def _sizes(tensors: dict[str, Tensor]) -> tuple[dict[str, float], dict[str, int]]:
    """L2 norms, and how many numbers are not finite, of those of which the norm says that there are any."""
    norms = _norms(tensors)
    sizes = dict(zip(norms, fetch(list(norms.values())), strict=True))
    odd = [name for name, size in sizes.items() if not math.isfinite(size)]
    return sizes, {name: int((~torch.isfinite(tensors[name])).sum()) for name in odd}


def _unlike(tensors: dict[str, Tensor]) -> set[str]:
    """Those whose first two rows do not begin with the same number: asked at once, for a question takes its time."""
    several = {name: t for name, t in tensors.items() if t.dim() > 1 and len(t) > 1 and t.numel()}
    unlike = tensors.keys() - several.keys()
    for names in _groups(several):
        begin = [t.as_strided((2,), (t.stride(0),)) for t in map(several.__getitem__, names)]
        first, second = torch.stack(begin, 1)
        unlike.update(name for name, differ in zip(names, (first != second).tolist(), strict=True) if differ)
    return unlike


def _groups(tensors: Mapping[str, Tensor]) -> Iterable[list[str]]:
    """Names of tensors that one call may take together."""
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault((tensor.device, tensor.dtype), []).append(name)
    return groups.values()


def fetch(values: Sequence[Number]) -> list[float]:
    """Numbers of 0-dim tensors and numbers: one transfer for each device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, value in enumerate(values):
        if isinstance(value, Tensor):
            groups.setdefault((value.device, value.dtype), []).append(i)
    result = list(values)
    for places in groups.values():
        found = torch.stack([values[i] for i in places]).tolist()  # type: ignore[misc]
        for i, number in zip(places, found, strict=True):
            result[i] = float(number)
    return result  # type: ignore[return-value]


def _local(values: Any) -> Tensor:
    """What this rank has of a tensor, for no backward pass: of a DTensor its part, of a sparse one its values."""
    if type(values) not in _WHOLE and hasattr(values, "to_local"):
        values = values.to_local()
    local: Tensor = values if values.layout is torch.strided else values.coalesce().values()
    return local


_WHOLE = (Tensor, nn.Parameter)
_UNLIKE = [1.0, 0.0, 0.0, 0.0, 0.0]
"""Of a parameter whose rows differ: see `_rows`."""
PIECE = 2**18
"""Numbers of a parameter that are compared with those before while they are in the processor's cache."""


def _copies(parameter: nn.Parameter) -> int:
    """On how many ranks each part of a sharded parameter is; 0 for one that every rank has whole."""
    placements = getattr(parameter, "placements", None)
    if placements is None or not any(p.is_shard() for p in placements):
        return 0
    sizes = parameter.device_mesh.shape  # type: ignore[attr-defined]
    return math.prod(size for size, place in zip(sizes, placements, strict=True) if not place.is_shard())


def _rows(parameter: nn.Parameter) -> list[float]:
    """Whether the rows that this rank has are unlike, and what its first row is: two sums, with both signs.

    The largest of these over all ranks says whether all rows are alike; of a rank without rows, it says nothing.
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
