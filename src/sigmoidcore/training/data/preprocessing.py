"""Inputs as numbers: scikit-learn's ColumnTransformer for tables, one scale for images and arrays; saved by skops.

Tables are fitted on at most `SAMPLE` random rows of their training part, in memory as in a stream. The scale of a
column then has a relative error of about 1 / sqrt(SAMPLE), and a category that the sample lacks counts as unknown.
skops writes a zip of JSON and NumPy arrays; loading runs no code and creates only the types in `TRUSTED`.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.columns import Column, Role, matrix, with_categories
from sigmoidcore.training.data.errors import DataError, listed, needed, short
from sigmoidcore.training.data.readers import as_table
from sigmoidcore.training.data.targets import Kind, Target, check_scaled

FORMAT = 3
"""Version of the file."""
SAMPLE = 100_000
"""Most rows that the transformers are fitted on."""
ONE_HOT = 32
"""Most features of a column of categories: the most frequent ones, and one for all others."""
AT_A_TIME = 65_536
"""Most rows that are transformed together."""
LARGEST_FILE = 2**28
"""Bytes that a saved preprocessing may unpack to."""
_SKLEARN = (
    "compose._column_transformer.ColumnTransformer",
    "pipeline.Pipeline",
    "impute._base.SimpleImputer",
    "impute._base.MissingIndicator",
    "preprocessing._data.StandardScaler",
    "preprocessing._encoders.OneHotEncoder",
)
TRUSTED = frozenset(
    {f"sklearn.{name}" for name in _SKLEARN}
    | {"builtins.dict", "builtins.list", "builtins.tuple", "builtins.slice", "builtins.type", "builtins.str"}
    | {"numpy.ndarray", "numpy.dtype", "numpy.float64", "numpy.float32", "numpy.int64", "numpy.bool", "numpy.bool_"}
)
"""The only types in a saved preprocessing."""


@dataclass(frozen=True)
class TableInputs:
    """How rows of a table become rows of numbers."""

    columns: tuple[Column, ...]  # categories last
    transformer: Any  # a fitted sklearn.compose.ColumnTransformer of what `columns.matrix` makes of them

    @cached_property
    def numeric(self) -> tuple[str, ...]:
        """Names of the first columns of the matrix, which are numbers."""
        return _numeric(self.columns)

    @cached_property
    def indicated(self) -> tuple[str, ...]:
        """Names of the numbers that the training part lacked in some rows: each has an indicator."""
        if not self.numeric:
            return ()
        imputer = self.transformer.named_transformers_["number"][1]
        return tuple(self.numeric[place] for place in imputer.indicator_.features_)

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in their order."""
        found = [*self.numeric, *(f"missingindicator_{name}" for name in self.indicated)]
        categorical = [column for column in self.columns if column.role is Role.CATEGORY]
        if categorical:
            encoder = self.transformer.named_transformers_["category"]
            for column, rare in zip(categorical, encoder.infrequent_categories_, strict=True):
                others = set() if rare is None else set(rare.astype(int).tolist())
                found += [f"{column.name}_{text}" for n, text in enumerate(column.categories) if n not in others]
                found += [f"{column.name}_infrequent_sklearn"] if others else []
        return tuple(found)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return (len(self.features),)

    def apply(self, table: Any, first: int = 0) -> np.ndarray:
        """The rows of a pyarrow.Table as float32, [rows, features]."""
        return self.apply_matrix(matrix(self.columns, table, first), first)

    def apply_matrix(self, values: np.ndarray, first: int = 0) -> np.ndarray:
        """The same of a matrix that `columns.matrix` has made, some rows at a time to save memory."""
        found = np.empty((len(values), len(self.features)), dtype=np.float32)
        names, count = [f"column {short(name)!r}" for name in self.numeric], len(self.numeric)
        for start in range(0, len(values), AT_A_TIME):
            rows = values[start : start + AT_A_TIME]
            with np.errstate(over="ignore"):
                scaled = self.transformer.transform(rows)
            check_scaled(scaled[:, :count], rows[:, :count], names, first + start)
            found[start : start + AT_A_TIME] = scaled
        return found

    def description(self) -> dict[str, Any]:
        """Everything that was fitted, as JSON can hold it."""
        found: dict[str, Any] = {"columns": [asdict(column) for column in self.columns], "features": self.features}
        if self.numeric:
            scaler = self.transformer.named_transformers_["number"][0]
            found |= {"mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()}
        return found


@dataclass(frozen=True)
class SampleInputs:
    """How images, or other arrays, are scaled: with one mean and deviation, or with those of each channel."""

    shape: tuple[int, ...]  # of one sample; of images [channels, height, width]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """The numbers have no names."""
        return ()

    def apply(self, samples: np.ndarray) -> np.ndarray:
        """Scaled samples, float32, the shape stays."""
        sizes = (1, len(self.mean), *(1 for _ in samples.shape[2:]))
        mean, scale = (np.array(values).reshape(sizes[: samples.ndim]) for values in (self.mean, self.scale))
        return np.asarray((samples.astype(np.float64) - mean) / scale, dtype=np.float32)

    def description(self) -> dict[str, Any]:
        """Everything that was fitted, as JSON can hold it."""
        return asdict(self)


def fitted_table(columns: Sequence[Column], table: Any) -> tuple[TableInputs, tuple[str, ...]]:
    """Fit the transformers on rows of the training part; useless columns are left out and named in notes."""
    columns = sorted(columns, key=lambda column: column.role is Role.CATEGORY)
    columns = [with_categories(column, table[column.name]) for column in columns]
    rows = matrix(columns, table)
    same = ((rows == rows[:1]) | (np.isnan(rows) & np.isnan(rows[:1]))).all(0).tolist()
    used: list[Column] = []
    places: list[int] = []
    constant, distinct, place = [], [], 0
    for column in columns:
        if same[place]:
            constant.append(column.name)
        elif ONE_HOT < len(column.categories) == len(rows):
            distinct.append(column.name)
        else:
            used.append(column)
            places += range(place, place + len(column.parts))
        place += len(column.parts)
    notes = tuple(
        f"left out, because {reason}: {listed(names)}"
        for reason, names in (("constant", constant), ("different in every row", distinct))
        if names
    )
    if not used:
        reasons = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(f"there is no column to learn from{reasons}: give data with columns beside the target")
    if len(places) < place:
        rows = rows[:, np.array(places)]
    numeric = _numeric(used)
    transformer = _transformer(len(numeric), rows.shape[1])
    with np.errstate(all="ignore"):
        transformer.fit(rows)
    if numeric:
        scaler = transformer.named_transformers_["number"][0]
        large = np.flatnonzero(~np.isfinite(scaler.mean_ + scaler.scale_)).tolist()
        if large:
            raise DataError(
                f"column {short(numeric[large[0]])!r} has numbers as large as {np.nanmax(abs(rows[:, large[0]])):.1e}, "
                "too large to compute with: take their logarithm, or correct them"
            )
    return TableInputs(tuple(used), transformer), notes


def _numeric(columns: Sequence[Column]) -> tuple[str, ...]:
    return tuple(part for column in columns if column.role is not Role.CATEGORY for part in column.parts)


def _transformer(numbers: int, parts: int) -> Any:
    """Numbers: scaled, a missing value is the mean and has an indicator. Categories: one feature each."""
    preprocessing = needed("sklearn.preprocessing", "scikit-learn")
    imputer = needed("sklearn.impute", "scikit-learn").SimpleImputer(
        strategy="constant", fill_value=0.0, add_indicator=True, keep_empty_features=True
    )
    pipeline = needed("sklearn.pipeline", "scikit-learn").make_pipeline(preprocessing.StandardScaler(), imputer)
    encoder = preprocessing.OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=ONE_HOT, sparse_output=False, dtype=np.float32
    )
    # places and not names: with names, scikit-learn until 1.6 keeps a private type
    steps = [("number", pipeline, list(range(numbers))), ("category", encoder, list(range(numbers, parts)))]
    return needed("sklearn.compose", "scikit-learn").ColumnTransformer(
        [step for step in steps if step[2]], sparse_threshold=0
    )


