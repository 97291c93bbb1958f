"""Sinks: functions that a `Monitor` calls with every `Measurement` and an `Equalizer` with every `Sample`.

Any function of one argument is a sink. Those below write `scalars`, and trackers a `picture`, too.
"""

import json
import math
import os
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.equalizer.equalizer import Sample
from sigmoidcore.integrations.summary import SCALARS, Sink, picture, scalars

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["CSV", "JSONL", "SCALARS", "MLflow", "Sink", "TensorBoard", "WandB", "picture", "scalars"]

PICTURE_STEPS = 100
"""Least number of steps between two pictures of an Equalizer's samples."""


class _Tracker(ABC):
    """Names the numbers and the picture of a sample for an experiment tracker."""

    def __init__(self, prefix: str, pictures: bool) -> None:
        if pictures:  # a missing matplotlib is an error now, not in the middle of a training
            import sigmoidcore.diagnosis.report.figures  # noqa: F401
        self._prefix = prefix
        self._pictures = pictures
        self._latest = math.inf
        """The step of the latest picture of an Equalizer's samples."""

    def __call__(self, sample: Measurement | Sample) -> None:
        """Write the sample."""
        assert sample.step is not None
        numbers = {f"{self._prefix}/{name}": float(value) for name, value in scalars(sample).items()}
        images = {}
        if self._pictures and isinstance(sample, Measurement):
            images[f"{self._prefix}/layers"] = picture(sample)
        # A step before the latest belongs to a training that was restarted or resumed.
        elif self._pictures and not self._latest < sample.step < self._latest + PICTURE_STEPS:
            self._latest = sample.step
            images[f"{self._prefix}/cores"] = picture(sample)
        self._write(sample.step, numbers, images)

    @abstractmethod
    def _write(self, step: int, numbers: dict[str, float], images: dict[str, Any]) -> None: ...


