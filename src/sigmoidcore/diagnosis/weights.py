"""What a step shows of the parameters: their sizes, their gradients, and how far the step moves them."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.diagnosis.measurement import Weight
from sigmoidcore.diagnosis.statistics import Number, squared_size
from sigmoidcore.ranks import Ranks


@dataclass
class Squares:
    """Sums of squares and numbers that are not finite, by parameter; of a sharded one, of this rank's part."""

    size: dict[str, Number] = field(default_factory=dict)
    nonfinite: dict[str, Number] = field(default_factory=dict)

    def see(self, name: str, values: Tensor) -> None:
        """Take note of one."""
        self.size[name], self.nonfinite[name] = squared_size(values)


class Weights:
    """Reads the parameters of a model around one step.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
        self.gradients = Squares()
        self._before: dict[str, Tensor] = {}
        self._start = Squares()
        self._moved = Squares()

    @torch.no_grad()
    def see_gradients(self) -> None:
        """Read every `.grad` that there is now."""
        self.gradients = Squares()
        for name, parameter in self.parameters.items():
            gradient = getattr(parameter, "grad", None)
            if gradient is not None:
                self.gradients.see(name, _local(gradient))

    @torch.no_grad()
    def before_step(self, moving: set[int]) -> None:
        """Keep copies of the parameters whose identities are in `moving`."""
        self._before = {n: _local(p).clone() for n, p in self.parameters.items() if id(p) in moving and p.requires_grad}
        for name, before in self._before.items():
            self._start.see(name, before)

    @torch.no_grad()
    def after_step(self) -> None:
        """See how far each has moved since, and let the copies go."""
        for name, before in self._before.items():
            self._moved.see(name, _local(self.parameters[name]) - before)
        self._before = {}

    @torch.no_grad()
    def conclude(self, used: set[str], scale: float, ranks: Ranks) -> tuple[Weight, ...]:
        """The parameters as they are.

        Args:
            used: names of those that the forward pass took.
            scale: what the loss was multiplied by.
            ranks: the processes; sums over the parts of sharded parameters.
        """
        now = Squares()
        alike: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            local = _local(parameter)
            now.see(name, local)
            if local.dim() > 1 and len(local) > 1:
                alike[name] = (local[0] == local[1]).all() & (local[0] != 0).any()
        rows = [(name, which, kind) for name in self.parameters for which in _KINDS for kind in ("size", "nonfinite")]
        squares = {"now": now, "gradients": self.gradients, "start": self._start, "moved": self._moved}
        values = [getattr(squares[which], kind).get(name, 0.0) for name, which, kind in rows]
        found = dict(zip(rows, self._summed(values, [name for name, _, _ in rows], ranks), strict=True))
        same = {name for name, flag in zip(alike, fetch(list(alike.values())), strict=True) if flag}
        made = []
        for name, parameter in self.parameters.items():
            size = math.sqrt(found[name, "now", "size"])
            has, moved = name in self.gradients.size, name in self._moved.size
            before = math.sqrt(found[name, "start", "size"])
            change = math.sqrt(found[name, "moved", "size"]) if moved else None
            made.append(
                Weight(
                    name=name,
                    shape=tuple(parameter.shape),
                    trains=parameter.requires_grad,
                    used=name in used or has,
                    size=size,
                    gradient=math.sqrt(found[name, "gradients", "size"]) / scale if has else None,
                    update=change / before if change is not None and before > 0 else None,
                    nonfinite=int(found[name, "now", "nonfinite"]),
                    nonfinite_gradient=int(found[name, "gradients", "nonfinite"]),
                    alike=name in same and _all_alike(_local(parameter)),
                )
            )
        return tuple(made)

    def _summed(self, values: list[Number], names: list[str], ranks: Ranks) -> list[float]:
        """The numbers, those of sharded parameters summed over the ranks."""
        numbers = fetch(values)
        if ranks.count == 1:
            return numbers
        shares = {name: _copies(parameter) for name, parameter in self.parameters.items()}
        parts = [value / shares[name] if shares[name] else 0.0 for name, value in zip(names, numbers, strict=True)]
        device = next(iter(self.parameters.values())).device
        summed = ranks.total(torch.tensor(parts, dtype=torch.float64), device)
        return [
            total if shares[name] else mine for name, mine, total in zip(names, numbers, summed.tolist(), strict=True)
        ]


_KINDS = ("now", "gradients", "start", "moved")


def fetch(values: list[Number]) -> list[float]:
    """Numbers of 0-dim tensors and numbers: one transfer for each device."""
    result = [0.0 if isinstance(v, Tensor) else float(v) for v in values]
    devices: dict[torch.device, list[int]] = {}
    for i, value in enumerate(values):
        if isinstance(value, Tensor):
            devices.setdefault(value.device, []).append(i)
    for device, places in devices.items():
        wide = torch.float32 if device.type == "mps" else torch.float64
        stacked = torch.stack([torch.as_tensor(values[i]).to(wide) for i in places])
        for i, number in zip(places, stacked.tolist(), strict=True):
            result[i] = number
    return result


def _local(values: Any) -> Tensor:
    """What this rank has of a tensor: of a DTensor its part, of a sparse one its values."""
    local: Tensor = values.to_local() if hasattr(values, "to_local") else values
    if local.is_sparse:
        local = local.coalesce().values()
    return local.detach()


def _copies(parameter: nn.Parameter) -> int:
    """On how many ranks each part of a sharded parameter is; 0 for one that every rank has whole."""
    placements = getattr(parameter, "placements", None)
    if placements is None or not any(p.is_shard() for p in placements):
        return 0
    sizes = parameter.device_mesh.shape  # type: ignore[attr-defined]
    return math.prod(size for size, place in zip(sizes, placements, strict=True) if not place.is_shard())


def _all_alike(weight: Tensor) -> bool:
    return bool((weight == weight[:1]).all())
