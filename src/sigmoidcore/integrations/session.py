"""What the callbacks of all frameworks have in common: an Equalizer and a Monitor, from begin to end of a training."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from sigmoidcore.diagnosis.diagnosis import Diagnosis
from sigmoidcore.diagnosis.monitor import Monitor
from sigmoidcore.equalizer.checks import check_equalizer, check_steps, checked_sinks
from sigmoidcore.equalizer.equalizer import Equalizer
from sigmoidcore.integrations.sinks import Sink
from sigmoidcore.observation.profile import tapped_modules


class Watch:
    """An `Equalizer` and a `Monitor` that begin when a framework has made the optimizer, and end with the training.

    Args:
        tolerance: of the Equalizer.
        floor: of the Equalizer.
        every: of the Equalizer: "auto" or a number of steps; None: no Equalizer.
        monitor_every: `every` of the Monitor; None: no Monitor.
        sinks: are called with every sample, in the main process only.

    Attributes:
        equalizer: the latest, or None.
        monitor: the latest, or None.

    Raises:
        TypeError: a sink is no function of one argument.
        ValueError: there is nothing to do, or an argument is out of range.
    """

    def __init__(
        self,
        *,
        tolerance: float = 2.0,
        floor: float = 0.05,
        every: int | Literal["auto"] | None = "auto",
        monitor_every: int | None = 100,
        sinks: Iterable[Sink] = (),
    ) -> None:
        if every is None and monitor_every is None:
            raise ValueError("every and monitor_every are both None: there is nothing to do")
        if every is not None:
            check_equalizer(every, tolerance, floor)
        if monitor_every is not None:
            check_steps("monitor_every", monitor_every)
        self.tolerance = tolerance
        self.floor = floor
        self.every = every
        self.monitor_every = monitor_every
        self.sinks: tuple[Sink, ...] = checked_sinks(sinks)
        self.equalizer: Equalizer | None = None
        self.monitor: Monitor | None = None
        self._state: dict[str, Any] = {}
        self._running = False

    def begin(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        *,
        scaler: torch.amp.GradScaler | None = None,
        main: bool = True,
        under_way: bool = False,
    ) -> None:
        """Attach to a training, from the state that was loaded last, or anew.

        Args:
            model: what is watched.
            optimizer: whose step the Equalizer looks at; None is enough for a Monitor.
            scaler: of the training.
            main: whether sinks are called in this process.
            under_way: whether the training has had steps already: then it goes on from what was seen of them.

        Raises:
            ValueError: the model has no cores, or the state is that of another model.
        """
        self.end()
        state, self._state = self.state_dict() if under_way else self._state, {}
        sinks = self.sinks if main else ()
        self.equalizer = self.monitor = None
        try:
            if self.every is not None:
                self.equalizer = self._equalizer(model, optimizer, scaler, sinks)
            if self.monitor_every is not None:
                self.monitor = Monitor(model, self.monitor_every, scaler=scaler, sinks=sinks)
            self._running = True
            self.load_state_dict(state)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Detach; what was seen stays."""
        self._running = False
        for part in (self.monitor, self.equalizer):
            if part is not None:
                part.remove()

    def diagnosis(self) -> Diagnosis:
        """What the Monitor says of the training so far.

        Raises:
            ValueError: there is no Monitor, or it has measured nothing yet.
        """
        if self.monitor is None:
            raise ValueError("nothing was measured: the training has not begun, or monitor_every is None")
        return self.monitor.diagnosis()

    def state_dict(self) -> dict[str, Any]:
        """The states of both, by name: numbers, texts, and one tensor."""
        return {**self._state, **{name: part.state_dict() for name, part in self._parts().items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`: now, in a training, else in the one that begins next.

        Raises:
            ValueError: in a training: the state is that of another model.
        """
        if not self._running:
            self.equalizer = self.monitor = None
            self._state = dict(state)
            return
        for name, part in self._parts().items():
            if name in state:
                part.load_state_dict(state[name])

    def _parts(self) -> "dict[str, Equalizer | Monitor]":
        parts = {"equalizer": self.equalizer, "monitor": self.monitor}
        return {name: part for name, part in parts.items() if part is not None}

    def _equalizer(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        scaler: torch.amp.GradScaler | None,
        sinks: tuple[Sink, ...],
    ) -> Equalizer:
        assert self.every is not None
        assert optimizer is not None
        try:
            tapped_modules(model)
        except ValueError as error:
            raise ValueError(f"{error}; or give every=None, to monitor only") from None
        return Equalizer(
            model,
            optimizer,
            every=self.every,
            tolerance=self.tolerance,
            floor=self.floor,
            scaler=scaler,
            sinks=sinks,
        )


class Watching:
    """What the callback of every framework shows of its `Watch`.

    Attributes:
        equalizer: the `Equalizer` of the latest training, or None.
        monitor: the `Monitor` of the latest training, or None.

    Example:
        The Trainer tells no callback of an error; here both are taken off, whatever happens.

        >>> from sigmoidcore.integrations.transformers import SigmoidCoreCallback  # doctest: +SKIP
        >>> callback = SigmoidCoreCallback(monitor_every=50)  # doctest: +SKIP
        >>> trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[callback])  # doctest: +SKIP
        >>> try:  # doctest: +SKIP
        ...     _ = trainer.train()
        ... finally:
        ...     callback.remove()
        >>> callback.equalizer.history[0].step, callback.diagnosis().measurement.step  # doctest: +SKIP
        (0, 0)
    """

    _watch: Watch

    @property
    def equalizer(self) -> Equalizer | None:
        """The Equalizer of the latest training, or None."""
        return self._watch.equalizer

    @property
    def monitor(self) -> Monitor | None:
        """The Monitor of the latest training, or None."""
        return self._watch.monitor

    def diagnosis(self) -> Diagnosis:
        """What the Monitor says of the training so far.

        Raises:
            ValueError: nothing was measured.
        """
        return self._watch.diagnosis()

    def remove(self) -> None:
        """Take both off the training, as at its end; what was seen stays.

        For a training that ended in an error of which its framework tells no callback. The next training does so by
        itself.
        """
        self._watch.end()
