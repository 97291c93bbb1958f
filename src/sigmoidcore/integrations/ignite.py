"""pytorch-ignite: a handler that equalizes and monitors."""

from typing import Any, Self

import torch
from torch import nn

from sigmoidcore.integrations.watcher import Watcher

try:
    import ignite.distributed as idist
    from ignite.engine import Engine, Events
except ImportError as error:
    raise ImportError("pytorch-ignite is missing: pip install pytorch-ignite") from error

__all__ = ["SigmoidCoreHandler"]


class SigmoidCoreHandler(Watcher):
    """An `Equalizer` and a `Monitor` on a trainer of ignite, from its first step to its last.

    Gradients are read before clipping and are unscaled. The handler has a `state_dict` for ignite's `Checkpoint`; load
    it before the trainer runs. After an error in the training, call `remove`.

    Args:
        model: the model, wrapped or not.
        optimizer: its optimizer; of several the one whose steps the Equalizer samples.
        scaler: the `torch.amp.GradScaler` of the training, if there is one.
        options: `tolerance`, `floor`, `every`, `monitor_every` and `sinks`, see `Watcher`.

    Raises:
        ImportError: (on import) pytorch-ignite is not installed.
        ValueError, TypeError: (when the trainer starts) an argument is invalid, or the model has no cores.

    Example:
        >>> import sigmoidcore as sc
        >>> from ignite.engine import create_supervised_trainer
        >>> model = sc.MLP(8, 16, 10, 2)
        >>> optimizer = torch.optim.Adam(sc.depth_scaled_lr(model))
        >>> trainer = create_supervised_trainer(model, optimizer, nn.functional.cross_entropy)
        >>> handler = SigmoidCoreHandler(model, optimizer, monitor_every=2).attach(trainer)
        >>> batches = [(torch.randn(20, 8), torch.randint(0, 2, (20,))) for _ in range(4)]
        >>> _ = trainer.run(batches, max_epochs=1)
        >>> [measurement.step for measurement in handler.monitor.measurements]
        [0, 2]
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._training = model, optimizer
        self._scaler = scaler

    def attach(self, engine: Engine) -> Self:
        """Begin and end with a trainer, which has not run yet; returns the handler."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED | Events.TERMINATE, self.remove)
        return self

    def _start(self, engine: Engine) -> None:
        resumed = engine.state.iteration > 0
        self.begin(*self._training, scaler=self._scaler, main=idist.get_rank() == 0, resumed=resumed)
