"""How inputs become numbers: scikit-learn's transformers, fitted on the training part, that JSON can hold.

What is fitted is plain numbers and texts (`Inputs`); the transformers are made of these each time, after fitting as
after reading. So what a run has saved gives the same numbers, bit for bit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.columns import Column, Role, check_size, codes, numbers
from sigmoidcore.training.data.error import DataError, nearest, needed, short
from sigmoidcore.training.data.target import Target
from sigmoidcore.training.data.task import Kind

FORMAT = 1
"""Version of the JSON; it changes when a reader of the old one would misread the new one."""


@dataclass(frozen=True)
class Numbers:
    """A column that becomes numbers.

    Attributes:
        column: what it is.
        mean: of each of its parts.
        scale: standard deviation of each of its parts.
        missing: whether values were missing, so that each part has a column that says where.
    """

    column: Column
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    missing: bool


@dataclass(frozen=True)
class Categories:
    """A column of categories.

    Attributes:
        column: what it is.
        categories: one by one; of an ordinal column the frequent ones first.
        missing: whether a missing value is one more category.
        mean: of the category numbers, if it is ordinal.
        scale: their standard deviation, if it is ordinal.
    """

    column: Column
    categories: tuple[str, ...]
    missing: bool
    mean: float = 0.0
    scale: float = 0.0

    @property
    def size(self) -> int:
        """Number of categories, with the one for missing values."""
        return len(self.categories) + self.missing

    @property
    def ordinal(self) -> bool:
        """Whether it is one number, and not one for each category."""
        return self.scale > 0


@dataclass(frozen=True)
class Table:
    """How the rows of a table become rows of numbers.

    Attributes:
        numbers: columns of numbers, dates and truth values.
        categories: columns of categories.
    """

    numbers: tuple[Numbers, ...]
    categories: tuple[Categories, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that must be there."""
        return (*(c.column.name for c in self.numbers), *(c.column.name for c in self.categories))

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the numbers, in their order."""
        parts = [part for c in self.numbers for part in c.column.parts]
        missing = [f"{part} is missing" for c in self.numbers if c.missing for part in c.column.parts]
        hot = [
            f"{c.column.name} = {value}"
            for c in self.categories
            if not c.ordinal
            for value in (*c.categories, *(["missing"] if c.missing else []))
        ]
        return (*parts, *missing, *hot, *(c.column.name for c in self.categories if c.ordinal))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return (len(self.features),)

    def apply(self, columns: Mapping[str, Any], first: int = 0) -> np.ndarray:
        """The rows as numbers, float32, [rows, features].

        Args:
            columns: pyarrow.ChunkedArray by name.
            first: number of the first row, for messages.

        Raises:
            DataError: a value is not of its column's kind, or too large.
        """
        blocks = []
        if self.numbers:
            rows = np.concatenate([numbers(c.column, columns[c.column.name], first) for c in self.numbers]).T
            with np.errstate(over="ignore"):  # looked at below
                scaled = self._scaler.transform(rows)
            check_size(
                scaled, rows, [f"column {short(c.column.name)!r}" for c in self.numbers for _ in c.column.parts], first
            )
            blocks.append(self._imputer.transform(scaled).astype(np.float32))
        hot = [c for c in self.categories if not c.ordinal]
        if hot:
            found = np.stack([codes(columns[c.column.name], c.categories, c.missing) for c in hot], axis=1)
            blocks.append(self._one_hot.transform(found))
        ordinal = [c for c in self.categories if c.ordinal]
        if ordinal:
            found = np.stack([codes(columns[c.column.name], c.categories, c.missing) for c in ordinal], axis=1)
            ranks = np.stack([e.transform(f[:, None])[:, 0] for e, f in zip(self._ranks, found.T, strict=True)], axis=1)
            blocks.append(self._rank_scaler.transform(ranks).astype(np.float32))
        return np.concatenate(blocks, axis=1) if len(blocks) > 1 else np.ascontiguousarray(blocks[0])

    @cached_property
    def _scaler(self) -> Any:
        return scaler([m for c in self.numbers for m in c.mean], [s for c in self.numbers for s in c.scale])

    @cached_property
    def _imputer(self) -> Any:
        """Puts the mean, which is 0 by now, where a value is missing, and says so in a column of its own."""
        missing = np.array([c.missing for c in self.numbers for _ in c.column.parts])
        imputer = needed("sklearn.impute", "scikit-learn").SimpleImputer(
            strategy="constant", fill_value=0.0, add_indicator=bool(missing.any())
        )
        return imputer.fit(np.stack([np.zeros(len(missing)), np.where(missing, np.nan, 0.0)]))

    @cached_property
    def _one_hot(self) -> Any:
        sizes = [c.size for c in self.categories if not c.ordinal]
        encoder = needed("sklearn.preprocessing", "scikit-learn").OneHotEncoder(
            categories=[np.arange(size) for size in sizes],
            handle_unknown="ignore",
            sparse_output=False,
            dtype=np.float32,
        )
        return encoder.fit(np.zeros((1, len(sizes)), dtype=np.int64))

    @cached_property
    def _ranks(self) -> list[Any]:
        """One encoder a column: what is not known gets the rank below the rarest."""
        make = needed("sklearn.preprocessing", "scikit-learn").OrdinalEncoder
        return [
            make(categories=[np.arange(c.size)], handle_unknown="use_encoded_value", unknown_value=c.size).fit(
                np.zeros((1, 1), dtype=np.int64)
            )
            for c in self.categories
            if c.ordinal
        ]

    @cached_property
    def _rank_scaler(self) -> Any:
        ordinal = [c for c in self.categories if c.ordinal]
        return scaler([c.mean for c in ordinal], [c.scale for c in ordinal])


@dataclass(frozen=True)
class Pixels:
    """How images, or other arrays, become numbers: the same mean and deviation everywhere, or for each channel.

    Attributes:
        shape: of one sample; of images [channels, height, width].
        mean: of everything, or of each channel.
        scale: standard deviation of everything, or of each channel.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """The numbers have no names."""
        return ()

    def apply(self, samples: np.ndarray) -> np.ndarray:
        """Samples scaled, float32, the shape stays."""
        shape = samples.shape
        channels = len(self.mean)
        rows = samples.astype(np.float64).reshape(shape[0], channels, -1).transpose(0, 2, 1).reshape(-1, channels)
        scaled = self._scaler.transform(rows).astype(np.float32)
        return np.ascontiguousarray(scaled.reshape(shape[0], -1, channels).transpose(0, 2, 1)).reshape(shape)

    @cached_property
    def _scaler(self) -> Any:
        return scaler(self.mean, self.scale)


