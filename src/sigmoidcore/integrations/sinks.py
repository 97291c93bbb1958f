"""Sinks: where the samples of a `Monitor` and an `Equalizer` go while a model trains.

A sink is any function of one argument: a `Monitor` calls it with every `Measurement`, an `Equalizer` with every
`Sample`. Those below write a few numbers of it, and one picture, whatever the number of layers.
"""

import csv
import json
import math
import os
import statistics
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sigmoidcore._files import Closing, open_no_link
from sigmoidcore.diagnosis.diagnosis import Diagnosis
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement
from sigmoidcore.diagnosis.report.wording import short
from sigmoidcore.equalizer.checks import described
from sigmoidcore.equalizer.equalizer import Sample
from sigmoidcore.integrations.line_files import drop_unfinished_line, unfinished_line
from sigmoidcore.integrations.requirements import missing
from sigmoidcore.training.runs.metrics import Metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["CSV", "JSONL", "SCALARS", "MLflow", "Sink", "TensorBoard", "WandB", "picture", "scalars"]

Sink = Callable[[Measurement | Sample], object]
"""A function of one argument, what a `Monitor` or an `Equalizer` saw; what it returns is not used."""

SCALARS = {
    "spread": "of the gradient profile",
    "smallest_gradient": "of the layers with weights",
    "largest_gradient": "of the layers with weights",
    "saturated": "largest share of saturated neurons in an activation",
    "dead": "largest share of dead neurons in an activation",
    "smallest_sample_spread": "across the samples: 0 where all have become one point",
    "update": "median over the parameters of the step's change, over their size",
    "not_finite": "numbers that are not finite, in outputs, gradients and parameters",
    "equalizer_spread": "of the gradient profile of the cores",
    "slopes_changed": "layers whose slope the Equalizer changed",
    "neurons_opened": "saturated neurons that the Equalizer opened",
}
"""All names that `scalars` gives; the last three are of an `Equalizer`."""

PICTURED = 100
"""Steps at least between two pictures of an Equalizer's samples: it may look at every step, and a picture is slower."""

_BEGIN = b'{"kind": "'
"""Of every line of a `JSONL`, also of one that was cut off."""


def scalars(sample: Measurement | Sample) -> dict[str, float]:
    """The numbers that a sink writes, by their names in `SCALARS`; those that are not known are left out.

    Args:
        sample: of a `Monitor` or an `Equalizer`.

    Returns:
        A number for each, as `SCALARS` says; nan or inf where gradients are not finite.

    Example:
        >>> scalars(Sample(step=3, spread=1.5, log_sizes=(0.0, 0.4), slopes=1, neurons=0))
        {'equalizer_spread': 1.5, 'slopes_changed': 1, 'neurons_opened': 0}
    """
    if isinstance(sample, Sample):
        return {"equalizer_spread": sample.spread, "slopes_changed": sample.slopes, "neurons_opened": sample.neurons}
    found: dict[str, float] = {}
    profile = sample.profile
    if profile.names:
        found["spread"] = profile.spread
        found["smallest_gradient"], found["largest_gradient"] = float(profile.sizes.min()), float(profile.sizes.max())
    layers = sample.layers
    for name, choose, values in (
        ("saturated", max, [layer.saturated for layer in layers]),
        ("dead", max, [layer.dead for layer in layers]),
        ("smallest_sample_spread", min, [layer.spread for layer in layers]),
        ("update", statistics.median, [weight.update for weight in sample.weights]),
    ):
        known = [value for value in values if value is not None and not math.isnan(value)]
        if known:
            found[name] = choose(known)
    found["not_finite"] = sum(layer.nonfinite + layer.nonfinite_gradient for layer in layers)
    found["not_finite"] += sum(weight.nonfinite + weight.nonfinite_gradient for weight in sample.weights)
    return found


