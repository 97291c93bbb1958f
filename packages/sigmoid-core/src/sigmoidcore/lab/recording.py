"""Trainings outside the lab, shown while they run: a run of `sigmoid-core train`, and samples of a user's own loop."""

import math
from pathlib import Path
from typing import Any

from sigmoidcore.equalizer.sample import Sample
from sigmoidcore.training.data import DataError, InputError
from sigmoidcore.training.runs.folder import METRICS, contains_run, read_metrics
from sigmoidcore.training.runs.metrics import append
from unstuck.measure.measurement import Measurement

MOST = 64
"""Layers of a sample, as in a run; evenly thinned."""
ROWS = 2_000
"""Rows that a page gets at once; of a long run the latest."""


class Recorder:
    """A sink that writes the samples of a `Monitor` or an `Equalizer` into a file, which the lab shows.

    Args:
        path: path of the file, in the format of a run's metrics.jsonl; rows are appended.

    Raises:
        OSError: (at a sample) the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     recorder = Recorder(Path(folder) / "samples.jsonl")
        ...     recorder(Sample(step=3, spread=1.5, log_sizes=(0.0, 0.4), slopes=1, neurons=0))
        ...     print((Path(folder) / "samples.jsonl").read_text().strip())
        {"kind": "sample", "step": 3, "log_sizes": [0.0, 0.4], "loss": null}
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def __call__(self, sample: Measurement | Sample) -> None:
        """Append a row."""
        if isinstance(sample, Sample):
            sizes, loss = list(sample.log_sizes), None
        else:
            found = sample.profile.sizes.log().tolist()
            sizes, loss = [round(size, 4) for size in found[:: max(1, math.ceil(len(found) / MOST))]], sample.loss
        append(self._path, "sample", step=sample.step or 0, log_sizes=sizes, loss=loss)


class Recording:
    """A run's folder or a `Recorder`'s file, which another process may still write, as messages for a page."""

    def __init__(self, source: Path) -> None:
        if not (contains_run(source) if source.is_dir() else source.is_file()):
            raise InputError(
                "{source} is neither the folder of a run nor a file of samples: `sigmoid-core runs` lists runs",
                source=source,
            )
        self.name = source.resolve().name
        self._path = source / METRICS if source.is_dir() else source
        self._size = self._read = -1
        self._layers = 0

    def news(self) -> list[dict[str, Any]]:
        """What was written since the last call; DataError if the file is damaged."""
        size = self._path.stat().st_size if self._path.exists() else 0
        if size == self._size:
            return []
        self._size = size
        try:
            rows = read_metrics(self._path) if size else []
            shown = [_shown(row) for row in rows if row["kind"] in ("sample", "epoch")]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("{path} is damaged: {error}", path=self._path, error=error) from error
        layers = next((len(row["sizes"]) for row in reversed(shown) if row["sizes"] is not None), 0)
        messages: list[dict[str, Any]] = []
        if self._read < 0 or layers != self._layers or len(shown) < self._read:  # it begins, or began again
            metric = next((str(row["metric"]) for row in rows if row["kind"] == "data"), "accuracy")
            described = {"name": self.name, "layers": layers, "networks": [{"layers": layers}], "metric": metric}
            messages.append({"kind": "recording", "recorded": True, **described})
            self._layers, self._read = layers, 0
        fresh = [row for row in shown[self._read :] if row["sizes"] is None or len(row["sizes"]) == layers]
        self._read = len(shown)
        return [*messages, {"kind": "rows", "rows": fresh[-ROWS:]}] if fresh else messages


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row for the page: sizes as powers of 10; what is unknown or not finite is null."""
    logs = row.get("log_sizes")
    return {
        "step": int(row["step"]),
        "sizes": None if logs is None else [_finite(float(log) / math.log(10)) for log in logs],
        "loss": _finite(row.get("loss")),
        "score": _finite(row.get("accuracy")),
    }


def _finite(value: float | None) -> float | None:
    return round(value, 4) if value is not None and math.isfinite(value) else None
