"""The target: its kind, its classes or its scale, and the loss and metric that follow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sigmoidcore.training.data.columns import Column, Role, as_texts, describe, is_float, numbers
from sigmoidcore.training.data.errors import DataError, listed, needed, pa, pc
from sigmoidcore.language import _
from unstuck.language.errors import short

MOST_CLASSES = 20
"""Whole numbers with more distinct values than this are numbers, not classes."""
EXACT = 2.0**53
"""float64 represents all whole numbers below this."""
CLASS, NUMBER = "class", "number"
"""Kinds that a user may ask for."""


class Kind(StrEnum):
    """The kind of target of a data set."""

    TWO_CLASSES = "two classes"
    CLASSES = "several classes"
    NUMBER = "a number"
    NUMBERS = "several numbers"

    @property
    def is_class(self) -> bool:
        """Whether the target is a class."""
        return self in (Kind.TWO_CLASSES, Kind.CLASSES)


@dataclass(frozen=True)
class Task:
    """How outputs are compared with targets."""

    loss_fn: Callable[[Tensor, Tensor], Tensor]  # takes (outputs, targets); a mean over the samples
    metric: Callable[[Tensor, Tensor], float]  # takes the outputs and targets of all test samples; higher is better
    metric_name: str  # its name
    unit: str  # follows the metric's number: " %" or ""


def task(kind: Kind) -> Task:
    """The loss and the metric for a kind of target.

    Classes: targets are class numbers, int64, shape [samples]; outputs [samples, classes]; cross-entropy, accuracy.
    Numbers: targets and outputs are float32, shape [samples, numbers]; mean squared error, R2.
    """
    if kind.is_class:
        return Task(nn.functional.cross_entropy, accuracy, "accuracy", " %")
    return Task(nn.functional.mse_loss, r2, "R2", "")


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Percentage of samples whose largest output is their class; outputs [samples, classes], targets [samples]."""
    return float((outputs.argmax(1) == targets).float().mean()) * 100


def uneven(counts: Sequence[int]) -> bool:
    """Whether a class has less than half of the samples that it would have among equal classes; no without classes."""
    return len(counts) > 0 and 2 * min(counts) * len(counts) < sum(counts)


def r2(outputs: Tensor, targets: Tensor) -> float:
    """Mean over the columns of 1 - (squared error / variance of the targets); both are [samples, numbers].

    A constant column of targets counts as 1 if predicted exactly, else as 0.
    """
    r2_score = needed("sklearn.metrics", "scikit-learn").r2_score
    return float(r2_score(targets.cpu().numpy(), outputs.detach().cpu().numpy()))


@dataclass(frozen=True)
class Target:
    """A fitted target: it encodes values as tensors and decodes outputs."""

    names: tuple[str, ...]  # of the columns
    kind: Kind  # classes or numbers
    classes: tuple[str, ...] = ()  # their names, in the order of the network's outputs; empty for numbers
    mean: tuple[float, ...] = ()  # of each column of numbers, over the training part
    scale: tuple[float, ...] = ()  # standard deviation of each column of numbers, over the training part

    @property
    def outputs(self) -> int:
        """Number of outputs of the network."""
        return len(self.classes) if self.kind.is_class else len(self.names)

    def encoded(self, columns: Sequence[Any], first: int = 0) -> Tensor:
        """Target columns as class numbers, int64, [rows]; or scaled numbers, float32, [rows, numbers]."""
        if self.kind.is_class:
            return self.tensor(self.class_numbers(columns[0], first))
        return self.tensor(_target_numbers(self.names, columns, first))

    def tensor(self, values: np.ndarray) -> Tensor:
        """Class numbers [rows] as they are; numbers [rows, numbers] as float32, scaled as in the training part."""
        if self.kind.is_class:
            return torch.from_numpy(values)
        with np.errstate(over="ignore"):
            return torch.from_numpy(((values - np.array(self.mean)) / np.array(self.scale)).astype(np.float32))

    def fitted(self, values: np.ndarray) -> "Target":
        """The target with the scale of the training part, whose values are given."""
        if self.kind.is_class:
            return self
        for name, column in zip(self.names, values.T, strict=True):
            if column.min() == column.max():
                raise DataError(
                    "target {name!r} is always {column:g}: there is nothing to learn; give another target",
                    name=short(name),
                    column=column[0],
                )
        return replace(self, mean=tuple(values.mean(0).tolist()), scale=tuple(values.std(0).tolist()))

    def class_numbers(self, values: Any, first: int = 0) -> np.ndarray:
        """The number of each row's class, int64, [rows]."""
        name, role = self.names[0], Role.CATEGORY
        known: list[Any] = list(self.classes)
        if set(known) == {"false", "true"}:
            role, known = Role.BOOLEAN, [float(text == "true") for text in known]
        elif all(is_float(text) and abs(float(text)) < EXACT for text in known):
            role, known = Role.NUMBER, [float(text) for text in known]
        keys = _keys(name, values, role, first)
        found = pc.index_in(keys, value_set=pa.array(known, keys.type))
        if found.null_count:
            row = pc.index(pc.is_null(found), True).as_py()
            raise DataError(
                "target {name!r} has {value!r} in row {first}, which is not one of its classes "
                "({classes}): correct it, or train again with it",
                name=short(name),
                value=short(values[row].as_py(), 30),
                first=first + row + 1,
                classes=listed(self.classes, 5),
            )
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)

    def decoded(self, outputs: Tensor) -> np.ndarray:
        """Predictions: names of classes [rows], or numbers [rows, numbers] in their unit."""
        if self.kind.is_class:
            return np.array([self.classes[number] for number in outputs.argmax(1).tolist()], dtype=object)
        return np.asarray(outputs.detach().double().cpu().numpy() * np.array(self.scale) + np.array(self.mean))


