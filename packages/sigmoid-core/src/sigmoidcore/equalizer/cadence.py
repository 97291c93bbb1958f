"""When the Equalizer samples: every so many steps, or before the profile can have moved to the edge of the band."""

import math
from typing import Any, Literal

from torch import Tensor

LONGEST = 100  # the automatic cadence samples at least every so many steps
GROWTH = 4  # the automatic cadence makes an interval at most so many times as long as the last one, or as short


class Cadence:
    """The step of the next sample; the arguments are those of the `Equalizer`."""

    def __init__(self, every: int | Literal["auto"], tolerance: float) -> None:
        self.step = 0  # of the optimizer
        self.next = 0  # step of the next sample
        self._every = every
        self._band = math.log(tolerance)
        self._interval = 1
        self._before: Tensor | None = None

    @property
    def due(self) -> bool:
        """Whether the step to come is sampled."""
        return self.step >= self.next

    def hurry(self) -> None:
        """Sample the step to come."""
        self._interval += self.step - self.next  # steps since the last sample
        self.next = self.step

    def repeat(self) -> None:
        """Sample the next step, too, before anything is judged by this sample."""
        if self._every == "auto":
            self._interval += 1
            self.next = self.step + 1
        else:
            self.next = self.step + self._every

    def restart(self) -> None:
        """Sample again soon: the last sample does not say where the profile is."""
        self._interval = 1 if self._every == "auto" else self._every
        self._before = None
        self.next = self.step + self._interval

    def advance(self, errors: Tensor, *, corrected: bool, judged: bool = True) -> None:
        """Set the next sample from the logarithms of this one's profile over its median.

        Automatic: at the speed since the last sample (root mean square of all layers: single ones differ from batch to
        batch) the profile stays in the band until then. After a large correction, at most a quarter of the last
        interval: it may not have been enough. If too few samples made the gradient to judge it, after twice the last
        interval.
        """
        if self._every == "auto":
            if not judged and not corrected:
                self._interval = min(LONGEST, 2 * self._interval)
            elif self._before is not None:
                speed = float((errors - self._before).square().mean().sqrt()) / self._interval
                room = max(self._band - float(errors.abs().max()), self._band / 2)
                most = self._interval / GROWTH if corrected else self._interval * GROWTH
                self._interval = int(max(1, min(LONGEST, most, room / max(speed, 1e-12))))
            self._before = errors
        else:
            self._interval = self._every
        self.next = self.step + self._interval

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on."""
        before = None if self._before is None else self._before.clone()
        return {"step": self.step, "next": self.next, "interval": self._interval, "before": before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        step, following, interval = (int(state[key]) for key in ("step", "next", "interval"))
        if min(step, following, interval - 1) < 0:
            raise ValueError(f"step, next and interval are {step}, {following} and {interval}")
        self.step, self.next, self._interval = step, following, interval
        self._before = None if state["before"] is None else state["before"].clone()
