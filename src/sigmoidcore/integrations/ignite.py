"""pytorch-ignite: a handler that equalizes and monitors."""

from collections.abc import Iterable
from typing import Any, Literal, Self

import torch
from torch import nn

from sigmoidcore.equalizer.checks import check_model, check_optimizer
from sigmoidcore.integrations.requirements import missing
from sigmoidcore.integrations.session import Watch, Watching
from sigmoidcore.integrations.sinks import Sink

try:
    import ignite.distributed as idist
    from ignite.engine import Engine, Events
except ImportError as error:
    raise missing(__name__, "pytorch-ignite") from error

__all__ = ["SigmoidCoreHandler"]


class SigmoidCoreHandler(Watching):
    """An `Equalizer` and a `Monitor` on a trainer of ignite, from its first step to its last.

    It has a `state_dict` for ignite's `Checkpoint`: give it the handler, and load into a handler before the trainer
    runs. Gradients are read before clipping and are unscaled.

    Args:
        model: the model, wrapped or not.
        optimizer: its optimizer; where several train it, that whose step the Equalizer looks at. Without an Equalizer
            it is not used.
        scaler: the `torch.amp.GradScaler` of the training, if there is one.
        tolerance: of the Equalizer, a factor above 1.
        floor: of the Equalizer, between 0 and 1.
        every: of the Equalizer: "auto" or a number of optimizer steps; None: no Equalizer.
        monitor_every: `every` of the Monitor, in optimizer steps; None: no Monitor.
        sinks: are called with every sample, in the process of rank 0 only.

    Raises:
        ImportError: on import: pytorch-ignite is not installed.
        TypeError: the model or the optimizer is none, as where they have changed places; a sink is no function of one
            argument.
        ValueError: there is nothing to do, or an argument is out of range. When the trainer starts: the model has no
            cores.

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
        *,
        scaler: torch.amp.GradScaler | None = None,
        tolerance: float = 2.0,
        floor: float = 0.05,
        every: int | Literal["auto"] | None = "auto",
        monitor_every: int | None = 100,
        sinks: Iterable[Sink] = (),
    ) -> None:
        check_model(model)
        if every is not None:
            check_optimizer(optimizer)
        self._watch = Watch(tolerance=tolerance, floor=floor, every=every, monitor_every=monitor_every, sinks=sinks)
        self._model = model
        self._optimizer = optimizer
        self._scaler = scaler

    def attach(self, engine: Engine) -> Self:
        """Begin and end with this trainer.

        An error in the training is raised, as without the handler, unless another handler of `Events.EXCEPTION_RAISED`
        is there to take it.

        Args:
            engine: the trainer, before it runs.

        Returns:
            The handler itself.
        """
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.COMPLETED | Events.TERMINATE, self._watch.end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)
        return self

    def state_dict(self) -> dict[str, Any]:
        """For ignite's `Checkpoint`."""
        return self._watch.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From ignite's `Checkpoint.load_objects`."""
        self._watch.load_state_dict(state_dict)

    def _begin(self, engine: Engine) -> None:
        under_way = engine.state.iteration > 0
        self._watch.begin(
            self._model, self._optimizer, scaler=self._scaler, main=idist.get_rank() == 0, under_way=under_way
        )

    def _fail(self, engine: Engine, error: BaseException) -> None:
        """End; where only handlers of this class are told of the error, the last raises it, as the engine would."""
        self._watch.end()
        handlers = [handler for handler, *_ in engine._event_handlers[Events.EXCEPTION_RAISED]]
        ours = all(getattr(handler, "__func__", None) is SigmoidCoreHandler._fail for handler in handlers)
        if ours and handlers[-1] == self._fail:
            raise error
