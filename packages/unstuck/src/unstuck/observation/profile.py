"""The gradient profile: how large the gradient is at every layer."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BARS = 12


@dataclass(frozen=True, eq=False)
class Profile:
    """Gradient sizes g_1 ... g_L, input to loss.

    Attributes:
        names: the cores in the order in which they ran; the steps of a recurrent layer are named `rnn[t]`.
        sizes: shape [L], float64, on the CPU; see `gain.gradient_size`. They scale with the loss, all alike.

    Example:
        >>> profile = Profile(("0", "1", "2"), torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
        >>> profile.spread
        4.0
        >>> print(profile)
        gradient profile of 3 cores, spread 4
          0  1.000e+00  █████████████
          1  2.000e+00  █████████████████████
          2  4.000e+00  ██████████████████████████████
    """

    names: tuple[str, ...]
    sizes: Tensor

    @property
    def spread(self) -> float:
        """max / min of the profile; 1 is perfect, inf if a gradient is 0, nan if one is not finite."""
        return spread(self.sizes)

    def __str__(self) -> str:
        """A table of at most 12 layers, with bars on a log axis."""
        count = len(self.names)
        shown = sorted({round(i * (count - 1) / max(1, min(BARS, count) - 1)) for i in range(min(BARS, count))})
        logs = [math.log10(v) if 0 < v < math.inf else None for v in self.sizes.tolist()]
        known = [v for v in logs if v is not None]
        low, high = (min(known), max(known)) if known else (0.0, 0.0)
        low = min(low, high - 1)
        width = max(len(self.names[i]) for i in shown)
        steps = sum(name.endswith("]") for name in self.names)
        cores = count - steps
        parts = [f"{n} {what}{'s' if n > 1 else ''}" for n, what in ((cores, "core"), (steps, "recurrent step")) if n]
        lines = [f"gradient profile of {' and '.join(parts)}, spread {self.spread:.4g}"]
        for i in shown:
            log = logs[i]
            bar = "" if log is None else "█" * round(1 + 29 * (log - low) / (high - low))
            lines.append(f"  {self.names[i]:<{width}}  {float(self.sizes[i]):9.3e}  {bar}".rstrip())
        return "\n".join(lines)


def spread(sizes: Tensor) -> float:
    """Max / min of gradient sizes [layers]: 1 is perfect, inf if a gradient is 0, nan if one is not finite."""
    if not bool(torch.isfinite(sizes).all()):
        return math.nan
    low, high = float(sizes.min()), float(sizes.max())
    return high / low if low > 0 else math.inf
