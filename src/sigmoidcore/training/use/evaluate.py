"""What is measured of a network on samples with known targets: `evaluated` measures, `Evaluation` holds and renders."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data import DataError, Kind, Preprocessing, needed
from sigmoidcore.training.runs.network import Network
from sigmoidcore.training.use.predict import outputs_of, probabilities
from sigmoidcore.training.use.scores import Score, class_scores, number_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = 1
"""Version of the JSON."""
DRAWN = 20_000
"""Most samples of which targets and predictions are kept for a figure."""


@dataclass(frozen=True)
class ClassScore:
    """How well one class is recognised.

    Attributes:
        name: of the class.
        samples: that are of it.
        precision: share of the samples said to be of it that are; NaN if none was said to be.
        recall: share of its samples that were recognised; NaN if there are none.
        f1: harmonic mean of both; NaN if there are none and none was said to be.
    """

    name: str
    samples: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Evaluation:
    """A network, measured.

    Attributes:
        run: name of the run's folder.
        data: what it was measured on, in words.
        kind: of the target.
        targets: names of the target columns.
        samples: that it was measured on.
        scores: metrics with their 95 % intervals.
        classes: of each class; of numbers none.
        confusion: rows are true classes, columns predicted ones; of numbers none.
        points: of numbers, some true and predicted ones, [samples, targets] each, for the figure.
        notes: what a user should know of the data.
    """

    run: str
    data: str
    kind: Kind
    targets: tuple[str, ...]
    samples: int
    scores: tuple[Score, ...]
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    points: tuple[np.ndarray, np.ndarray] | None
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> float:
        """The value of a metric, such as "accuracy"."""
        return {score.name: score.value for score in self.scores}[name]

    def __str__(self) -> str:
        """The metrics, one a line."""
        lines = [f"{self.run} on {self.data}, {self.samples:,} samples; in brackets 95 % intervals"]
        width = max(len(score.name) for score in self.scores)
        lines += [f"  {score.name:<{width}}  {shown(score)}  {interval(score)}".rstrip() for score in self.scores]
        return "\n".join(lines)

    def to_json(self) -> str:
        """As JSON; what is not defined is null."""
        content = {
            "format": FORMAT,
            "run": self.run,
            "data": self.data,
            "kind": str(self.kind),
            "targets": list(self.targets),
            "samples": self.samples,
            "level": 0.95,
            "scores": {s.name: {"value": s.value, "low": s.low, "high": s.high} for s in self.scores},
            "classes": [asdict(c) for c in self.classes],
            "confusion": [list(row) for row in self.confusion],
            "notes": list(self.notes),
        }
        return json.dumps(_without_nan(content), allow_nan=False, ensure_ascii=False, indent=1)

    def with_notes(self, notes: tuple[str, ...]) -> Self:
        """The same with something to say of the data."""
        return replace(self, notes=notes)

    def frame(self) -> Any:
        """The metrics as a pandas.DataFrame with the columns value, low and high."""
        rows = {s.name: {"value": s.value, "low": s.low, "high": s.high} for s in self.scores}
        return needed("pandas", "pandas").DataFrame.from_dict(rows, orient="index")

    def figure(self) -> "Figure":
        """The confusion matrix; of numbers, what was predicted against what was true.

        Raises:
            ModuleNotFoundError: matplotlib is not installed (extra `plots`).
        """
        from sigmoidcore.training.use import evaluation_plots

        return evaluation_plots.confusion(self) if self.kind.is_class else evaluation_plots.against(self)


def evaluated(
    run: str, data: str, network: Network, preprocessing: Preprocessing, batches: Iterable[tuple[Tensor, Tensor]]
) -> Evaluation:
    """Measure a network.

    Args:
        run: name of the run.
        data: in words.
        network: of the run.
        preprocessing: of the run.
        batches: inputs as preprocessing makes them, and targets as it encodes them.

    Raises:
        DataError: there are no samples, or an output is not finite.
    """
    target = preprocessing.target
    outputs, targets, first = [], [], 0
    for x, y in batches:
        outputs.append(outputs_of(network, x, first))
        targets.append(y)
        first += len(x)
    if not first:
        raise DataError(f"{data} has no samples: give data with some")
    together, known = torch.cat(outputs), torch.cat(targets)
    if target.kind.is_class:
        likely, numbers = probabilities(together), known.numpy()
        table = _confusion(likely.argmax(1), numbers, len(target.classes))
        return Evaluation(
            run, data, target.kind, target.names, first, class_scores(likely, numbers),
            _of_classes(target.classes, table), tuple(tuple(int(n) for n in row) for row in table), None, (),
        )  # fmt: skip
    predicted, true = target.decoded(together), target.decoded(known)
    several = len(target.names) > 1
    scores = [
        score
        for place, name in enumerate(target.names)
        for score in number_scores(predicted[:, place], true[:, place], name if several else "")
    ]
    points = true[:DRAWN], predicted[:DRAWN]
    return Evaluation(run, data, target.kind, target.names, first, tuple(scores), (), (), points, ())


def shown(score: Score) -> str:
    """A metric's value as text."""
    return _number(score.value, score.percent)


def interval(score: Score) -> str:
    """A metric's interval as text; nothing where there is none."""
    if not math.isfinite(score.low):
        return ""
    low, high = (_number(end, score.percent) for end in (score.low, score.high))
    return f"[{low}, {high}]"


def _number(value: float, percent: bool) -> str:
    if not math.isfinite(value):
        return "undefined"
    return f"{100 * value:.1f} %" if percent else f"{value:.4g}"


def _confusion(guesses: np.ndarray, targets: np.ndarray, classes: int) -> np.ndarray:
    metrics = needed("sklearn.metrics", "scikit-learn")
    return np.asarray(metrics.confusion_matrix(targets, guesses, labels=np.arange(classes)))


def _of_classes(names: tuple[str, ...], table: np.ndarray) -> tuple[ClassScore, ...]:
    right, true, said = table.diagonal(), table.sum(1), table.sum(0)
    return tuple(
        ClassScore(name, int(t), _share(r, s), _share(r, t), _share(2 * r, s + t))
        for name, r, t, s in zip(names, right, true, said, strict=True)
    )


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else math.nan


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value
