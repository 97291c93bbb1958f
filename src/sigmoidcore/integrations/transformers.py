"""Hugging Face Trainer: a callback that equalizes and monitors."""

import base64
import json
import zlib
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from sigmoidcore.integrations.requirements import missing
from sigmoidcore.integrations.session import Watch, Watching
from sigmoidcore.integrations.sinks import Sink

try:
    from transformers.trainer_callback import ExportableState, TrainerCallback
except ImportError as error:
    raise missing(__name__, "transformers[torch]") from error

__all__ = ["SigmoidCoreCallback"]


class SigmoidCoreCallback(Watching, TrainerCallback, ExportableState):  # type: ignore[misc]
    """An `Equalizer` and a `Monitor` on the model of a `Trainer`, from its first step to its last.

    The Trainer's own event before a step, `on_pre_optimizer_step`, comes after clipping. So none of its events is used
    between begin and end: as in any other loop, the preactivations' gradients are read as they come back, those of
    parameters when the backward pass is over, and slopes change in a hook of the very optimizer's step. That is before
    clipping, unscaled, and with all micro-batches of `gradient_accumulation_steps` joined.

    Their state is in the checkpoints' trainer_state.json, under `stateful_callbacks`, packed into one line.
    `trainer.train(resume_from_checkpoint=...)` goes on with it, without `restore_callback_states_from_checkpoint`.

    Args:
        tolerance: of the Equalizer, a factor above 1.
        floor: of the Equalizer, between 0 and 1.
        every: of the Equalizer: "auto" or a number of optimizer steps; None: no Equalizer.
        monitor_every: `every` of the Monitor, in optimizer steps; None: no Monitor.
        sinks: are called with every sample, in the main process only.

    Raises:
        ImportError: on import: transformers is not installed.
        TypeError: a sink is no function of one argument. From `trainer.train`: the optimizer cannot have hooks, as that
            of DeepSpeed.
        ValueError: there is nothing to do, or an argument is out of range. From `trainer.train`: the model has no
            cores; the checkpoint cannot be gone on with, or its state of the callback is damaged.

    Example:
        `docs/integrations.md` has the model, too.

        >>> callback = SigmoidCoreCallback(tolerance=2.0, monitor_every=50)
        >>> trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[callback])  # doctest: +SKIP
        >>> _ = trainer.train()  # doctest: +SKIP
        >>> callback.equalizer.history[0].step, callback.monitor.measurements[0].step  # doctest: +SKIP
        (0, 0)
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
        self._options = {"tolerance": tolerance, "floor": floor, "every": every, "monitor_every": monitor_every}
        self._watch = Watch(tolerance=tolerance, floor=floor, every=every, monitor_every=monitor_every, sinks=sinks)
        self.has_sinks = bool(self._watch.sinks)

    def state(self) -> dict[str, Any]:
        """For trainer_state.json."""
        return {"args": self._options, "attributes": {"packed": self.packed, "has_sinks": self.has_sinks}}

    @property
    def packed(self) -> str:
        """Its state, as trainer_state.json has it."""
        return _packed(self._watch.state_dict())

    @packed.setter
    def packed(self, text: str) -> None:
        self._watch.load_state_dict(_unpacked(text))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin; in a training that was resumed, from the state in its checkpoint."""
        name = type(self).__name__
        saved = state.stateful_callbacks.get(name)
        if isinstance(saved, list):
            raise ValueError(f"the Trainer has several {name}s: one is enough, with all sinks in it")
        if self.has_sinks and not self._watch.sinks:
            raise ValueError(
                "the Trainer has made this callback anew from the checkpoint, which does not hold its sinks: set "
                "restore_callback_states_from_checkpoint=False; the callback goes on from the checkpoint by itself"
            )
        if saved is None:  # the checkpoint is older than the callback, and the Trainer looks for its place there
            state.stateful_callbacks[name] = self.state()
        resumed = state.global_step > 0 and saved is not None
        self._watch.load_state_dict(_unpacked(saved["attributes"]["packed"]) if resumed else {})
        optimizer, scaler = _inside(kwargs["optimizer"])
        self._watch.begin(kwargs["model"], optimizer, scaler=scaler, main=state.is_world_process_zero)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End."""
        self._watch.end()


def _inside(optimizer: Any) -> tuple[torch.optim.Optimizer, torch.amp.GradScaler | None]:
    """The optimizer inside of Accelerate's wrapper, and its scaler."""
    return getattr(optimizer, "optimizer", optimizer), getattr(optimizer, "scaler", None)


def _packed(state: dict[str, Any]) -> str:
    """A state as one line of text: some thousand numbers, which trainer_state.json would have a line each for."""
    text = json.dumps(state, default=_as_list)
    return base64.b64encode(zlib.compress(text.encode())).decode()


def _unpacked(text: str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    except (ValueError, zlib.error) as error:
        raise ValueError(
            f"the state of SigmoidCoreCallback in the checkpoint's trainer_state.json is damaged ({error}): go on "
            'from another one; or take "SigmoidCoreCallback" out of its stateful_callbacks, and it begins anew'
        ) from error
    before = state.get("equalizer", {}).get("before")
    if before is not None:
        state["equalizer"]["before"] = torch.tensor(before, dtype=torch.float64)
    return state


def _as_list(value: Any) -> list[float]:
    assert isinstance(value, Tensor)
    numbers: list[float] = value.tolist()
    return numbers