@dataclass(frozen=True)
class Preprocessing:
    """How data become a network's inputs, and its outputs become predictions.

    Attributes:
        inputs: of a table, or of images and arrays.
        target: what is learnt.
    """

    inputs: TableInputs | SampleInputs
    target: Target

    def transform(self, data: Any) -> Tensor:
        """The inputs of a network, float32, [rows, features]; of images and arrays [samples, ...].

        Args:
            data: a pandas.DataFrame or another table with the columns that were learnt from, or a NumPy array of
                images or samples, not scaled.

        Raises:
            DataError: a column is missing, or a value does not fit.
        """
        if isinstance(self.inputs, TableInputs):
            return torch.from_numpy(self.inputs.apply(as_table(data)))
        samples = np.asarray(data)
        if samples.shape[1:] != self.inputs.shape or samples.dtype.kind not in "biuf":
            raise DataError(
                f"samples have the shape {list(samples.shape[1:])} and the type {samples.dtype}: give numbers of the "
                f"shape that was learnt from, {list(self.inputs.shape)}"
            )
        return torch.from_numpy(self.inputs.apply(samples))

    def predictions(self, outputs: Tensor) -> np.ndarray:
        """Predictions from outputs: names of classes [rows], or numbers [rows, numbers] in the unit of the target."""
        return self.target.decoded(outputs)

    def description(self) -> dict[str, Any]:
        """Everything that was fitted, as JSON can hold it: for people and for other programs."""
        return {"inputs": self.inputs.description(), "target": asdict(self.target)}

    def alike(self, other: "Preprocessing") -> bool:
        """Whether both give the same numbers, up to rounding."""
        ours, theirs = (
            json.loads(json.dumps(each.description()), parse_float=lambda text: f"{float(text):.7e}")
            for each in (self, other)
        )
        return bool(ours == theirs)

    def digest(self) -> str:
        """SHA-256 of everything that was fitted."""
        return hashlib.sha256(json.dumps(self.description()).encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """As a file of skops; `from_bytes` gives an object that makes the same numbers, bit for bit."""
        content = {
            "format": FORMAT,
            "fitted": json.dumps(self.description()),
            "transformer": self.inputs.transformer if isinstance(self.inputs, TableInputs) else None,
        }
        return bytes(needed("skops.io", "skops").dumps(content, compression=zipfile.ZIP_DEFLATED))

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read what `to_bytes` has written. No code in it is run.

        Raises:
            DataError: it is damaged, of another version, or contains other types.
        """
        try:
            _check_types(content)
            found = needed("skops.io", "skops").loads(content, trusted=sorted(TRUSTED))
            if found["format"] != FORMAT:
                raise ValueError(f"format {short(found['format'])} instead of {FORMAT}")
            fitted = json.loads(found["fitted"])
            return cls(_inputs(fitted, found["transformer"]), _target(**fitted["target"]))
        except ModuleNotFoundError:
            raise
        except Exception as error:  # a damaged file fails anywhere in zipfile, json, skops or scikit-learn
            raise DataError(
                f"this is not a preprocessing of a run ({short(error, 100)}): was the file edited?"
            ) from error


def _check_types(content: bytes) -> None:
    """Refuse a file that is too large, or that mentions other types than `TRUSTED`."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(member.file_size for member in archive.infolist()) > LARGEST_FILE:
            raise ValueError("too large")
        remaining = [json.loads(archive.read("schema.json"))]
    while remaining:
        node = remaining.pop()
        if isinstance(node, dict):
            kind = f"{node['__module__']}.{node['__class__']}" if "__class__" in node else None
            if kind is not None and kind not in TRUSTED:
                raise ValueError(f"type {short(kind)}")
        remaining += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def _target(names: list[str], kind: str, classes: list[str], mean: list[float], scale: list[float]) -> Target:
    made = Target(tuple(names), Kind(kind), tuple(classes), tuple(mean), tuple(scale))
    sizes = (0, 0) if made.kind.is_class else (len(names), len(names))
    if (len(mean), len(scale)) != sizes or made.outputs < 1 or not all(value > 0 for value in scale):
        raise ValueError("the parts of the target do not fit each other")
    return made


def _inputs(fitted: dict[str, Any], transformer: Any) -> TableInputs | SampleInputs:
    inputs = fitted["inputs"]
    if "columns" in inputs:
        columns = tuple(
            Column(c["name"], Role(c["role"]), c["format"], tuple(c["categories"])) for c in inputs["columns"]
        )
        if type(transformer) is not needed("sklearn.compose", "scikit-learn").ColumnTransformer:
            raise ValueError("no transformer")
        made = TableInputs(columns, transformer)
        if json.loads(json.dumps(made.description())) != inputs:
            raise ValueError("the transformer is not the one that was saved")
        return made
    shape = tuple(int(size) for size in inputs["shape"])
    mean, scale = (tuple(float(value) for value in inputs[name]) for name in ("mean", "scale"))
    if len(mean) != len(scale) or len(mean) not in (1, shape[0]) or not all(value > 0 for value in scale):
        raise ValueError("mean and scale do not fit the shape")
    return SampleInputs(shape, mean, scale)
