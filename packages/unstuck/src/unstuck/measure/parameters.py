"""The parameters of a model around one step: their sizes, their gradients, and how far the step moves them."""

import math
import weakref
from collections.abc import Container, Mapping
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from unstuck._torch import foreach
from unstuck._torch.modes import unfollowed
from unstuck.measure.measurement import Weight
from unstuck.measure.optimizer_steps import StepGroup
from unstuck.measure.statistics import fetch
from unstuck.observation.process_group import Ranks
from unstuck.observation.sizes import norms

_ORDINARY = (Tensor, nn.Parameter)
NEW_DEVIATION, MOST_DRAWN = 0.02, 2**16
"""Deviation of new layers of Transformers; numbers of a frozen weight that tell how it was drawn."""
FEW_NUMBERS = 64
"""A frozen weight with fewer numbers may look like any."""


class Parameters:
    """Reads the parameters of a model, by name, around one step."""

    def __init__(self, named: Mapping[str, nn.Parameter]) -> None:
        self.named = dict(named)
        self._sizes: dict[str, Size] = {}
        self._gradients: dict[str, Size] = {}
        self._used_up: set[str] = set()
        self._rows_differ: set[str] = set()
        self._moves: dict[str, Size] = {}
        self._before: dict[str, Tensor] = {}
        self._still: dict[str, float] = {}
        # Gradients of a step: of the backward pass, and as the optimizer sees them.
        self._had: dict[str, Size] = {}
        self._seen: dict[str, Size] = {}
        self._groups: dict[str, StepGroup] = {}
        self._left: dict[str, weakref.ref[Tensor]] = {}  # each `.grad` after the last backward pass
        self._uncleared = {name for name, p in self.named.items() if p.grad is not None}

    @property
    def has_gradients(self) -> bool:
        """Whether any weight has a `.grad`: a matrix or a kernel, or a vector where the model has nothing else."""
        weights = [p for p in self.named.values() if p.dim() > 1] or list(self.named.values())
        return any(p.grad is not None for p in weights)

    @property
    def has_other_gradients(self) -> bool:
        """Whether every `.grad` was replaced since the last backward pass, as by a sum that the caller has kept."""
        own = [(p.grad, self._left[name]) for name, p in self.named.items() if name in self._left]
        return bool(own) and all(grad is not None and left() is not grad for grad, left in own)

    @property
    def moved(self) -> bool:
        """Whether a step has moved every parameter that has a gradient."""
        return all(name in self._moves for name in self._gradients)

    @unfollowed
    @torch.no_grad()
    def emptied(self, names: Container[str]) -> bool:
        """Whether the gradients of some parameters were there after the last backward pass, and are gone.

        The first one that had any tells: in a backward pass that has just begun, nothing has come back to it yet.
        """
        for name, parameter in self.named.items():
            if name in names and self._gradients.get(name, _NOTHING).norm != 0:
                return parameter.grad is None or not bool(_local(parameter.grad).any())
        return False

    @property
    def share_taken(self) -> float:
        """The median over the weights of what an optimizer has seen of the gradient of the backward pass."""
        return median(_shares(self._seen, self._had).values() or [1.0])

    @unfollowed
    def note_cleared(self) -> None:
        """A backward pass begins: note which gradients were emptied since the last step."""
        own = {name: grad for name in self._uncleared if (grad := self.named[name].grad) is not None}
        self._uncleared = {name for name, size in _sizes(own).items() if size.norm != 0}

    @property
    def changed(self) -> bool:
        """Whether any parameter has another size than after the first backward pass."""
        return bool(self._sizes) and _sizes(self.named) != self._sizes

    @property
    @unfollowed
    def moved_by_hand(self) -> set[str]:
        """Parameters that have a gradient, and another size than after the first backward pass, if they are most."""
        own = {name: p for name, p in self.named.items() if name in self._gradients and p.grad is not None}
        before, now = self._sizes, _sizes(own) if self._sizes else {}
        moved = {name for name in now if now[name].norm != before[name].norm and math.isfinite(now[name].norm)}
        return moved if 2 * len(moved) > len(own) else set()

    def forget_gradients(self) -> None:
        """Drop the sizes of the gradients: they were emptied."""
        self._gradients, self._used_up = {}, set()

    @unfollowed
    def read_gradients(self) -> None:
        """Read every `.grad`; keep the sizes of those that optimizers used up in the backward pass."""
        self._read_sizes()
        self._read({name: p for name, p in self.named.items() if name not in self._used_up})
        self._left = {name: weakref.ref(p.grad) for name, p in self.named.items() if p.grad is not None}

    @unfollowed
    @torch.no_grad()
    def before_step(self, moving: Mapping[int, StepGroup], unscaled: float = 1.0, *, in_backward: bool = False) -> None:
        """Copy the parameters of these identities, which an optimizer is going to move.

        Their gradients were divided by `unscaled`. An optimizer that steps `in_backward` may empty them.
        """
        own = {name: p for name, p in self.named.items() if id(p) in moving and p.requires_grad}
        self._read_sizes()
        self._groups |= {name: moving[id(p)] for name, p in self.named.items() if id(p) in moving}
        self._before |= {name: _local(p).clone() for name, p in own.items() if name not in self._moves}
        if in_backward:
            self._read(own)
            self._used_up.update(own)
        else:
            had = {name: self._gradients[name] for name in own if name in self._gradients}
            seen = _sizes({name: p.grad for name, p in own.items() if p.grad is not None})
            self._had |= had
            self._seen |= {name: Size(unscaled * seen.get(name, _NOTHING).norm, 0.0) for name in had}

    @unfollowed
    @torch.no_grad()
    def after_step(self, moving: Container[int]) -> None:
        """Measure how far each has moved."""
        now = {name: _local(self.named[name]) for name in self._before if id(self.named[name]) in moving}
        changes = {name: self._before.pop(name) for name in now}
        foreach.subtract(list(changes.values()), list(now.values()))
        for name, change in changes.items():
            grad = self.named[name].grad
            if change.dtype in (torch.bfloat16, torch.float16) and grad is not None:
                self._still[name] = float((change[_local(grad) != 0] == 0).float().mean().nan_to_num())
        self._moves |= _sizes(changes)

    @unfollowed
    @torch.no_grad()
    def summarize(self, used: set[str], scale: float, ranks: Ranks) -> tuple[Weight, ...]:
        """The parameters before the step, over all ranks; the forward pass took the `used` ones."""
        self._read_sizes()
        parts = _Parts(self.named, ranks)
        sizes, gradients, updates = map(parts.join, (self._sizes, self._gradients, self._moves))
        seen = _shares(parts.join(self._seen), parts.join(self._had))
        several = {n for n, p in self.named.items() if p.dim() > 1 and len(_local(p)) > 1 and self._sizes[n].norm != 0}
        taken, differ, shown = parts.agree(used | set(self._gradients), self._rows_differ, several)
        moved = updates.keys() or (self.moved_by_hand if self._uncleared else set())
        return tuple(
            Weight(
                name=name,
                shape=tuple(parameter.shape),
                trains=parameter.requires_grad,
                used=name in taken,
                size=sizes[name].norm,
                gradient=gradients[name].norm / scale if name in gradients else None,
                update=updates[name].norm / sizes[name].norm if name in updates and sizes[name].norm > 0 else None,
                still=self._still.get(name),
                taken=seen.get(name),
                rate=self._groups[name].rate if name in self._groups else None,
                decay=self._decay(name, sizes, gradients, updates),
                uncleared=name in self._uncleared and name in moved,
                nonfinite=round(sizes[name].nonfinite),
                nonfinite_gradient=round(gradients.get(name, _NOTHING).nonfinite),
                fresh=not parameter.requires_grad and is_fresh(_local(parameter)),
                normal=not parameter.requires_grad and _is_normal(_local(parameter)),
                alike=name in shown - differ,
            )
            for name, parameter in self.named.items()
        )

    def _decay(self, name: str, *of: dict[str, "Size"]) -> float | None:
        """Size of the weight decay over that of the gradient, or of the rest of the update if it is decoupled."""
        rate, decay, decoupled = self._groups.get(name, (0.0, 0.0, False))
        size, gradient, update = (sizes.get(name, _NOTHING).norm for sizes in of)
        pull, other = decay * size, gradient
        if decoupled:
            pull *= rate
            other = math.sqrt(max(update**2 - pull**2, 0.0))
        if not decay or name not in of[2]:
            return None  # nothing has moved it
        return pull / other if other else None

    def _read(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for name in parameters:
            self._gradients.pop(name, None)
        self._gradients |= _sizes({name: p.grad for name, p in parameters.items() if p.grad is not None})

    def _read_sizes(self) -> None:
        """Read the sizes of the parameters, once in a step."""
        if not self._sizes:
            self._sizes, self._rows_differ = _sizes(self.named), _with_different_rows(self.named)


class Size(NamedTuple):
    """The L2 norm of a tensor, and how many of its numbers are not finite."""

    norm: float
    nonfinite: float


_NOTHING = Size(0.0, 0.0)


class _Parts:
    """Joins the ranks' numbers of parameters; a rank may have a part of a parameter."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], ranks: Ranks) -> None:
        self._names = list(parameters)
        self._ranks = ranks
        self._device = next((p.device for p in parameters.values()), torch.device("cpu"))
        self._replicas = {} if ranks.count == 1 else {name: _replicas(p) for name, p in parameters.items()}

    def join(self, sizes: dict[str, Size]) -> dict[str, Size]:
        """The sizes of whole parameters."""
        names = [name for name in sizes if self._replicas.get(name)]
        if not names:
            return sizes
        parts = [[sizes[n].norm ** 2 / self._replicas[n], sizes[n].nonfinite / self._replicas[n]] for n in names]
        sums = self._ranks.total(torch.tensor(parts, dtype=torch.float64), self._device).tolist()
        return sizes | {name: Size(math.sqrt(of[0]), of[1]) for name, of in zip(names, sums, strict=True)}

    def agree(self, *sets: set[str]) -> list[set[str]]:
        """The union over the ranks of each of these sets of names."""
        if self._ranks.count == 1:
            return list(sets)
        member = torch.tensor([[float(name in names) for name in self._names] for names in sets], dtype=torch.float64)
        flags = self._ranks.total(member, self._device, "MAX").tolist()
        return [{name for name, flag in zip(self._names, row, strict=True) if flag} for row in flags]


@unfollowed
@torch.no_grad()
def is_fresh(weight: Tensor) -> bool:
    """Whether numbers are uniform in the bounds of PyTorch's default initialisation, 1 / sqrt(inputs)."""
    x = _drawn(weight)
    if x is None:
        return False
    bound: float = weight[0].numel() ** -0.5
    tolerance = max(0.1, 3.5 * math.sqrt(0.2 / len(x)))  # standard errors of the size of few numbers
    return abs(_rms(x) / bound * math.sqrt(3) - 1) < tolerance and 0.9 < float(x.abs().max()) / bound < 1.001


@unfollowed
@torch.no_grad()
def _is_normal(weight: Tensor) -> bool:
    """Whether numbers are normal with the deviation that Transformers draws new layers with, 0.02."""
    x = _drawn(weight)
    if x is None:
        return False
    x, most = x / NEW_DEVIATION, 4 / math.sqrt(len(x))
    return (
        abs(_rms(x) ** 2 - 1) < most * math.sqrt(2)
        and abs(float(x.mean())) < most
        and abs(float(x.square().square().mean()) - 3) < most * math.sqrt(96)  # `pow(4)` takes ten times as long
    )


def _rms(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x)) / math.sqrt(len(x))


