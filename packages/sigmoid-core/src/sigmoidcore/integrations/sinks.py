"""Sinks: functions that a `Monitor` calls with every `Measurement` and an `Equalizer` with every `Sample`.

Any function of one argument is a sink; docs/integrations.md has some for TensorBoard, Weights & Biases and MLflow.
"""

import csv
import math
import statistics
from collections.abc import Callable
from pathlib import Path

from sigmoidcore.equalizer.sample import Sample
from unstuck.measure.measurement import Measurement

__all__ = ["CSV", "SCALARS", "Sink", "scalars"]

Sink = Callable[[Measurement | Sample], object]
"""A function of one argument: a `Measurement` of a `Monitor` or a `Sample` of an `Equalizer`."""

SCALARS = {
    "spread": "largest over smallest gradient size of the layers with weights",
    "smallest_gradient": "smallest gradient size of the layers with weights",
    "largest_gradient": "largest gradient size of the layers with weights",
    "saturated": "largest fraction of saturated neurons in an activation",
    "dead": "largest fraction of dead neurons in an activation",
    "smallest_sample_spread": "smallest spread of a layer's outputs over the samples; 0 if all samples are alike",
    "update": "median over the parameters of the size of the step's change over the size of the parameter",
    "not_finite": "number of values that are not finite, in outputs, gradients and parameters",
    "equalizer_spread": "largest over smallest gradient size of the cores",
    "slopes_changed": "number of layers whose slope the Equalizer changed",
    "neurons_opened": "number of saturated neurons that the Equalizer opened",
}
"""The names that `scalars` returns, and their meaning; the last three belong to an `Equalizer`."""


def scalars(sample: Measurement | Sample) -> dict[str, float]:
    """The numbers of a sample, by their names in `SCALARS`; unknown values are left out.

    Example:
        >>> scalars(Sample(step=3, spread=1.5, log_sizes=(0.0, 0.4), slopes=1, neurons=0))
        {'equalizer_spread': 1.5, 'slopes_changed': 1, 'neurons_opened': 0}
    """
    if isinstance(sample, Sample):
        return {"equalizer_spread": sample.spread, "slopes_changed": sample.slopes, "neurons_opened": sample.neurons}
    numbers: dict[str, float] = {}
    profile, layers, weights = sample.profile, sample.layers, sample.weights
    if profile.names:
        smallest, largest = float(profile.sizes.min()), float(profile.sizes.max())
        numbers = {"spread": profile.spread, "smallest_gradient": smallest, "largest_gradient": largest}
    for name, summarise, values in (
        ("saturated", max, [layer.saturated for layer in layers]),
        ("dead", max, [layer.dead for layer in layers]),
        ("smallest_sample_spread", min, [layer.spread for layer in layers]),
        ("update", statistics.median, [weight.update for weight in weights]),
    ):
        known = [value for value in values if value is not None and not math.isnan(value)]
        if known:
            numbers[name] = summarise(known)
    numbers["not_finite"] = sum(layer.nonfinite + layer.nonfinite_gradient for layer in layers)
    numbers["not_finite"] += sum(weight.nonfinite + weight.nonfinite_gradient for weight in weights)
    return numbers


class CSV:
    """Appends `scalars` of every sample to a CSV table: `step`, and a column for each of `SCALARS`.

    A Monitor and an Equalizer write separate rows. After a resume, a step may have two rows: the later one counts.

    Args:
        path: path of the file, which is created at the first sample; its folder must exist.

    Raises:
        OSError: (at the first sample) the file cannot be opened.
        ValueError: (at the first sample) the file has other columns.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = CSV(Path(folder) / "samples.csv")
        ...     table(Sample(step=3, spread=1.5, log_sizes=(0.0, 0.4), slopes=1, neurons=0))
        ...     print((Path(folder) / "samples.csv").read_text().splitlines()[1])
        3,,,,,,,,,1.5,1,0
    """

    COLUMNS = ("step", *SCALARS)

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def __call__(self, sample: Measurement | Sample) -> None:
        """Append a row."""
        with self._path.open("a+", encoding="utf-8", errors="replace", newline="") as file:
            table = csv.DictWriter(file, self.COLUMNS, lineterminator="\n")
            if file.tell() == 0:
                table.writeheader()
            file.seek(0)
            line = file.readline().rstrip("\n")
            if line != ",".join(self.COLUMNS):
                raise ValueError(f"{self._path} is another table, it begins with {line!r:.60}: use another name")
            table.writerow({"step": sample.step, **scalars(sample)})
