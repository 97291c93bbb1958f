"""Data as numbers: scikit-learn's ColumnTransformer for tables, one scale for images and arrays; saved by skops.

Tables are fitted on at most `SAMPLE` random rows of their training part, in memory as in a stream. The scale of a
column then has a relative error of about 1 / sqrt(SAMPLE), and a category that the sample lacks counts as unknown.
skops writes a zip of JSON and NumPy arrays; loading runs no code and creates only the types in `TRUSTED`.
"""

import io
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.columns import Column, Role, as_texts, describe, matrix, placed
from sigmoidcore.training.data.errors import DataError, listed, needed, pc
from sigmoidcore.training.data.readers import as_table
from sigmoidcore.training.data.samples import array_samples
from sigmoidcore.training.data.targets import Kind, Target
from sigmoidcore.language import _
from unstuck.language.errors import short

FORMAT = 5
"""Version of the file."""
SAMPLE = 100_000
"""Most rows that the transformers are fitted on."""
RARE = 0.1
"""Share of numbers other than 0 below which a table of numbers is very sparse, as text is; see `common_scale`."""
ONE_HOT = 32
"""Most features of a column of categories: the most frequent ones, and one for all others."""
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
    | {f"builtins.{name}" for name in ("dict", "list", "tuple", "slice", "type", "str")}
    | {f"numpy.{name}" for name in ("ndarray", "dtype", "float64", "float32", "int64", "bool", "bool_")}
)
"""The only types in a saved preprocessing."""