def _drawn(weight: Tensor) -> Tensor | None:
    """Numbers of a matrix, at even distances, that tell how it was drawn; None if they are too few."""
    if weight.dim() < 2 or weight.numel() < FEW_NUMBERS or not weight.is_floating_point():
        return None
    return weight.flatten()[:: 1 + weight.numel() // MOST_DRAWN].float()


def _shares(of: Mapping[str, Size], whole: Mapping[str, Size]) -> dict[str, float]:
    return {name: of[name].norm / size.norm for name, size in whole.items() if 0 < size.norm < math.inf}


def sizes_of(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """The L2 norms of tensors, by name."""
    return {name: size.norm for name, size in _sizes(tensors).items()}


@unfollowed
@torch.no_grad()
def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, Size]:
    local = {name: _local(tensor) for name, tensor in tensors.items()}
    sizes = zip(local.items(), norms(list(local.values())).tolist(), strict=True)
    return {n: Size(size, 0.0 if math.isfinite(size) else float((~torch.isfinite(t)).sum())) for (n, t), size in sizes}


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


@unfollowed
@torch.no_grad()
def _with_different_rows(tensors: Mapping[str, Tensor]) -> set[str]:
    """Tensors whose rows are not all equal; in most, the first two differ."""
    local = {name: _local(tensor) for name, tensor in tensors.items()}
    several = {name: t for name, t in local.items() if t.dim() > 1 and len(t) > 1 and t.numel()}
    apart = fetch([(t[0] != t[1]).any() for t in several.values()])
    both = zip(several.items(), apart, strict=True)
    return {name for (name, t), differ in both if differ or not bool((t == t[:1]).all())}
