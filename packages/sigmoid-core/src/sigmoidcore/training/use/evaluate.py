"""The evaluation of a network on samples with known targets: `evaluate_network` makes an `Evaluation`."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data import DataError, Kind, Preprocessing, needed, uneven
from sigmoidcore.training.networks import Network
from sigmoidcore.training.use.predict import outputs_of, probabilities
from sigmoidcore.training.use.scores import LEVEL, ClassScore, Score, always, class_scores, number_scores, verdicts
from unstuck.language import _, english
from unstuck.language.terminal import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT, IN_FIGURE = 1, 20_000
"""Version of the JSON; most samples in a figure."""


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a network."""

    run: str  # name of the run's folder
    data: str  # the data in words
    kind: Kind  # of the target
    targets: tuple[str, ...]  # names of the target columns
    samples: int  # number of samples
    scores: tuple[Score, ...]  # metrics with their 95 % intervals
    notes: tuple[str, ...]  # what the user should know of the data
    classes: tuple[ClassScore, ...] = ()  # of each class; empty for numbers
    confusion: tuple[tuple[int, ...], ...] = ()  # rows are true classes, columns predicted ones; empty for numbers
    points: tuple[np.ndarray, np.ndarray] | None = None  # for numbers: true and predicted, [samples, targets] each
    verdicts: tuple[str, ...] = ()  # sentences about scores that are no success

    def __getitem__(self, name: str) -> float:
        return {score.name: score.value for score in self.scores}[name]

    def __str__(self) -> str:
        width = max(len(score.name) for score in self.scores)
        lines = [f"  {score.name:<{width}}  {score}" for score in self.scores]
        where = {"run": self.run, "data": self.data, "samples": self.samples}
        head = _("{run} on {data}, {samples:,} samples; in brackets 95 % intervals", **where)
        return "\n".join([head, *lines, *(f"  {sentence}" for sentence in self.verdicts)])

    @property
    def always(self) -> str:
        """The constant answer that the scores are compared with, in words."""
        return always(self.classes)

    @property
    def uneven(self) -> bool:
        """Whether a class has less than half of the samples that it would have among equal classes."""
        return uneven([c.samples for c in self.classes])

    def to_json(self) -> str:
        """As JSON, in English; an undefined number is null."""
        content = asdict(self) | {
            "format": FORMAT,
            "level": LEVEL,
            "scores": {score.name: {k: v for k, v in vars(score).items() if k != "name"} for score in self.scores},
        }
        del content["points"]
        return json.dumps(_without_nan(content), allow_nan=False, ensure_ascii=False, indent=1)

    def figure(self) -> "Figure":
        """The confusion matrix; for numbers, predictions against true values.

        Raises:
            ModuleNotFoundError: matplotlib is not installed (extra `plots`).
        """
        from sigmoidcore import plots

        if self.points is None:
            names = [printable(c.name) for c in self.classes]
            return plots.confusion_matrix(np.array(self.confusion), names, f"accuracy {self.scores[0]}")
        titles = [f"R2 {score}" for score in self.scores[2::3]]
        return plots.predicted_against_true(*self.points, [printable(name) for name in self.targets], titles)


def evaluate_network(
    run: str, data: str, network: Network, preprocessing: Preprocessing, batches: Iterable[tuple[Tensor, Tensor]],
    notes: tuple[str, ...] = (), training: float | None = None,
) -> Evaluation:  # fmt: skip
    """Evaluate a network; `training` is its accuracy, or R2, on training samples."""
    target = preprocessing.target
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    samples = 0
    for x, y in batches:
        outputs.append(outputs_of(network, x, samples))
        targets.append(y)
        samples += len(x)
    if not samples:
        raise DataError("{data} has no samples: give data with some", data=data)
    found, true = torch.cat(outputs), torch.cat(targets)
    described = (run, data, target.kind, target.names, samples)
    if target.kind.is_class:
        likely, numbers = probabilities(found), true.numpy()
        metrics = needed("sklearn.metrics", "scikit-learn")
        compared = {"y_true": numbers, "y_pred": likely.argmax(1), "labels": np.arange(len(target.classes))}
        confusion = tuple(map(tuple, metrics.confusion_matrix(**compared).tolist()))
        precision, recall, f1, count = metrics.precision_recall_fscore_support(**compared, zero_division=np.nan)
        of_classes = zip(target.classes, count.tolist(), precision.tolist(), recall.tolist(), f1.tolist(), strict=True)
        classes = tuple(ClassScore(*values) for values in of_classes)
        scores = class_scores(likely, numbers)
        said = verdicts(scores, classes, training)
        return Evaluation(*described, scores, notes, classes, confusion, verdicts=said)
    predicted, known = target.decoded(found), target.decoded(true)
    names = target.names if len(target.names) > 1 else ("",)
    scores = sum((number_scores(p, k, name) for p, k, name in zip(predicted.T, known.T, names, strict=True)), ())
    points = known[:IN_FIGURE], predicted[:IN_FIGURE]
    return Evaluation(*described, scores, notes, points=points, verdicts=verdicts(scores, (), training))


def _without_nan(value: Any) -> Any:
    if isinstance(value, str):
        return english(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return [_without_nan(item) for item in value] if isinstance(value, list | tuple) else value
