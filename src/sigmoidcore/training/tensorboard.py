"""TensorBoard logs of a run, for `sigmoid-core train --tensorboard`."""

import importlib.util
import time
from pathlib import Path

from sigmoidcore.training.loop import Progress
from sigmoidcore.training.session import bad_input

FOLDER = "tensorboard"
"""In a run's folder."""


def check_installed() -> None:
    """Refuse if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise bad_input(
            'TensorBoard is not installed: pip install "sigmoid-core[tensorboard]", or leave --tensorboard out'
        )


class Board:
    """Writes the metrics of a run.

    Args:
        folder: of the run.
        step: from which the run resumes; values of later steps are hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=step + 1 if step else None)
        self._opened = 0
        self._last: tuple[float, int] | None = None

    def add(self, progress: Progress) -> None:
        """Write the values after a step: the loss, and the others if they are known."""
        step, write = progress.step, self._writer.add_scalar
        write("loss/step", float(progress.loss), step)
        history = progress.equalizer.history if progress.equalizer is not None else ()
        if history and history[-1].step == step - 1:
            self._opened += history[-1].neurons
            write("gradient/spread", history[-1].spread, step)
            write("gradient/slopes changed", history[-1].slopes, step)
            write("gradient/saturated neurons opened", self._opened, step)
        if progress.accuracy is not None and progress.epoch_loss is not None:
            write("loss/epoch", progress.epoch_loss, step)
            write("test metric", progress.accuracy, step)
            now = time.monotonic()
            if self._last is not None:
                write("steps per second", (step - self._last[1]) / max(1e-9, now - self._last[0]), step)
            self._last = now, step
            self._writer.flush()

    def close(self) -> None:
        """Write the rest."""
        self._writer.close()
