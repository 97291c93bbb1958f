"""Hugging Face Trainer: a callback that equalizes and monitors."""

import json
from typing import Any

import torch

from sigmoidcore.integrations.callback import TrainingCallback

try:
    from transformers.trainer_callback import ExportableState, TrainerCallback
except ImportError as error:
    raise ImportError('transformers is missing: pip install "transformers[torch]"') from error

__all__ = ["SigmoidCoreCallback"]


class SigmoidCoreCallback(TrainingCallback, TrainerCallback, ExportableState):  # type: ignore[misc]
    """An `Equalizer` and a `Monitor` on the model of a `Trainer`, from its first step to its last.

    Gradients are read before clipping, unscaled, with the micro-batches of `gradient_accumulation_steps` joined. (The
    Trainer's own event before a step comes after clipping, so the callback uses hooks of the optimizer instead.)

    The state is one line in the trainer_state.json of a checkpoint, and `trainer.train(resume_from_checkpoint=...)`
    continues with it; `restore_callback_states_from_checkpoint` is not needed. The Trainer does not tell callbacks of
    errors: call `callback.remove()` after one.

    Args:
        options: `tolerance`, `floor`, `every`, `monitor_every` and `sinks`, see `TrainingCallback`.

    Raises:
        ImportError: (on import) transformers is not installed.
        ValueError, TypeError: (from `trainer.train`) an argument is invalid, or the optimizer cannot have hooks, as
            with DeepSpeed.

    Example (docs/integrations.md has all of it):
        >>> callback = SigmoidCoreCallback(tolerance=2.0, monitor_every=50)
        >>> trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.has_sinks = bool(self.sinks)

    def state(self) -> dict[str, Any]:
        """The entry in trainer_state.json."""
        options = {name: getattr(self, name) for name in ("tolerance", "floor", "every", "monitor_every")}
        # As one text: as a part of trainer_state.json the state would be some thousand lines.
        text = json.dumps(self.state_dict(), default=lambda tensor: {"dtype": str(tensor.dtype), "of": tensor.tolist()})
        return {"args": options, "attributes": {"saved": text, "has_sinks": self.has_sinks}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin, from the state in the checkpoint if the training is resumed."""
        name = type(self).__name__
        entry = state.stateful_callbacks.get(name)
        if isinstance(entry, list):
            raise ValueError(f"the Trainer has several {name}s: use one, with all sinks")
        if self.has_sinks and not self.sinks:
            raise ValueError(
                "the Trainer has restored this callback from the checkpoint, which does not contain its sinks: set "
                "restore_callback_states_from_checkpoint=False; the callback continues from the checkpoint by itself"
            )
        if entry is None:  # the checkpoint is older than the callback; the Trainer expects an entry
            state.stateful_callbacks[name] = self.state()
        resumed = state.global_step > 0 and entry is not None
        self.load_state_dict(json.loads(entry["attributes"]["saved"], object_hook=_tensor) if resumed else {})
        wrapper = kwargs["optimizer"]  # Accelerate's
        optimizer, scaler = getattr(wrapper, "optimizer", wrapper), getattr(wrapper, "scaler", None)
        self.begin(kwargs["model"], optimizer, scaler=scaler, main=state.is_world_process_zero)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End."""
        self.remove()


def _tensor(entry: dict[str, Any]) -> Any:
    if entry.keys() != {"dtype", "of"}:
        return entry
    return torch.tensor(entry["of"], dtype=getattr(torch, entry["dtype"].removeprefix("torch.")))
