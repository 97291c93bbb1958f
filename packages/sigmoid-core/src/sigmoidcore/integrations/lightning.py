"""Lightning: a callback that equalizes and monitors, for `lightning` and `pytorch_lightning`."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from sigmoidcore.integrations.callback import TrainingCallback

__all__ = ["SigmoidCoreCallback"]

# The trainer of each package accepts only its own callbacks.
PACKAGES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
_CALLBACKS = tuple(import_module(module).Callback for name, module in PACKAGES.items() if find_spec(name))
if not _CALLBACKS:
    raise ImportError("lightning and pytorch-lightning are missing: pip install lightning")


class SigmoidCoreCallback(TrainingCallback, *_CALLBACKS):  # type: ignore[misc]
    """An `Equalizer` and a `Monitor` on a `LightningModule`, from the first step of `trainer.fit` to the last.

    Lightning's checkpoints contain their state, and `trainer.fit(..., ckpt_path=...)` continues with it. Gradients are
    read before clipping and are unscaled, in automatic and manual optimization, with every `precision` of 64, 32 or 16
    bits or bfloat16, and with `accumulate_grad_batches`.

    Args:
        module: name of the submodule to watch; "" for the whole LightningModule.
        options: `tolerance`, `floor`, `every`, `monitor_every` and `sinks`, see `TrainingCallback`.

    Raises:
        ImportError: (on import) neither lightning nor pytorch_lightning is installed.
        ValueError, TypeError: (from `trainer.fit`) an argument is invalid, there is no such submodule, or not one
            optimizer has its parameters.

    Example (docs/integrations.md has all of it):
        >>> callback = SigmoidCoreCallback(tolerance=2.0, monitor_every=50)
        >>> trainer = lightning.Trainer(callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(self, *, module: str = "", **options: Any) -> None:
        super().__init__(**options)
        self._module = module
        self._sampled_in_closure: torch.optim.Optimizer | None = None

    @property
    def state_key(self) -> str:
        """Its name in a checkpoint, one for each submodule."""
        return f"SigmoidCoreCallback{{'module': {self._module!r}}}"

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin: the optimizers exist, and a checkpoint is loaded."""
        try:
            model: nn.Module = pl_module.get_submodule(self._module)
        except AttributeError as error:
            raise ValueError(f"module={self._module!r} is not a submodule: {error}") from None
        optimizer = self._choose(trainer.optimizers, model) if self.equalizes(model) else None
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.begin(model, optimizer, scaler=scaler, main=trainer.is_global_zero, resumed=trainer.global_step > 0)
        # Without a scaler, Lightning runs the backward pass in a closure inside optimizer.step. LBFGS calls it several
        # times a step, of which the last counts.
        in_closure = scaler is None and not isinstance(optimizer, torch.optim.LBFGS)
        self._sampled_in_closure = optimizer if in_closure else None

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Sample inside the closure of the step: after the backward pass, before clipping."""
        if self.equalizer is not None and optimizer is self._sampled_in_closure:
            self.equalizer.look()

    def on_train_end(self, *arguments: Any) -> None:
        """End."""
        self.remove()

    on_exception = on_train_end

    def _choose(self, optimizers: list[torch.optim.Optimizer], model: nn.Module) -> torch.optim.Optimizer:
        own = set(model.parameters())
        fitting = [o for o in optimizers if any(p in own for group in o.param_groups for p in group["params"])]
        if len(fitting) != 1:
            raise ValueError(
                f"{len(fitting)} of {len(optimizers)} optimizers have parameters of module={self._module!r}: choose "
                "the submodule that one of them trains by module=; there may be a callback for each submodule"
            )
        return fitting[0]