# --- the target of a new data set ------------------------------------------------------------------------------------


def learnt_target(names: tuple[str, ...], columns: Sequence[Any], kind: str | None) -> tuple[Target, np.ndarray]:
    """Find out what the target is; returns it, not scaled yet, with its values.

    Texts, truth values, and whole numbers with at most 20 distinct values (each twice or more on average) are classes.
    """
    if kind not in (None, CLASS, NUMBER):
        raise DataError(
            "there is no kind of target {kind!r}: say {first!r} or {number!r}",
            kind=short(kind),
            first=CLASS,
            number=NUMBER,
        )
    roles = [describe(name, values).role for name, values in zip(names, columns, strict=True)]
    for name, role in zip(names, roles, strict=True):
        if role is Role.DATE and kind != CLASS:
            raise DataError("target {name!r} is a date: convert it to a number, such as days", name=short(name))
        if len(names) > 1 and (role is not Role.NUMBER or kind == CLASS):
            raise DataError(
                "several targets must all be numbers, and {name!r} is not: give one target for classes",
                name=short(name),
            )
        if kind == NUMBER and role is not Role.NUMBER:
            raise DataError(
                "target {name!r} is a {role}, not a number: give another target or kind",
                name=short(name),
                role=role.noun,
            )
    if roles[0] is Role.NUMBER and kind != CLASS:
        values = _target_numbers(names, columns)
        if len(names) > 1 or kind == NUMBER or not _few_whole(values):
            return Target(names, Kind.NUMBERS if len(names) > 1 else Kind.NUMBER), values
    return class_target(names[0], columns[0], roles[0])


def class_target(name: str, values: Any, role: Role = Role.CATEGORY) -> tuple[Target, np.ndarray]:
    """A target of classes, and the class numbers of all samples; numbers are ordered by size, texts by the alphabet."""
    keys = _keys(name, values, role)
    if role is Role.NUMBER and pc.max(pc.abs(keys)).as_py() >= EXACT:
        role, keys = Role.CATEGORY, _keys(name, values, Role.CATEGORY)
    classes = [_class_name(key, role) for key in sorted(pc.unique(keys).to_pylist())]
    if len(classes) == 1:
        raise DataError(
            "target {name!r} is always {classes!r}: there is nothing to learn; add rows of another "
            "class, or give another target",
            name=short(name),
            classes=short(classes[0], 30),
        )
    if len(classes) > max(2, len(keys) // 2):
        raise DataError(
            "target {name!r} has {count:,} different classes in {count2:,} rows: give another target, or add rows",
            name=short(name),
            count=len(classes),
            count2=len(keys),
        )
    target = Target((name,), Kind.TWO_CLASSES if len(classes) == 2 else Kind.CLASSES, tuple(classes))
    return target, target.class_numbers(values)


def _class_name(key: float | str, role: Role) -> str:
    if role is Role.BOOLEAN:
        return "true" if key else "false"
    return str(int(key)) if isinstance(key, float) and key.is_integer() else str(key)


def _keys(name: str, values: Any, role: Role, first: int = 0) -> Any:
    """Values of a target as a pyarrow array of numbers, or of texts without spaces around them; none is missing."""
    if role in (Role.NUMBER, Role.BOOLEAN):
        found = pa.array(numbers(Column(name, role), values, first, target=True)[0])
    else:
        found = pc.utf8_trim_whitespace(as_texts(name, values))
    missing = pc.is_null(found, nan_is_null=True)
    count = pc.sum(missing).as_py()
    if count:
        row = first + pc.index(missing, True).as_py() + 1
        others = _(" and {count:,} more", count=count - 1) if count > 1 else ""
        raise DataError(
            "target {name!r} is missing in row {row}{others}: fill in or remove these rows",
            name=short(name),
            row=row,
            others=others,
        )
    return found


def _target_numbers(names: Sequence[str], columns: Sequence[Any], first: int = 0) -> np.ndarray:
    """The numbers of the target columns, float64, [rows, numbers]."""
    keys = (_keys(name, values, Role.NUMBER, first) for name, values in zip(names, columns, strict=True))
    return np.stack([np.asarray(each) for each in keys], axis=1)


def _few_whole(values: np.ndarray) -> bool:
    distinct = np.unique(values)
    whole = bool((distinct == np.round(distinct)).all())
    return whole and len(distinct) <= MOST_CLASSES and 2 * len(distinct) <= max(len(values), 4)
