"""The measurements of a training of any length, evenly thinned."""

from typing import Any

from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.values import WrongValueError, read, written


class Thinned:
    """Keeps a bounded number of the measurements that it is given: evenly distant ones, and the latest.

    Args:
        most: how many, at least 4.

    Attributes:
        kept: these, in order.
    """

    def __init__(self, most: int) -> None:
        self.kept: list[Measurement] = []
        self._most = most
        self._given = 0
        self._stride = 1
        self._extra = False

    def add(self, measurement: Measurement) -> None:
        """Take one more; when there are too many, every second one is dropped."""
        kept = self.kept[:-1] if self._extra else list(self.kept)
        self._extra = self._given % self._stride != 0  # the latest, which the next one replaces
        self._given += 1
        kept.append(measurement)
        if len(kept) > self._most:
            self._stride *= 2
            self._extra = (self._given - 1) % self._stride != 0
            kept = [*kept[:-1:2], measurement]
        self.kept = kept

    def state_dict(self) -> dict[str, Any]:
        """All of it in numbers, texts, lists and dicts."""
        kept = [written(Measurement, m) for m in self.kept]
        return {"given": self._given, "stride": self._stride, "extra": self._extra, "kept": kept}

    def load_state_dict(self, state: Any) -> None:
        """Go on from `state_dict()`.

        Raises:
            ValueError: it is none; nothing is changed then.
        """
        try:
            kept = list(read(tuple[Measurement, ...], state["kept"], "measurements"))
            given, stride, extra = state["given"], state["stride"], state["extra"]
        except (KeyError, TypeError, WrongValueError) as error:
            raise ValueError(f"this is no state of a Monitor: its measurements cannot be read ({error})") from error
        if not (type(given) is int and type(stride) is int and given >= 0 < stride and type(extra) is bool):
            raise ValueError(f"this is no state of a Monitor: given, stride and extra are {given, stride, extra}")
        self.kept, self._given, self._stride, self._extra = kept, given, stride, extra
