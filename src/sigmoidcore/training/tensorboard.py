"""TensorBoard logs of a run, for `sigmoid-core train --tensorboard`."""

import time
from pathlib import Path

from sigmoidcore.training.loop import Progress

FOLDER = "tensorboard"
"""In a run's folder."""


class Board:
    """Writes the metrics of a run; when it resumes from a step, values of later steps are hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / FOLDER), purge_step=step + 1 if step else None)
        self._opened = 0
        self._last: tuple[float, int] | None = None

    def add(self, progress: Progress) -> None:
        """Write the values after a step: the loss, and the others if they are known."""
        step, write, sample = progress.step, self._writer.add_scalar, progress.sample
        write("loss/step", float(progress.loss), step)
        if sample is not None:
            self._opened += sample.neurons
            write("gradient/spread", sample.spread, step)
            write("gradient/slopes changed", sample.slopes, step)
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
