"""Hugging Face Trainer: a callback that equalizes and monitors."""

import base64
import json
import zlib
from typing import Any, Unpack

import torch

from sigmoidcore.integrations.requirements import missing
from sigmoidcore.integrations.watcher import Options, Watcher

try:
    from transformers.trainer_callback import ExportableState, TrainerCallback
except ImportError as error:
    raise missing(__name__, "transformers[torch]") from error

__all__ = ["SigmoidCoreCallback"]


class SigmoidCoreCallback(Watcher, TrainerCallback, ExportableState):  # type: ignore[misc]
    """An `Equalizer` and a `Monitor` on the model of a `Trainer`, from its first step to its last.

    Gradients are read before clipping, unscaled, with the micro-batches of `gradient_accumulation_steps` joined. (The
    Trainer's own event before a step comes after clipping, so the callback uses hooks of the optimizer instead.)

    The state is one line in the trainer_state.json of a checkpoint, and `trainer.train(resume_from_checkpoint=...)`
    continues with it; `restore_callback_states_from_checkpoint` is not needed. The Trainer does not tell callbacks of
    errors: call `callback.remove()` after one.

    Args:
        options: `tolerance`, `floor`, `every`, `monitor_every` and `sinks`, see `Watcher`.

    Raises:
        ImportError: (on import) transformers is not installed.
        TypeError: a sink is not a function of one argument. From `trainer.train`: the optimizer cannot have hooks, as
            with DeepSpeed.
        ValueError: an argument is out of range. From `trainer.train`: the model has no cores, or the state in the
            checkpoint is damaged.

    Example:
        `docs/integrations.md` has the model, too.

        >>> callback = SigmoidCoreCallback(tolerance=2.0, monitor_every=50)
        >>> trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[callback])  # doctest: +SKIP
        >>> _ = trainer.train()  # doctest: +SKIP
        >>> callback.equalizer.history[0].step, callback.monitor.measurements[0].step  # doctest: +SKIP
        (0, 0)
    """

    def __init__(self, **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.has_sinks = bool(self.sinks)

    def state(self) -> dict[str, Any]:
        """The entry in trainer_state.json."""
        options = {name: getattr(self, name) for name in ("tolerance", "floor", "every", "monitor_every")}
        return {"args": options, "attributes": {"packed": self.packed, "has_sinks": self.has_sinks}}

    @property
    def packed(self) -> str:
        """The state as one line of text: as plain JSON it would have some thousand lines."""
        text = json.dumps(self.state_dict(), default=torch.Tensor.tolist)
        return base64.b64encode(zlib.compress(text.encode())).decode()

    @packed.setter
    def packed(self, text: str) -> None:
        self.load_state_dict(_unpack(text))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin, from the state in the checkpoint if the training is resumed."""
        name = type(self).__name__
        saved = state.stateful_callbacks.get(name)
        if isinstance(saved, list):
            raise ValueError(f"the Trainer has several {name}s: use one, with all sinks")
        if self.has_sinks and not self.sinks:
            raise ValueError(
                "the Trainer has restored this callback from the checkpoint, which does not contain its sinks: set "
                "restore_callback_states_from_checkpoint=False; the callback continues from the checkpoint by itself"
            )
        if saved is None:  # the checkpoint is older than the callback; the Trainer expects an entry
            state.stateful_callbacks[name] = self.state()
        resumed = state.global_step > 0 and saved is not None
        self.load_state_dict(_unpack(saved["attributes"]["packed"]) if resumed else {})
        wrapper = kwargs["optimizer"]  # Accelerate's
        optimizer, scaler = getattr(wrapper, "optimizer", wrapper), getattr(wrapper, "scaler", None)
        self.begin(kwargs["model"], optimizer, scaler=scaler, main=state.is_world_process_zero)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End."""
        self.remove()


def _unpack(text: str) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    except (ValueError, zlib.error) as error:
        raise ValueError(
            f"the state of SigmoidCoreCallback in the checkpoint's trainer_state.json is damaged ({error}): use "
            'another checkpoint; or remove "SigmoidCoreCallback" from its stateful_callbacks, to begin without a state'
        ) from error
    before = state.get("equalizer", {}).get("before")
    if before is not None:
        state["equalizer"]["before"] = torch.tensor(before, dtype=torch.float64)
    return state
