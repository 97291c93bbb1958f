"""What a step shows of the parameters: their sizes, their gradients, and how far the step moves them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.diagnosis.measurement import Weight
from sigmoidcore.diagnosis.statistics import SMALL, Number
from sigmoidcore.gain import norm
from sigmoidcore.ranks import Ranks


class Weights:
    """Reads the parameters of a model around one step.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters: dict[str, nn.Parameter] = dict(model.named_parameters())
        self._gradients: dict[str, Number] = {}
        self._sizes: dict[str, Number] = {}
        self._moves: dict[str, Number] = {}
        self._before: dict[str, Tensor] = {}

    @torch.no_grad()
    def see_gradients(self) -> None:
        """Read every `.grad` that there is now."""
        self._gradients = _norms({n: _local(p.grad) for n, p in self.parameters.items() if p.grad is not None})

    @torch.no_grad()
    def before_step(self, moving: set[int]) -> None:
        """Keep copies of the parameters whose identities are in `moving`."""
        self._sizes = self._now()
        self._before = {n: _local(p).clone() for n, p in self.parameters.items() if id(p) in moving and p.requires_grad}

    @torch.no_grad()
    def after_step(self) -> None:
        """See how far each has moved since, and let the copies go."""
        self._moves = _norms(
            {name: before.sub_(_local(self.parameters[name])) for name, before in self._before.items()}
        )
        self._before = {}

    @torch.no_grad()
    def conclude(self, used: set[str], scale: float, ranks: Ranks) -> tuple[Weight, ...]:
        """The parameters as they are, or were before the step.

        Args:
            used: names of those that the forward pass took.
            scale: what the loss was multiplied by.
            ranks: the processes; sums over the parts of sharded parameters.
        """
        sizes = self._over(self._sizes or self._now(), ranks)
        gradients, moves = self._over(self._gradients, ranks), self._over(self._moves, ranks)
        return tuple(
            Weight(
                name=name,
                shape=tuple(parameter.shape),
                trains=parameter.requires_grad,
                used=name in used or name in gradients,
                size=sizes[name],
                gradient=gradients[name] / scale if name in gradients else None,
                update=moves[name] / sizes[name] if name in moves and sizes[name] > 0 else None,
                nonfinite=_nonfinite(parameter, sizes[name]),
                nonfinite_gradient=_nonfinite(parameter.grad, gradients.get(name, 0.0)),
                alike=_all_alike(_local(parameter)),
            )
            for name, parameter in self.parameters.items()
        )

    def _now(self) -> dict[str, Number]:
        return _norms({name: _local(p) for name, p in self.parameters.items()})

    def _over(self, norms: dict[str, Number], ranks: Ranks) -> dict[str, float]:
        """Norms as numbers; those of sharded parameters over the parts of all ranks."""
        mine = dict(zip(norms, fetch(list(norms.values())), strict=True))
        copies = {name: _copies(self.parameters[name]) for name in norms} if ranks.count > 1 else {}
        sharded = [name for name in norms if copies.get(name)]
        if sharded:
            parts = torch.tensor([mine[name] ** 2 / copies[name] for name in sharded], dtype=torch.float64)
            total = ranks.total(parts, next(iter(self.parameters.values())).device).sqrt()
            mine.update(zip(sharded, total.tolist(), strict=True))
        return mine


def _norms(tensors: dict[str, Tensor]) -> dict[str, Number]:
    """L2 norms; all at once where they are small enough for the sums of squares that PyTorch's fast kernels make."""
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault((tensor.device, tensor.dtype), []).append(name)
    found: dict[str, Number] = {}
    for names in groups.values():
        sizes = torch.stack(torch._foreach_norm([tensors[name] for name in names])).tolist()
        for name, size in zip(names, sizes, strict=True):
            few = tensors[name].numel() <= SMALL and tensors[name].element_size() >= 4
            found[name] = size if few and 1e-15 < size < 1e15 else norm(tensors[name])
    return found


def _nonfinite(values: Any, size: float) -> int:
    """How many numbers of a parameter or its gradient are not finite, counted only if its size says that there are."""
    if values is None or math.isfinite(size):
        return 0
    return int((~torch.isfinite(_local(values))).sum())


def fetch(values: Sequence[Number]) -> list[float]:
    """Numbers of 0-dim tensors and numbers: one transfer for each device and dtype."""
    result = [0.0 if isinstance(v, Tensor) else float(v) for v in values]
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, value in enumerate(values):
        if isinstance(value, Tensor):
            groups.setdefault((value.device, value.dtype), []).append(i)
    for places in groups.values():
        found = torch.stack([values[i] for i in places]).tolist()  # type: ignore[misc]
        for i, number in zip(places, found, strict=True):
            result[i] = float(number)
    return result


def _local(values: Any) -> Tensor:
    """What this rank has of a tensor: of a DTensor its part, of a sparse one its values."""
    local: Tensor = values if type(values) in _WHOLE or not hasattr(values, "to_local") else values.to_local()
    return local.detach() if local.layout is torch.strided else local.coalesce().values().detach()


_WHOLE = (Tensor, nn.Parameter)


def _copies(parameter: nn.Parameter) -> int:
    """On how many ranks each part of a sharded parameter is; 0 for one that every rank has whole."""
    placements = getattr(parameter, "placements", None)
    if placements is None or not any(p.is_shard() for p in placements):
        return 0
    sizes = parameter.device_mesh.shape  # type: ignore[attr-defined]
    return math.prod(size for size, place in zip(sizes, placements, strict=True) if not place.is_shard())


def _all_alike(weight: Tensor) -> bool:
    """Whether all rows are the same, and not 0."""
    if weight.dim() < 2 or len(weight) < 2 or not torch.equal(weight[0], weight[1]):
        return False
    return bool((weight == weight[:1]).all()) and bool(weight[0].any())
