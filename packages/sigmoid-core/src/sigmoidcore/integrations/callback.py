"""The common part of the callbacks: an Equalizer and a Monitor from the beginning to the end of a training."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.equalizer.equalizer import Equalizer
from sigmoidcore.integrations.sinks import Sink
from unstuck import Diagnosis, Monitor


class TrainingCallback:
    """An `Equalizer` and a `Monitor`, attached when a framework begins a training and removed when it ends.

    Args:
        tolerance: tolerance of the Equalizer, a factor above 1.
        floor: floor of the Equalizer, between 0 and 1.
        every: steps between two samples of the Equalizer, or "auto"; None for no Equalizer. With "auto", a model
            without cores is only monitored.
        monitor_every: steps between two measurements of the Monitor; None for no Monitor.
        sinks: functions that are called with every sample, in the main process only.

    Attributes:
        equalizer: the `Equalizer` of the latest training, or None.
        monitor: the `Monitor` of the latest training, or None.
    """

    def __init__(
        self,
        *,
        tolerance: float = 2.0,
        floor: float = 0.05,
        every: int | Literal["auto"] | None = "auto",
        monitor_every: int | None = 100,
        sinks: Sequence[Sink] = (),
    ) -> None:
        super().__init__()
        self.tolerance, self.floor = tolerance, floor
        self.every, self.monitor_every, self.sinks = every, monitor_every, sinks
        self.equalizer: Equalizer | None = None
        self.monitor: Monitor | None = None
        self._state: dict[str, Any] = {}
        self._running = False

    def equalizes(self, model: nn.Module) -> bool:
        """Whether this model gets an Equalizer."""
        if self.every != "auto" or self.monitor_every is None:
            return self.every is not None
        return any(isinstance(m, SigmoidCore) for m in model.modules())

    def begin(
        self, model: nn.Module, optimizer: Any, *, scaler: Any = None, main: bool = True, resumed: bool = False
    ) -> None:
        """Attach to a training, and continue from the state that was loaded, if any; arguments are checked now.

        `scaler` is the training's GradScaler or None. `main` says whether this process calls the sinks, `resumed`
        whether the training of the previous call continues, with its history. A Monitor alone needs no optimizer.
        """
        self.remove()
        state, self._state = self.state_dict() if resumed else self._state, {}
        self.equalizer = self.monitor = None
        shared: dict[str, Any] = {"scaler": scaler, "sinks": self.sinks if main else ()}
        try:
            if self.equalizes(model):
                options: dict[str, Any] = {"every": self.every, "tolerance": self.tolerance, "floor": self.floor}
                self.equalizer = Equalizer(model, optimizer, **options, **shared)
            if self.monitor_every is not None:
                self.monitor = Monitor(model, self.monitor_every, **shared)
            self._running = True
            self.load_state_dict(state)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Detach both, as the next training does, too; call it after an error that callbacks are not told of."""
        self._running = False
        for part in self._parts().values():
            part.remove()

    def diagnosis(self) -> Diagnosis:
        """The Monitor's diagnosis of the training so far."""
        if self.monitor is None:
            raise ValueError("nothing was measured: the training has not begun, or monitor_every is None")
        return self.monitor.diagnosis()

    def state_dict(self) -> dict[str, Any]:
        """The states of both, by name: numbers, texts and tensors."""
        return {**self._state, **{name: part.state_dict() for name, part in self._parts().items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state: in the current training, or in the next one if none is running."""
        if not self._running:
            self.equalizer = self.monitor = None
            self._state = dict(state_dict)
        for name in self._parts().keys() & state_dict:
            self._parts()[name].load_state_dict(state_dict[name])

    def _parts(self) -> "dict[str, Equalizer | Monitor]":
        parts = {"equalizer": self.equalizer, "monitor": self.monitor}
        return {name: part for name, part in parts.items() if part is not None}
