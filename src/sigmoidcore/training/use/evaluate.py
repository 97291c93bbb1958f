"""The evaluation of a network on samples with known targets: `evaluate_network` makes an `Evaluation`."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data import DataError, Kind, Preprocessing, needed
from sigmoidcore.training.networks import Network
from sigmoidcore.training.use.predict import outputs_of, probabilities
from sigmoidcore.training.use.scores import Score, class_scores, number_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = 1
"""Version of the JSON."""
IN_FIGURE = 20_000
"""Most samples in a figure."""


@dataclass(frozen=True)
class ClassScore:
    """How well a class is recognised."""

    name: str  # of the class
    samples: int  # of this class
    precision: float  # share of the predictions of this class that are correct; NaN without predictions
    recall: float  # share of its samples that were recognised; NaN without samples
    f1: float  # harmonic mean of both; NaN without samples and predictions


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a network.

    Attributes:
        run: name of the run's folder.
        data: the data in words.
        kind: of the target.
        targets: names of the target columns.
        samples: number of samples.
        scores: metrics with their 95 % intervals.
        classes: of each class; empty for numbers.
        confusion: rows are true classes, columns predicted ones; empty for numbers.
        points: for numbers, some true and predicted values, [samples, targets] each, for the figure.
        notes: what the user should know of the data.
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
        """The metrics, one per line."""
        lines = [f"{self.run} on {self.data}, {self.samples:,} samples; in brackets 95 % intervals"]
        width = max(len(score.name) for score in self.scores)
        lines += [f"  {score.name:<{width}}  {with_interval(score)}" for score in self.scores]
        return "\n".join(lines)

    def to_json(self) -> str:
        """As JSON; an undefined number is null."""
        content = {
            "format": FORMAT, "run": self.run, "data": self.data, "kind": str(self.kind),
            "targets": list(self.targets), "samples": self.samples, "level": 0.95,
            "scores": {s.name: {"value": s.value, "low": s.low, "high": s.high} for s in self.scores},
            "classes": [asdict(c) for c in self.classes],
            "confusion": [list(row) for row in self.confusion], "notes": list(self.notes),
        }  # fmt: skip
        return json.dumps(_without_nan(content), allow_nan=False, ensure_ascii=False, indent=1)

    def frame(self) -> Any:
        """The metrics as a pandas.DataFrame with the columns value, low and high."""
        rows = {s.name: {"value": s.value, "low": s.low, "high": s.high} for s in self.scores}
        return needed("pandas", "pandas").DataFrame.from_dict(rows, orient="index")

    def figure(self) -> "Figure":
        """The confusion matrix; for numbers, predictions against true values.

        Raises:
            ModuleNotFoundError: matplotlib is not installed (extra `plots`).
        """
        from sigmoidcore.training.use import figures

        if self.points is None:
            title = f"accuracy {with_interval(self.scores[0])}"
            return figures.confusion_matrix(np.array(self.confusion), [c.name for c in self.classes], title)
        titles = [f"R2 {with_interval(score)}" for score in self.scores[2::3]]
        return figures.predicted_against_true(*self.points, self.targets, titles)


def evaluate_network(
    run: str, data: str, network: Network, preprocessing: Preprocessing, batches: Iterable[tuple[Tensor, Tensor]],
    notes: tuple[str, ...] = (),
) -> Evaluation:  # fmt: skip
    """Evaluate a network."""
    target = preprocessing.target
    outputs, targets, samples = [], [], 0
    for x, y in batches:
        outputs.append(outputs_of(network, x, samples))
        targets.append(y)
        samples += len(x)
    if not samples:
        raise DataError(f"{data} has no samples: give data with some")
    found, true = torch.cat(outputs), torch.cat(targets)
    if target.kind.is_class:
        likely, numbers = probabilities(found), true.numpy()
        metrics = needed("sklearn.metrics", "scikit-learn")
        labels = np.arange(len(target.classes))
        table = np.asarray(metrics.confusion_matrix(numbers, likely.argmax(1), labels=labels))
        scores, classes = class_scores(likely, numbers), _class_scores(target.classes, table)
        confusion = tuple(tuple(int(n) for n in row) for row in table)
        return Evaluation(run, data, target.kind, target.names, samples, scores, classes, confusion, None, notes)
    predicted, known = target.decoded(found), target.decoded(true)
    scores = ()
    for column, name in enumerate(target.names):
        scores += number_scores(predicted[:, column], known[:, column], name if len(target.names) > 1 else "")
    points = known[:IN_FIGURE], predicted[:IN_FIGURE]
    return Evaluation(run, data, target.kind, target.names, samples, scores, (), (), points, notes)


def value_text(score: Score) -> str:
    """A metric's value as text."""
    return _number(score.value, score.percent)


def interval_text(score: Score) -> str:
    """A metric's interval as text, or nothing."""
    if not math.isfinite(score.low):
        return ""
    return f"[{_number(score.low, score.percent)}, {_number(score.high, score.percent)}]"


def with_interval(score: Score) -> str:
    """A metric's value and interval as text."""
    return f"{value_text(score)}  {interval_text(score)}".rstrip()


def _number(value: float, percent: bool) -> str:
    if not math.isfinite(value):
        return "undefined"
    return f"{100 * value:.1f} %" if percent else f"{value:.4g}"


def _class_scores(names: tuple[str, ...], table: np.ndarray) -> tuple[ClassScore, ...]:
    def share(part: int, total: int) -> float:
        return float(part / total) if total else math.nan

    correct, true, predicted = table.diagonal(), table.sum(1), table.sum(0)
    return tuple(
        ClassScore(name, int(t), share(c, p), share(c, t), share(2 * c, p + t))
        for name, c, t, p in zip(names, correct, true, predicted, strict=True)
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list) else value
