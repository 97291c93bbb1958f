"""The norm rule: in the place of a normalisation, alpha follows u / rms(x) once it has left the band around it."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.nn.bounded_norm import BoundedNorm
from sigmoidcore.observation.layer_observer import LayerObserver
from unstuck.observation import bare, transforms_active
from unstuck.observation.process_group import Ranks

SHARE = 0.1  # of the way back to its level that a place goes in one sample: a step of the optimizer changes as much
BACK = 0.15  # of the band is where a place is back: the stream grows, and one at the edge would always be there


class NormRule(LayerObserver):
    """Changes alpha of `BoundedNorm` modules; see `Equalizer`. It reads forward passes alone, no gradients."""

    def __init__(self, places: Mapping[str, BoundedNorm], tolerance: float) -> None:
        super().__init__({name: place.core for name, place in places.items()})
        self._places = list(places.values())
        self._band = math.log(tolerance)
        self._returning: list[int] = []
        self._seen: dict[str, tuple[Tensor, int]] = {}  # norm and number of all that has reached a core

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        """Add to the norm, in a forward pass that trains."""
        if torch.is_grad_enabled() and layer.training and not transforms_active():
            size = torch.linalg.vector_norm(bare(x), dtype=torch.promote_types(x.dtype, torch.float32))
            before, count = self._seen.get(name, (torch.zeros_like(size), 0))
            self._seen[name] = torch.hypot(before, size), count + x.numel()
        return x

    def detach(self) -> None:
        """Stop watching, and forget what has arrived."""
        super().detach()
        self._seen = {}

    @torch.no_grad()
    def errors(self, ranks: Ranks, device: torch.device) -> Tensor:
        """log(alpha rms(x) / u) of each place over the passes of this step: [places], float64, on the CPU.

        A place that has no level yet gets the one that it has. One that did not run, or only with zeros, has error 0.
        """
        if not self._places:
            return torch.zeros(0, dtype=torch.float64)
        seen = [self._seen.get(name, (torch.zeros(()), 0)) for name in self.layers]
        norms = torch.stack([norm.to(device) for norm, _ in seen]).to("cpu", torch.float64)
        numbers = torch.tensor([number for _, number in seen], dtype=torch.float64)
        squares, numbers = ranks.total(torch.stack([norms.square(), numbers]), device).unbind()
        errors = []
        for place, size in zip(self._places, (squares / numbers.clamp_min(1)).sqrt().tolist(), strict=True):
            level = float(place.core.alpha) / 2 * size
            if 0 < level < math.inf and not float(place.level):
                place.level.fill_(level)
            errors.append(math.log(level / (float(place.level) or level)) if level else 0.0)
        return torch.tensor(errors, dtype=torch.float64)

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
        """Go on from `state_dict()`."""
        self._returning = list(state["returning"])
