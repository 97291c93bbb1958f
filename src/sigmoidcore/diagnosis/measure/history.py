"""The measurements of a training, evenly thinned."""

from typing import Any

from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.values import WrongValueError, read, written


class History:
    """Keeps at most so many measurements, 4 or more: evenly distant ones, and the latest."""

    def __init__(self, most: int) -> None:
        self.measurements: list[Measurement] = []
        self._most = most
        self._added = 0
        self._stride = 1
        self._extra = False

    def add(self, measurement: Measurement) -> None:
        """Add one; when there are too many, drop every second one."""
        kept = self.measurements[:-1] if self._extra else list(self.measurements)
        self._extra = self._added % self._stride != 0  # the latest, which the next one replaces
        self._added += 1
        kept.append(measurement)
        if len(kept) > self._most:
            self._stride *= 2
            self._extra = (self._added - 1) % self._stride != 0
            kept = [*kept[:-1:2], measurement]
        self.measurements = kept

    def state_dict(self) -> dict[str, Any]:
        """All measurements in numbers, texts, lists and dicts."""
        kept = [written(Measurement, m) for m in self.measurements]
        return {"added": self._added, "stride": self._stride, "extra": self._extra, "kept": kept}

    def load_state_dict(self, state: Any) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: it is not the state of a history; nothing is changed then.
        """
        try:
            kept = list(read(tuple[Measurement, ...], state["kept"], "measurements"))
            added, stride, extra = state["added"], state["stride"], state["extra"]
        except (KeyError, TypeError, WrongValueError) as error:
            raise ValueError(f"this is not the state of a Monitor: cannot read its measurements ({error})") from error
        if not (type(added) is int and type(stride) is int and added >= 0 < stride and type(extra) is bool):
            raise ValueError(f"this is not the state of a Monitor: added, stride and extra are {added, stride, extra}")
        self.measurements, self._added, self._stride, self._extra = kept, added, stride, extra
