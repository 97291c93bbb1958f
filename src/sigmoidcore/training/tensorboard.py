"""What `sigmoid-core train --tensorboard` writes for TensorBoard: a few numbers over the steps."""

import importlib.util
import time
from pathlib import Path

from sigmoidcore.training.loop import Progress
from sigmoidcore.training.runs.session import bad_input

FOLDER = "tensorboard"
"""In a run's folder."""


def check() -> None:
    """Refuse where TensorBoard is not installed.

    Raises:
        Stopped: with code 2.
    """
    if not _is_installed():
        raise bad_input(
            'TensorBoard is not installed: pip install "sigmoid-core[tensorboard]", or leave --tensorboard out'
        )


def _is_installed() -> bool:
    return importlib.util.find_spec("tensorboard") is not None


class Board:
    """Writes the numbers of a run.

    Args:
        folder: of the run.
        step: from which it goes on; what was written for later ones is not shown any more.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=step + 1 if step else None)
        self._opened = 0
        self._last: tuple[float, int] | None = None

    def add(self, progress: Progress) -> None:
        """The numbers after a step: the loss at every one, the others where they are known."""
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
        """Write what is left."""
        self._writer.close()
