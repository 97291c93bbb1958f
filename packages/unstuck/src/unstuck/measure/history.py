"""The measurements of a training, evenly thinned."""

from typing import Any

from unstuck.measure.measurement import Measurement
from unstuck.values import read, written


class History:
    """Keeps at most so many measurements, 4 or more: evenly distant ones, and the latest."""

    def __init__(self, most: int) -> None:
        self.measurements: list[Measurement] = []
        self._most = most
        self._added = 0
        self._stride = 1

    def add(self, measurement: Measurement) -> None:
        """Add one; when there are too many, drop every second one."""
        if (self._added - 1) % self._stride:  # the latest is not one of the evenly distant ones
            self.measurements = self.measurements[:-1]
        self.measurements = [*self.measurements, measurement]
        if len(self.measurements) > self._most:
            self._stride *= 2
            self.measurements = [*self.measurements[:-1:2], measurement]
        self._added += 1

    def state_dict(self) -> dict[str, Any]:
        """All measurements in numbers, texts, lists and dicts."""
        kept = [written(m) for m in self.measurements]
        return {"added": self._added, "stride": self._stride, "kept": kept}

    def load_state_dict(self, state: Any) -> None:
        """Continue from `state_dict()`; a ValueError, and no change, if it is another state."""
        try:
            kept = list(read(tuple[Measurement, ...], state["kept"]))
            added, stride = state["added"], state["stride"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not the state of a Monitor: cannot read its measurements ({error})") from error
        if not (type(added) is int and type(stride) is int and added >= 0 < stride):
            raise ValueError(f"this is not the state of a Monitor: added and stride are {added, stride}")
        self.measurements, self._added, self._stride = kept, added, stride