def picture(sample: Measurement | Sample) -> NDArray[np.uint8]:
    """The gradient profile over depth; of a measurement also the saturation and the outputs, as in `Diagnosis.plot`.

    Args:
        sample: of a `Monitor` or an `Equalizer`, or the attribute `measurement` of a `Diagnosis`.

    Returns:
        Red, green and blue, shape [height, 900, 3], uint8; the height follows what there is to draw.

    Raises:
        ImportError: matplotlib is missing (extra `plots`).

    Example:
        >>> import sigmoidcore as sc
        >>> import torch
        >>> measurement = sc.diagnose(sc.MLP(8, 16, 3, 2), torch.randn(50, 8)).measurement
        >>> picture(measurement).shape[1:], picture(measurement).dtype
        ((900, 3), dtype('uint8'))
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from sigmoidcore.diagnosis.report.plots import overview

    figure = _profile(sample) if isinstance(sample, Sample) else overview(Diagnosis(sample, ()))
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _profile(sample: Sample) -> "Figure":
    """What a sample holds of the gradient profile of the cores, drawn as that of the layers in a measurement."""
    from sigmoidcore.diagnosis.report.plots import profile
    from sigmoidcore.plots.style import style_axes

    sizes = torch.tensor(sample.log_sizes, dtype=torch.float64).exp().tolist()
    cores = (Layer(f"{i}", f"{i}", "SigmoidCore", "weights", gradient=size) for i, size in enumerate(sizes))
    figure = profile(Measurement(tuple(cores), (), samples=0))
    title = f"Gradient profile of the cores, spread {short(sample.spread)}"
    style_axes(figure.axes[0], title, "cores, input to loss (64 of them at most)", "gradient size")
    return figure


class _Pictures:
    """`picture` by the name that a sink gives it: of every measurement; of an Equalizer's sample if one is due.

    Raises:
        ImportError: they are wanted, and matplotlib is missing: now, and not in the middle of a training.
    """

    def __init__(self, wanted: bool) -> None:
        if wanted:
            import sigmoidcore.diagnosis.report.plots  # noqa: F401
        self._wanted = wanted
        self._latest: int | None = None

    def __call__(self, sample: Measurement | Sample) -> dict[str, NDArray[np.uint8]]:
        if not self._wanted:
            return {}
        if isinstance(sample, Measurement):
            return {"layers": picture(sample)}
        # A step before the latest is of a training that has begun anew, or has gone on from a checkpoint.
        if self._latest is not None and self._latest < sample.step < self._latest + PICTURED:
            return {}
        self._latest = sample.step
        return {"cores": picture(sample)}


class TensorBoard:
    """Writes `scalars` of every sample, and a `picture` of it, for the slider of TensorBoard.

    Args:
        writer: a `torch.utils.tensorboard.SummaryWriter("runs")`, or anything else with its `add_scalar` and
            `add_image`; Lightning's is `logger.experiment`.
        prefix: of the tags; another one for each of two models.
        pictures: whether to draw: every measurement, as `layers`, which takes 0.2 s; and an Equalizer's sample in 100
            steps, as `cores`, in half of that.

    Raises:
        ImportError: `pictures`, and matplotlib is missing (extra `plots`).
        TypeError: the writer has no such methods, as a folder's name has not.

    Example:
        >>> from unittest.mock import Mock
        >>> writer = Mock()
        >>> TensorBoard(writer)(Sample(step=3, spread=1.5, log_sizes=(0.0, 0.4), slopes=1, neurons=0))
        >>> writer.add_scalar.call_args_list[0]
        call('sigmoidcore/equalizer_spread', 1.5, 3)
    """

    def __init__(self, writer: "SummaryWriter", *, prefix: str = "sigmoidcore", pictures: bool = True) -> None:
        methods = ("add_scalar", "add_image") if pictures else ("add_scalar",)
        self._writer = _with_methods("TensorBoard", writer, 'torch.utils.tensorboard.SummaryWriter("runs")', *methods)
        self._prefix = prefix
        self._pictures = _Pictures(pictures)

    def __call__(self, sample: Measurement | Sample) -> None:
        """Write it."""
        for name, value in scalars(sample).items():
            self._writer.add_scalar(f"{self._prefix}/{name}", value, sample.step)
        for name, image in self._pictures(sample).items():
            self._writer.add_image(f"{self._prefix}/{name}", image, sample.step, dataformats="HWC")


class WandB:
    """Logs `scalars` of every sample, and a `picture` of it, to a run of Weights & Biases.

    They have a step of their own, `sigmoidcore/step`: log what is yours without `step=`, for W&B drops what is logged
    for a step before the latest.

    Args:
        run: what `wandb.init()` returns; Lightning's is `logger.experiment`.
        prefix: of the keys; another one for each of two models.
        pictures: whether to draw: every measurement, as `layers`, which takes 0.2 s; and an Equalizer's sample in 100
            steps, as `cores`, in half of that.

    Raises:
        ImportError: wandb is missing; or `pictures`, and matplotlib is (extra `plots`).
        TypeError: the run is none.

    Example:
        >>> with wandb.init(project="deep") as run:  # doctest: +SKIP
        ...     WandB(run)(Sample(step=3, spread=1.5, log_sizes=(0.0, 0.4), slopes=1, neurons=0))
        ...     run.summary["sigmoidcore/equalizer_spread"]
        1.5
    """

    def __init__(self, run: Any, *, prefix: str = "sigmoidcore", pictures: bool = True) -> None:
        try:
            import wandb
        except ImportError as error:
            raise missing("sigmoidcore.integrations.sinks.WandB", "wandb") from error
        self._image = wandb.Image
        self._run = _with_methods("WandB", run, "wandb.init()", "define_metric", "log")
        self._prefix = prefix
        self._pictures = _Pictures(pictures)
        run.define_metric(f"{prefix}/step", hidden=True)
        run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/step")

    def __call__(self, sample: Measurement | Sample) -> None:
        """Log it."""
        row: dict[str, Any] = {"step": sample.step, **scalars(sample)}
        for name, image in self._pictures(sample).items():
            row[name] = self._image(image)
        self._run.log({f"{self._prefix}/{name}": value for name, value in row.items()})


class MLflow:
    """Logs `scalars` of every sample, and a `picture` of it, to a run of MLflow.

    Args:
        run_id: `info.run_id` of the run; None: the one that is active.
        prefix: of the names; another one for each of two models.
        pictures: whether to draw: every measurement, as `layers`, which takes 0.2 s; and an Equalizer's sample in 100
            steps, as `cores`, in half of that.

    Raises:
        ImportError: mlflow is missing; or `pictures`, and matplotlib is (extra `plots`).
        TypeError: `run_id` is no text.
        ValueError: no run is active.

    Example:
        >>> with mlflow.start_run() as run:  # doctest: +SKIP
        ...     MLflow()(Sample(step=3, spread=1.5, log_sizes=(0.0, 0.4), slopes=1, neurons=0))
        >>> mlflow.get_run(run.info.run_id).data.metrics["sigmoidcore/equalizer_spread"]  # doctest: +SKIP
        1.5
    """

    def __init__(self, run_id: str | None = None, *, prefix: str = "sigmoidcore", pictures: bool = True) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise missing("sigmoidcore.integrations.sinks.MLflow", "mlflow-skinny", "mlflow") from error
        if not isinstance(run_id, str | None):
            raise TypeError(f"run_id must be the id of a run, as run.info.run_id, got {described(run_id)}")
        active = mlflow.active_run()
        if run_id is None and active is None:
            raise ValueError("no run of MLflow is active: use it inside of mlflow.start_run(), or name a run_id")
        self._run_id: str = run_id or active.info.run_id
        self._mlflow = mlflow
        self._client = mlflow.MlflowClient()
        self._prefix = prefix
        self._pictures = _Pictures(pictures)

    def __call__(self, sample: Measurement | Sample) -> None:
        """Log it."""
        row = {f"{self._prefix}/{name}": float(value) for name, value in scalars(sample).items()}
        self._mlflow.log_metrics(row, step=sample.step, run_id=self._run_id)
        for name, image in self._pictures(sample).items():
            self._client.log_image(self._run_id, image, key=f"{self._prefix}/{name}", step=sample.step)


class CSV(Closing):
    """Appends `scalars` of every sample to a table: `step`, and a column for each of `SCALARS`.

    A Monitor and an Equalizer fill columns of their own, in a row for each. A training that goes on from a checkpoint
    writes the steps after it again: of two rows of a step with the same columns filled the later counts. Every row is
    in the file at once; one that a killed process left unfinished is dropped when the next begins. `with` closes it.

    Args:
        path: of the file, which is made at the first sample; its folder must exist.

    Raises:
        OSError: at the first sample: it cannot be opened.
        ValueError: at the first sample: the file is there and has other columns.

    Warns:
        RuntimeWarning: at the first sample: the last row was cut off, and is dropped.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with CSV(Path(folder) / "samples.csv") as table:
        ...         table(Sample(step=3, spread=1.5, log_sizes=(0.0, 0.4), slopes=1, neurons=0))
        ...     print((Path(folder) / "samples.csv").read_text().splitlines()[1])
        3,,,,,,,,,1.5,1,0
    """

    COLUMNS = ("step", *SCALARS)

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file: TextIOWrapper | None = None

    def __call__(self, sample: Measurement | Sample) -> None:
        """Append a row."""
        if self._file is None:
            self._file = self._opened()
        csv.DictWriter(self._file, self.COLUMNS, lineterminator="\n").writerow({"step": sample.step, **scalars(sample)})
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> TextIOWrapper:
        expected = ",".join(self.COLUMNS) + "\n"
        with self._path.open("a+b") as file:
            file.seek(0)
            header = file.readline()
            if not expected.encode().startswith(header):
                text = header.decode(errors="replace").strip()
                raise ValueError(
                    f"{self._path} has the columns {text[:60]!r}..., not those of a CSV sink: name another file"
                )
            # A last row without an end may have lost a digit, however many columns it has.
            drop_unfinished_line(file, self._path)
            empty = file.seek(0, os.SEEK_END) == 0
        table = self._path.open("a", newline="", encoding="utf-8")
        if empty:
            table.write(expected)
        return table


class JSONL(Closing):
    """Appends every sample to a file of JSON, one object a line, with the gradient size of every layer.

    `scalars` are in it by name, `kind` is "measurement" or "equalizer"; `layers` and `gradients` are lists of a
    measurement, `log_sizes` is one of the Equalizer. Numbers that are not finite are "inf", "-inf" and "nan".
    `sigmoidcore.training.runs.folder.read_metrics` reads it. Of two lines of a step and a `kind` the later counts, for
    a training that goes on from a checkpoint writes the steps after it again. Every line is in the file at once; one
    that a killed process left unfinished is dropped when the next begins. `with` closes it.

    Args:
        path: of the file, which is made at the first sample; its folder must exist.

    Raises:
        OSError: at the first sample: it cannot be opened, or is a link.
        ValueError: at the first sample: the file is there and its first line is no JSON object.

    Warns:
        RuntimeWarning: at the first sample: the last line was cut off, and is dropped.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with JSONL(Path(folder) / "samples.jsonl") as lines:
        ...         lines(Sample(step=3, spread=1.5, log_sizes=(0.0, 0.4), slopes=1, neurons=0))
        ...     row = json.loads((Path(folder) / "samples.jsonl").read_text())
        >>> row["kind"], row["step"], row["log_sizes"]
        ('equalizer', 3, [0.0, 0.4])
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lines: Metrics | None = None

    def __call__(self, sample: Measurement | Sample) -> None:
        """Append a line."""
        if self._lines is None:
            self._lines = self._opened()
        if isinstance(sample, Sample):
            self._lines.log("equalizer", step=sample.step, **scalars(sample), log_sizes=sample.log_sizes)
        else:
            names, gradients = [layer.name for layer in sample.layers], [layer.gradient for layer in sample.layers]
            self._lines.log("measurement", step=sample.step, **scalars(sample), layers=names, gradients=gradients)

    def close(self) -> None:
        """Close the file."""
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def _opened(self) -> Metrics:
        with os.fdopen(open_no_link(self._path, os.O_RDWR | os.O_CREAT), "r+b") as file:
            first = file.readline()
            if not (_is_object(first) or first[: len(_BEGIN)] == _BEGIN[: len(first)]):
                text = first.decode(errors="replace").strip()
                raise ValueError(f"{self._path} begins with {text[:60]!r}, which is no JSON object: name another file")
            if _is_object(unfinished_line(file)):  # a part of an object is none: only its end is missing
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
            drop_unfinished_line(file, self._path)
        return Metrics(self._path)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _with_methods(sink: str, given: Any, example: str, *methods: str) -> Any:
    """What a sink calls; where it has not the methods, the error comes now and not in the middle of a training."""
    lacking = [name for name in methods if not callable(getattr(given, name, None))]
    if lacking or isinstance(given, type):
        having = " and ".join(methods)
        raise TypeError(f"{sink} takes what has {having}, such as {example}, got {described(given)}")
    return given