def scaler(mean: Sequence[float], scale: Sequence[float]) -> Any:
    """A StandardScaler of these numbers."""
    made = needed("sklearn.preprocessing", "scikit-learn").StandardScaler()
    made.mean_, made.scale_ = np.array(mean, dtype=np.float64), np.array(scale, dtype=np.float64)
    made.var_ = made.scale_**2
    made.n_features_in_, made.n_samples_seen_ = len(made.mean_), 1
    return made


@dataclass(frozen=True)
class Preprocessing:
    """How a user's data become a network's inputs, and its outputs become predictions.

    Attributes:
        inputs: what is done with a table, or with images.
        target: what is learnt.
    """

    inputs: Table | Pixels
    target: Target

    def transform(self, table: Any) -> Tensor:
        """The inputs of a network, float32, [rows, features]; of images and arrays [samples, ...].

        Args:
            table: pandas.DataFrame or pyarrow.Table with the columns that were learnt from (others do not matter), or a
                NumPy array of images or samples, as they were before they were scaled.

        Raises:
            DataError: a column is missing, or has values that do not fit.
        """
        if isinstance(self.inputs, Pixels):
            samples = np.asarray(table)
            if samples.shape[1:] != self.inputs.shape or samples.dtype.kind not in "biuf":
                raise DataError(
                    f"samples of shape {list(samples.shape[1:])} and type {samples.dtype} were given where those that "
                    f"were learnt from have {list(self.inputs.shape)}: give such ones"
                )
            return torch.from_numpy(self.inputs.apply(samples))
        from sigmoidcore.training.data.tables import as_table

        return torch.from_numpy(self.inputs.apply(picked(as_table(table), self.inputs.names)))

    def predictions(self, outputs: Tensor) -> np.ndarray:
        """What outputs stand for: names of classes [rows], or numbers [rows, numbers] in the unit of the target."""
        return self.target.decoded(outputs)

    def to_json(self) -> str:
        """As JSON, without anything that could be run; `from_json` makes the same of it again."""
        kind = "table" if isinstance(self.inputs, Table) else "pixels"
        content = {"format": FORMAT, "inputs": {"is": kind, **asdict(self.inputs)}, "target": asdict(self.target)}
        return json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` has written.

        Raises:
            DataError: it is something else, or of a newer version.
        """
        try:
            content = json.loads(text, parse_constant=_no_constant)
            version = content["format"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"this is no preprocessing of a run ({short(error)}): was the file edited or cut off?"
            ) from error
        if version != FORMAT:
            raise DataError(
                f"preprocessing of format {short(version)} cannot be read, only {FORMAT}: use the version that wrote it"
            )
        try:
            inputs = dict(content["inputs"])
            kind = inputs.pop("is")
            made: Table | Pixels = _table(inputs) if kind == "table" else _pixels(inputs)
            return cls(made, _target(content["target"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"this is no preprocessing of a run ({short(error)}): was the file edited?") from error


def picked(table: Any, names: Sequence[str]) -> dict[str, Any]:
    """Columns of a pyarrow.Table by name.

    Raises:
        DataError: one is missing, or there twice.
    """
    found: dict[str, Any] = {}
    there = table.column_names
    places = {name: place for place, name in reversed(list(enumerate(there)))}
    for name in names:
        if name not in places:
            raise DataError(f"there is no column {short(name)!r}: {nearest(name, there)}")
        found[name] = table.column(places[name])
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not finite")


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(_float(v) for v in values)


def _scales(values: Any) -> tuple[float, ...]:
    scales = _floats(values)
    if any(scale <= 0 for scale in scales):
        raise ValueError("a scale is not above 0")
    return scales


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _column(content: Mapping[str, Any]) -> Column:
    return Column(_text(content["name"]), Role(content["role"]), _text(content["format"]))


def _table(content: Mapping[str, Any]) -> Table:
    def of_numbers(c: Mapping[str, Any]) -> Numbers:
        made = Numbers(_column(c["column"]), _floats(c["mean"]), _scales(c["scale"]), _truth(c["missing"]))
        if not len(made.mean) == len(made.scale) == len(made.column.parts):
            raise ValueError(f"{made.column.name!r} does not have one mean and scale a part")
        return made

    def of_categories(c: Mapping[str, Any]) -> Categories:
        names = tuple(_text(name) for name in c["categories"])
        return Categories(_column(c["column"]), names, _truth(c["missing"]), _float(c["mean"]), _float(c["scale"]))

    made = Table(
        tuple(of_numbers(c) for c in content["numbers"]), tuple(of_categories(c) for c in content["categories"])
    )
    if not made.names:
        raise ValueError("it has no columns")
    return made


def _pixels(content: Mapping[str, Any]) -> Pixels:
    shape = tuple(int(_float(size)) for size in content["shape"])
    made = Pixels(shape, _floats(content["mean"]), _scales(content["scale"]))
    if len(made.mean) != len(made.scale) or len(made.mean) not in (1, shape[0]):
        raise ValueError("mean and scale do not fit the shape")
    return made


def _target(content: Mapping[str, Any]) -> Target:
    made = Target(
        tuple(_text(name) for name in content["names"]),
        Kind(content["kind"]),
        tuple(_text(name) for name in content["classes"]),
        _floats(content["mean"]),
        _scales(content["scale"]),
    )
    sizes = (0, 0) if made.kind.is_class else (len(made.names), len(made.names))
    if (len(made.mean), len(made.scale)) != sizes or made.outputs < 1:
        raise ValueError("the target's parts do not fit each other")
    return made
