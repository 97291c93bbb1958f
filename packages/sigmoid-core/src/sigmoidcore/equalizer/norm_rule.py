"""The norm rule: in the place of a normalisation, alpha follows u / rms(x) once it has left the band around it."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.nn.bounded_norm import BoundedNorm
from unstuck.observation import LayerObserver, Ranks, bare, transforms_active

SHARE = 0.1
"""The share of the way back to its level that a place goes in one sample: a step of the optimizer changes as much."""
BACK = 0.15
"""The part of the band within which a place is at its level again. The stream grows: one that stopped at the edge would
be there all the time, at twice its level."""


class NormRule:
    """Changes alpha of `BoundedNorm` modules; see `Equalizer`. It reads forward passes alone, no gradients."""

    def __init__(self, places: Mapping[str, BoundedNorm], tolerance: float) -> None:
        self._places = list(places.values())
        self._band = math.log(tolerance)
        self._returning: list[int] = []
        self.observer = _SizeObserver({name: place.core for name, place in places.items()})

    @torch.no_grad()
    def errors(self, ranks: Ranks, device: torch.device) -> Tensor:
        """log(alpha rms(x) / u) of each place over the passes since the last call: [places], float64, on the CPU.

        A place that has no level yet gets the one that it has. One that did not run, or only with zeros, has error 0; a
        size that is not finite gives a nan.
        """
        if not self._places:
            return torch.zeros(0, dtype=torch.float64)
        squares, counts = ranks.total(self.observer.take(device), device).unbind()
        sizes = (squares / counts.clamp_min(1)).sqrt()
        alphas, levels = self._read("slope") / 2, self._read("level")
        levels = torch.where(levels > 0, levels, alphas * sizes)
        found = torch.where(sizes > 0, (alphas * sizes / levels).log(), 0.0)
        for place, size, level in zip(self._places, sizes.tolist(), levels.tolist(), strict=True):
            if 0 < size < math.inf and not float(place.level):
                place.level.fill_(level)
        return torch.where(torch.isnan(sizes), torch.nan, found)

    @torch.no_grad()
    def follow(self, errors: Tensor) -> int:
        """Bring alpha a share of the way back where the error has left the band; returns the number of changes."""
        far = errors.abs() > self._band
        far[self._returning] = errors[self._returning].abs() > BACK * self._band
        self._returning = far.nonzero().flatten().tolist()
        for i in self._returning:
            core = self._places[i].core
            core.set_slope(core.alpha * math.exp(-SHARE * float(errors[i])))
        return len(self._returning)

    def state_dict(self) -> dict[str, list[int]]:
        """The places on their way back."""
        return {"returning": list(self._returning)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`, or from a state without places."""
        returning = [int(i) for i in state.get("returning", ())]
        if not all(0 <= i < len(self._places) for i in returning):
            raise ValueError(f"places {returning} are returning, of {len(self._places)}")
        self._returning = returning

    def _read(self, which: str) -> Tensor:
        values = [place.core.alpha if which == "slope" else place.level for place in self._places]
        return torch.stack([value.detach().reshape(()) for value in values]).to("cpu", torch.float64)


class _SizeObserver(LayerObserver):
    """Sums the squares of what arrives at the layers in forward passes that train."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__(layers)
        self._sums: dict[str, list[Tensor]] = {}
        self._counts: dict[str, int] = {}

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        if torch.is_grad_enabled() and layer.training and not transforms_active():
            size = torch.linalg.vector_norm(bare(x), dtype=torch.promote_types(x.dtype, torch.float32))
            self._sums.setdefault(name, []).append(size)
            self._counts[name] = self._counts.get(name, 0) + x.numel()
        return x

    def take(self, device: torch.device) -> Tensor:
        """Sums of squares and numbers of values: [2, layers], float64; and begin anew."""
        flat = [size.to(device) for name in self.layers for size in self._sums.get(name, ())]
        squares = torch.stack(flat).to("cpu", torch.float64).square() if flat else torch.zeros(0, dtype=torch.float64)
        parts = torch.split(squares, [len(self._sums.get(name, ())) for name in self.layers])
        counts = torch.tensor([self._counts.get(name, 0) for name in self.layers], dtype=torch.float64)
        self._sums, self._counts = {}, {}
        return torch.stack([torch.stack([part.sum() for part in parts]), counts])

    def detach(self) -> None:
        super().detach()
        self._sums, self._counts = {}, {}