class TensorBoard(_Tracker):
    """Writes `scalars` and a `picture` of every sample to TensorBoard.

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter`, or an object with its `add_scalar` and `add_image`; in
            Lightning `logger.experiment`.
        prefix: prefix of the tags; use another one for each model.
        pictures: whether to draw every measurement (0.2 s), and the Equalizer's samples every 100 steps.

    Raises:
        ImportError: the tracker is missing, or matplotlib (extra `plots`) with `pictures`.

    Example:
        >>> from unittest.mock import Mock
        >>> writer = Mock()
        >>> TensorBoard(writer)(Sample(step=3, spread=1.5, log_sizes=(0.0, 0.4), slopes=1, neurons=0))
        >>> writer.add_scalar.call_args_list[0]
        call('sigmoidcore/equalizer_spread', 1.5, 3)
    """

    def __init__(self, writer: "SummaryWriter", *, prefix: str = "sigmoidcore", pictures: bool = True) -> None:
        super().__init__(prefix, pictures)
        self._writer = writer

    def _write(self, step: int, numbers: dict[str, float], images: dict[str, Any]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        for name, image in images.items():
            self._writer.add_image(name, image, step, dataformats="HWC")


class WandB(_Tracker):
    """Logs `scalars` and a `picture` of every sample to a run of Weights & Biases.

    They have their own step, `sigmoidcore/step`. Log your values without `step=`: W&B drops values of past steps.

    `run` is the result of `wandb.init()`; in Lightning `logger.experiment`. Other arguments and errors: see
    `TensorBoard`.
    """

    def __init__(self, run: Any, *, prefix: str = "sigmoidcore", pictures: bool = True) -> None:
        super().__init__(prefix, pictures)
        import wandb

        self._image = wandb.Image
        self._run = run
        run.define_metric(f"{prefix}/step", hidden=True)
        run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step")

    def _write(self, step: int, numbers: dict[str, float], images: dict[str, Any]) -> None:
        drawn = {name: self._image(image) for name, image in images.items()}
        self._run.log({f"{self._prefix}/step": step, **numbers, **drawn})


class MLflow(_Tracker):
    """Logs `scalars` and a `picture` of every sample to a run of MLflow.

    `run_id` is the `info.run_id` of the run; without it a run must be active. Other arguments and errors: see
    `TensorBoard`.
    """

    def __init__(self, run_id: str | None = None, *, prefix: str = "sigmoidcore", pictures: bool = True) -> None:
        super().__init__(prefix, pictures)
        import mlflow

        active = mlflow.active_run()
        if run_id is None and active is None:
            raise ValueError("no run of MLflow is active: use it inside mlflow.start_run(), or give a run_id")
        self._run_id: str = run_id or active.info.run_id
        self._mlflow = mlflow
        self._client = mlflow.MlflowClient()

    def _write(self, step: int, numbers: dict[str, float], images: dict[str, Any]) -> None:
        self._mlflow.log_metrics(numbers, step=step, run_id=self._run_id)
        for name, image in images.items():
            self._client.log_image(self._run_id, image, key=name, step=step)


class _LineFile(ABC):
    """Appends a line for every sample to a file, which is open only meanwhile."""

    _begin: str
    """The beginning of the first line."""
    _header = ""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._repaired = False

    def __call__(self, sample: Measurement | Sample) -> None:
        """Append a line."""
        if not self._repaired:
            self._repair()
            self._repaired = True
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write((self._header if file.tell() == 0 else "") + self._line(sample) + "\n")

    @abstractmethod
    def _line(self, sample: Measurement | Sample) -> str: ...

    def _repair(self) -> None:
        """Check the first line, and remove an incomplete last line: the next would become a part of it."""
        data, begin = self._path.read_bytes() if self._path.exists() else b"", self._begin.encode()
        if not (data.startswith(begin) or begin.startswith(data)):
            text, kind = data[:60].decode(errors="replace"), type(self).__name__
            raise ValueError(f"{self._path} is not a file of {kind}, it begins with {text!r}: use another name")
        complete = data.rfind(b"\n") + 1
        if complete < len(data):
            os.truncate(self._path, complete)
            text = data[complete:][:100].decode(errors="replace")
            warnings.warn(f"{self._path}: removed the incomplete last line {text!r}", RuntimeWarning, stacklevel=3)


class CSV(_LineFile):
    """Appends `scalars` of every sample to a CSV table: `step`, and a column for each of `SCALARS`.

    A Monitor and an Equalizer write separate rows, each with its own columns. A resumed training writes some steps
    again; the later row counts.

    Args:
        path: path of the file, which is created at the first sample; its folder must exist.

    Raises:
        OSError: (at the first sample) the file cannot be opened.
        ValueError: (at the first sample) the file has other columns.

    Warns:
        RuntimeWarning: (at the first sample) a killed process has left an incomplete last line, which is removed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = CSV(Path(folder) / "samples.csv")
        ...     table(Sample(step=3, spread=1.5, log_sizes=(0.0, 0.4), slopes=1, neurons=0))
        ...     print((Path(folder) / "samples.csv").read_text().splitlines()[1])
        3,,,,,,,,,1.5,1,0
    """

    COLUMNS = ("step", *SCALARS)
    _begin = _header = ",".join(COLUMNS) + "\n"

    def _line(self, sample: Measurement | Sample) -> str:
        row = {"step": sample.step, **scalars(sample)}
        return ",".join(str(row.get(name, "")) for name in self.COLUMNS)


class JSONL(_LineFile):
    """Appends every sample to a file with one JSON object a line; arguments and errors are those of `CSV`.

    The keys are `kind` ("measurement" or "equalizer"), `step` and the names of `SCALARS`; for a measurement also
    `layers` and `gradients`, the gradient size of every layer; for the Equalizer `log_sizes`. Numbers that are not
    finite are "inf", "-inf" and "nan".
    """

    _begin = '{"kind": "'

    def _line(self, sample: Measurement | Sample) -> str:
        row: dict[str, Any] = {"kind": "equalizer", "step": sample.step, **scalars(sample)}
        if isinstance(sample, Sample):
            row["log_sizes"] = sample.log_sizes
        else:
            row["kind"] = "measurement"
            row["layers"] = [layer.name for layer in sample.layers]
            row["gradients"] = [layer.gradient for layer in sample.layers]
        return json.dumps({name: _finite(value) for name, value in row.items()}, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
