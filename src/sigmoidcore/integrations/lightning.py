"""Lightning: a callback that equalizes and monitors, for `lightning` and `pytorch_lightning` alike."""

import importlib
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from sigmoidcore.integrations.requirements import missing
from sigmoidcore.integrations.session import Watch, Watching
from sigmoidcore.integrations.sinks import Sink

__all__ = ["SigmoidCoreCallback"]


def _callbacks() -> tuple[Any, ...]:
    """The classes `Callback` of all packages of Lightning that are installed: a trainer of each takes our own."""
    found, errors = [], []
    for package in ("lightning.pytorch", "pytorch_lightning"):
        try:
            found.append(importlib.import_module(package).Callback)
        except ImportError as error:
            errors.append(error)
    if not found:
        raise missing(__name__, "lightning", "pytorch-lightning") from errors[0]
    return tuple(found)


class SigmoidCoreCallback(Watching, *_callbacks()):  # type: ignore[misc]
    """An `Equalizer` and a `Monitor` on a `LightningModule`, from the first step of `trainer.fit` to the last.

    Lightning's checkpoints hold their state, and `trainer.fit(..., ckpt_path=...)` goes on with it. Gradients are read
    before clipping and are unscaled, whatever `gradient_clip_val` and `accumulate_grad_batches` say, in automatic and
    in manual optimization, with a `precision` of 64, 32 or 16 bits or bfloat16, mixed or not.

    Args:
        tolerance: of the Equalizer, a factor above 1.
        floor: of the Equalizer, between 0 and 1.
        every: of the Equalizer: "auto" or a number of optimizer steps; None: no Equalizer.
        monitor_every: `every` of the Monitor, in optimizer steps; None: no Monitor.
        sinks: are called with every sample, in the process of rank 0 only.
        module: name of the part of the LightningModule that is watched; "" is all of it.
        optimizer: which of several optimizers' steps the Equalizer looks at, by its place in `configure_optimizers`,
            from 0; None: the one that has parameters of the watched part.

    Raises:
        ImportError: on import: neither lightning nor pytorch_lightning is installed.
        TypeError: a sink is no function of one argument.
        ValueError: there is nothing to do, or an argument is out of range. From `trainer.fit`: the module has no cores,
            no such part, or it has to be said which optimizer is meant.

    Example:
        `docs/integrations.md` has the module, too.

        >>> callback = SigmoidCoreCallback(tolerance=2.0, monitor_every=50)
        >>> trainer = lightning.Trainer(max_epochs=2, callbacks=[callback])  # doctest: +SKIP
        >>> trainer.fit(module, batches)  # doctest: +SKIP
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
        module: str = "",
        optimizer: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(module, str):
            raise ValueError(f'module must be the name of a part, "" for all of the module, got {module!r}')
        if optimizer is not None and (type(optimizer) is not int or optimizer < 0):
            raise ValueError(
                f"optimizer must be a place in configure_optimizers, counted from 0, or None, got {optimizer!r}"
            )
        self._watch = Watch(tolerance=tolerance, floor=floor, every=every, monitor_every=monitor_every, sinks=sinks)
        self._module = module
        self._optimizer = optimizer
        self._looks_at: torch.optim.Optimizer | None = None

    @property
    def state_key(self) -> str:
        """Its name in a checkpoint, one for each part that is watched."""
        return f"SigmoidCoreCallback{{'module': {self._module!r}}}"

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoints."""
        return self._watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoints."""
        self._watch.load_state_dict(state_dict)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin: optimizers are made, and a checkpoint is loaded."""
        try:
            model: nn.Module = pl_module.get_submodule(self._module)
        except AttributeError as error:
            raise ValueError(f"module={self._module!r} is no part of {type(pl_module).__name__}: {error}") from None
        chosen = None if self._watch.every is None else self._chosen(trainer.optimizers, model)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        under_way = trainer.global_step > 0
        self._watch.begin(model, chosen, scaler=scaler, main=trainer.is_global_zero, under_way=under_way)
        # Lightning gives optimizers a closure with the backward pass in it, but for those whose gradients it unscales.
        # LBFGS calls it several times a step, of which the last counts.
        inside = scaler is None and not isinstance(chosen, torch.optim.LBFGS)
        self._looks_at = chosen if inside else None

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Look, in the closure of the step: the backward pass is over, nothing is clipped yet."""
        if self.equalizer is not None and optimizer is self._looks_at:
            self.equalizer.look()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """End."""
        self._watch.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """End."""
        self._watch.end()

    def _chosen(self, optimizers: list[torch.optim.Optimizer], model: nn.Module) -> torch.optim.Optimizer:
        if self._optimizer is not None:
            if self._optimizer >= len(optimizers):
                raise ValueError(f"optimizer={self._optimizer}, but there are {len(optimizers)}, counted from 0")
            return optimizers[self._optimizer]
        own = {id(parameter) for parameter in model.parameters()}
        moving = [
            place
            for place, optimizer in enumerate(optimizers)
            if any(id(p) in own for group in optimizer.param_groups for p in group["params"])
        ]
        if len(moving) != 1:
            what = f"part '{self._module}'" if self._module else "the module"
            raise ValueError(
                f"{len(moving)} of {len(optimizers)} optimizers have parameters of {what}: say whose step the "
                "Equalizer looks at, with optimizer=, its place in configure_optimizers, or with module=, the name of "
                "the part that it trains; there may be a callback for each part"
            )
        return optimizers[moving[0]]