@dataclass(frozen=True)
class TableInputs:
    """How rows of a table become rows of numbers."""

    columns: tuple[Column, ...]  # categories last
    transformer: Any  # a fitted sklearn.compose.ColumnTransformer of what `columns.matrix` makes of them

    @cached_property
    def indicated(self) -> tuple[str, ...]:
        """Names of the columns that the training part lacked in some rows: each has an indicator."""
        numeric = _numeric(self.columns)
        places = self.transformer.named_transformers_["missing"].features_ if numeric else ()
        return tuple(numeric[place].name for place in places)

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in their order."""
        found = [part for column in _numeric(self.columns) for part in column.part_names]
        found += [f"missingindicator_{name}" for name in self.indicated]
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
        """The rows of a pyarrow.Table as float32, [rows, features]; `first` is the number of the first row."""
        return self.apply_matrix(matrix(self.columns, table, first))

    def apply_matrix(self, values: np.ndarray) -> np.ndarray:
        """The same of the matrix of `columns.matrix`."""
        with np.errstate(over="ignore"):
            return np.asarray(self.transformer.transform(values), dtype=np.float32)

    def description(self) -> dict[str, Any]:
        """Everything that was fitted, as JSON can hold it."""
        found: dict[str, Any] = {"columns": [asdict(column) for column in self.columns], "features": self.features}
        if _numeric(self.columns):
            scaler = self.transformer.named_transformers_["number"][0]
            found |= {"mean": scaler.mean_.tolist(), "scale": scaler.scale_.tolist()}
        return found


def _numeric(columns: Sequence[Column]) -> list[Column]:
    return [column for column in columns if column.role is not Role.CATEGORY]


@dataclass(frozen=True)
class SampleInputs:
    """How images, or other arrays, are scaled: with one mean and deviation, or with those of each channel."""

    shape: tuple[int, ...]  # of one sample; of images [channels, height, width]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    features: tuple[str, ...] = ()  # the numbers have no names

    def apply(self, samples: np.ndarray) -> np.ndarray:
        """Scaled samples, float32, the shape stays."""
        sizes = (1, len(self.mean), *(1 for _ in samples.shape[2:]))
        mean, scale = (np.array(values).reshape(sizes[: samples.ndim]) for values in (self.mean, self.scale))
        return np.asarray((samples.astype(np.float64) - mean) / scale, dtype=np.float32)

    def description(self) -> dict[str, Any]:
        """Everything that was fitted, as JSON can hold it."""
        return asdict(self)


# --- fitting ---------------------------------------------------------------------------------------------------------


def fitted_table(
    names: Sequence[str], table: Any, rows: np.ndarray, train: np.ndarray
) -> tuple[TableInputs, tuple[str, ...]]:
    """Fit the transformers on a sample of rows, and name the columns that are left out in notes.

    The kind of each column is found from all rows of `table`; the transformers are fitted on the places `train`. The
    numbers of the rows in the whole table are for messages.
    """
    empty = [name for name in names if table[name].null_count == table.num_rows]
    columns = [describe(name, table[name]) for name in names if name not in empty]
    table = table.take(train)
    columns = sorted((_with_categories(column, table) for column in columns), key=lambda c: c.role is Role.CATEGORY)
    values = matrix(columns, table, rows[train])
    varying = ((values != values[:1]) & ~(np.isnan(values) & np.isnan(values[:1]))).any(0)
    used, constant, distinct = [], [], []
    for column, here in placed(columns):
        if not varying[here].any():
            constant.append(column.name)
        elif ONE_HOT < len(column.categories) == len(values):
            distinct.append(column.name)
            varying[here] = False
        else:
            parts = tuple(part for part, varies in zip(column.parts, varying[here], strict=True) if varies)
            used.append(replace(column, parts=parts))
    reasons = {_("without values"): empty, _("constant"): constant, _("different in every row"): distinct}
    notes = tuple(
        _("left out, because {reason}: {names}", reason=reason, names=listed(names))
        for reason, names in reasons.items()
        if names
    )
    if not used:
        given = _(" ({notes})", notes=_("; ").join(notes)) if notes else ""
        raise DataError(
            "there is no column to learn from{given}: give data with columns beside the target", given=given
        )
    return TableInputs(tuple(used), _fitted(used, values[:, varying])), notes


def _with_categories(column: Column, table: Any) -> Column:
    if column.role is not Role.CATEGORY:
        return column
    found = pc.unique(as_texts(column.name, table[column.name])).to_pylist()
    return replace(column, categories=tuple(sorted(found, key=lambda text: (text is None, text or ""))))


def _fitted(columns: Sequence[Column], rows: np.ndarray) -> Any:
    """Numbers: scaled, a missing value is the mean (0 if sparse) and has an indicator. Categories: one feature each."""
    preprocessing, impute = needed("sklearn.preprocessing", "scikit-learn"), needed("sklearn.impute", "scikit-learn")
    scale = needed("sklearn.pipeline", "scikit-learn").make_pipeline(
        preprocessing.StandardScaler(),
        impute.SimpleImputer(strategy="constant", fill_value=0.0, keep_empty_features=True),
    )
    encoder = preprocessing.OneHotEncoder(
        handle_unknown="infrequent_if_exist", max_categories=ONE_HOT, sparse_output=False, dtype=np.float32
    )
    sizes = [len(column.parts) for column in _numeric(columns)]
    count, first_parts = sum(sizes), (np.cumsum(sizes) - sizes).astype(int).tolist()
    steps = [  # places and not names: with names, scikit-learn until 1.6 keeps a private type
        ("number", scale, list(range(count))),
        ("missing", impute.MissingIndicator(error_on_new=False), first_parts),
        ("category", encoder, list(range(count, rows.shape[1]))),
    ]
    transformer = needed("sklearn.compose", "scikit-learn").ColumnTransformer
    fitted = transformer([step for step in steps if step[2]], sparse_threshold=0).fit(rows)
    numbers = np.nan_to_num(rows[:, :count])
    if np.count_nonzero(numbers) < RARE * numbers.size:
        scaler = fitted.named_transformers_["number"][0]
        scaler.mean_, scaler.scale_ = np.zeros(count), common_scale(scaler.var_, np.abs(numbers).max(0))
    return fitted


def common_scale(variance: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """The scale of each column of a very sparse matrix, from its variance and its largest absolute value, above 0.

    All columns get the same largest value, and one factor makes their mean variance 1. A rare word, standardised, would
    be a number of many standard deviations.
    """
    scale: np.ndarray = largest * (math.sqrt(np.mean(variance / largest**2)) or 1.0)
    return scale


# --- the whole preprocessing -----------------------------------------------------------------------------------------


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
        samples = array_samples(_("the array"), np.asarray(data), {}, self.inputs.shape)
        return torch.from_numpy(self.inputs.apply(samples.take(slice(None))))

    def predictions(self, outputs: Tensor) -> np.ndarray:
        """Predictions from outputs: names of classes [rows], or numbers [rows, numbers] in the unit of the target."""
        return self.target.decoded(outputs)

    def description(self) -> dict[str, Any]:
        """Everything that was fitted, as JSON can hold it: for people and for other programs."""
        return {"inputs": self.inputs.description(), "target": asdict(self.target)}

    def to_bytes(self) -> bytes:
        """As a file of skops; `from_bytes` gives an object that makes the same numbers, bit for bit."""
        transformer = self.inputs.transformer if isinstance(self.inputs, TableInputs) else None
        content = {"format": FORMAT, "fitted": json.dumps(self.description()), "transformer": transformer}
        return bytes(needed("skops.io", "skops").dumps(content, compression=zipfile.ZIP_DEFLATED))

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read what `to_bytes` has written, or raise a DataError. No code in it is run."""
        skops = needed("skops.io", "skops")
        with DataError.replacing("this is not a preprocessing of a run ({error}): was the file edited?", Exception):
            # A damaged file fails anywhere in zipfile, json, skops or scikit-learn.
            _check_types(content)
            found = skops.loads(content, trusted=sorted(TRUSTED))
            if found["format"] != FORMAT:
                raise ValueError(_("format {found} instead of {format}", found=short(found["format"]), format=FORMAT))
            fitted = json.loads(found["fitted"])
            return cls(_inputs(fitted["inputs"], found["transformer"]), _target(**fitted["target"]))


def _check_types(content: bytes) -> None:
    """Refuse a file that is too large, or that mentions other types than `TRUSTED`."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(member.file_size for member in archive.infolist()) > LARGEST_FILE:
            raise ValueError(_("too large"))
        remaining = [json.loads(archive.read("schema.json"))]
    while remaining:
        node = remaining.pop()
        if isinstance(node, dict) and "__class__" in node:
            kind = f"{node['__module__']}.{node['__class__']}"
            if kind not in TRUSTED:
                raise ValueError(_("type {kind}", kind=short(kind)))
        remaining += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()


def _inputs(fitted: dict[str, Any], transformer: Any) -> TableInputs | SampleInputs:
    if "columns" in fitted:
        columns = tuple(
            Column(c["name"], Role(c["role"]), tuple(c["parts"]), tuple(c["categories"])) for c in fitted["columns"]
        )
        made = TableInputs(columns, transformer)
        if json.loads(json.dumps(made.description())) != fitted:
            raise ValueError(_("the transformer is not the one that was saved"))
        return made
    mean, scale = (tuple(map(float, fitted[name])) for name in ("mean", "scale"))
    return SampleInputs(tuple(map(int, fitted["shape"])), mean, scale)


def _target(names: list[str], kind: str, classes: list[str], mean: list[float], scale: list[float]) -> Target:
    return Target(tuple(names), Kind(kind), tuple(classes), tuple(map(float, mean)), tuple(map(float, scale)))
