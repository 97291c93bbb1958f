"""New data for a trained network: read in their order, piece by piece, and transformed as the run's data were."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data.builtin import TABLES, built_in_table, digit_samples, of_package
from sigmoidcore.training.data.columns import MISSING_CATEGORY, UNKNOWN_CATEGORY, Role, matrix, placed, with_type
from sigmoidcore.training.data.errors import DataError, file_errors, listed, nearest, pa
from sigmoidcore.training.data.loading import check_path
from sigmoidcore.training.data.preprocessing import Preprocessing, SampleInputs, TableInputs
from sigmoidcore.training.data.readers import (
    ARRAYS,
    TEXT,
    MemoryTable,
    TableFiles,
    as_table,
    opened,
    suffix,
    unknown_kind,
)
from sigmoidcore.training.data.samples import (
    IMAGES,
    Samples,
    array_samples,
    check_finite,
    matrix_table,
    new_images,
    read_arrays,
)  # fmt: skip
from sigmoidcore.training.data.targets import Target
from sigmoidcore.language import _
from unstuck.language.errors import short
from unstuck.wording import in_a_row

FAR = 20.0
"""Samples whose mean or deviation differs by this factor from those that were learnt from have another unit."""


@dataclass(frozen=True)
class Piece:
    """Consecutive samples of new data: the number of the first, inputs, targets if requested, and columns to keep."""

    first: int
    inputs: Tensor
    targets: Tensor | None
    kept: dict[str, Any]


class NewData:
    """New data, to be read once: all that `load` takes, with the target or without it, or a NumPy array or a tensor.

    `keep` names the columns of a table that accompany the predictions.
    """

    def __init__(
        self, source: Any, preprocessing: Preprocessing, *, targets: bool = False, keep: Sequence[str] = ()
    ) -> None:
        found = built_in_table(source) if isinstance(source, str) and source in TABLES else of_package(source)
        self._source = source if found is None else found
        self._name = str(source) if isinstance(source, str | Path) else _("the table")
        self._preprocessing = preprocessing
        self._targets = targets
        self._keep = tuple(keep)
        self._unknown: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence about unknown categories and missing values in the rows that have been read; or nothing."""
        found = [
            _("{count:,} unknown in {name!r} (such as {text!r})", count=n, name=short(name), text=self._examples[name])
            for name, n in self._unknown.items()
        ]
        found += [
            _("{count:,} missing in {name!r}", count=n, name=short(name)) for name, n in self._missing.items() if n
        ]
        if not found:
            return ()
        words = _("the training data did not have these values, so their predictions are less certain")
        return (_("{words}: {values}", words=words, values=in_a_row(found)),)

    def pieces(self) -> Iterator[Piece]:
        """The samples in their order."""
        inputs, target = self._preprocessing.inputs, self._preprocessing.target
        with file_errors(self._name):
            if isinstance(inputs, TableInputs):
                yield from self._rows(_table(self._source, target), inputs, target)
            elif self._keep:
                raise DataError(
                    "there is no column {name!r}: the data have samples and no columns", name=short(self._keep[0])
                )
            else:
                yield from self._samples(_samples(self._source, inputs, target), inputs, target)

    def _rows(self, table: MemoryTable | TableFiles, inputs: TableInputs, target: Target) -> Iterator[Piece]:
        names = target.names if self._targets else ()
        used = [column.name for column in inputs.columns]
        wanted = list(dict.fromkeys((*used, *names, *self._keep)))
        missing = [name for name in wanted if name not in table.names]
        if missing:
            others = _(" (nor {names})", names=listed(missing[1:], 5)) if missing[1:] else ""
            why = _(", which was learnt from") if missing[0] in used else ""
            raise DataError(
                "{name} has no column {column!r}{why}{others}: {hint}",
                name=self._name,
                column=short(missing[0]),
                why=why,
                others=others,
                hint=nearest(missing[0], table.names),
            )
        if not table.rows:
            raise DataError("{name} has no rows: give data with some", name=self._name)
        from_text = isinstance(self._source, str | Path) and suffix(Path(self._source)) in TEXT
        typed = {name: with_type(table.table[name]) for name in self._keep} if from_text else {}  # type: ignore[union-attr]
        first = 0
        for piece in table.pieces(wanted):
            values = matrix(inputs.columns, piece, first)
            self._count_novelties(inputs, values, piece)
            x = torch.from_numpy(inputs.apply_matrix(values))
            y = target.encoded([piece[name] for name in names], first) if self._targets else None
            kept = {name: typed[name].slice(first, len(piece)) if name in typed else piece[name] for name in self._keep}
            yield Piece(first, x, y, kept)
            first += piece.num_rows

    def _count_novelties(self, inputs: TableInputs, values: np.ndarray, table: Any) -> None:
        """Count what the training part did not have."""
        for column, place in placed(inputs.columns):
            found = values[:, place.start]
            if column.role is not Role.CATEGORY:
                if column.name not in inputs.indicated:
                    self._missing[column.name] += int(np.isnan(found).sum())
                continue
            self._missing[column.name] += int((found == MISSING_CATEGORY).sum())
            unknown = np.flatnonzero(found == UNKNOWN_CATEGORY)
            if len(unknown):
                self._unknown[column.name] += len(unknown)
                self._examples.setdefault(column.name, short(table[column.name][int(unknown[0])].as_py(), 30))

    def _samples(self, samples: Samples, inputs: SampleInputs, target: Target) -> Iterator[Piece]:
        if self._targets and not samples.targets:
            raise DataError(
                "{name} has no targets (array {array!r}): give samples with their targets",
                name=samples.name,
                array=target.names[0],
            )
        if not samples.count:
            raise DataError("{name} has no samples: give an array with some", name=samples.name)
        for first in range(0, samples.count, samples.at_a_time):
            rows = slice(first, first + samples.at_a_time)
            values = samples.take(rows)
            check_finite(values, samples.name, first)
            x = torch.from_numpy(inputs.apply(values))
            _check_unit(x, samples.name)
            y = target.encoded([each[rows] for each in samples.targets.values()], first) if self._targets else None
            yield Piece(first, x, y, {"file": pa.array(samples.files[rows])} if samples.files else {})


def _table(source: Any, target: Target) -> MemoryTable | TableFiles:
    """The source as a table; of an NPZ file with its targets, if it has any."""
    if isinstance(source, np.ndarray):
        return MemoryTable(matrix_table(_("the array"), source, {}))
    if not isinstance(source, str | Path):
        return MemoryTable(as_table(source))
    path = Path(source)
    check_path(path)
    if path.is_file() and suffix(path) in ARRAYS:
        return MemoryTable(matrix_table(path, *_arrays(path, target)))
    found = opened(path)
    if found is None:
        raise unknown_kind(path)
    return found


def _arrays(path: Path, target: Target) -> tuple[np.ndarray, dict[str, Any]]:
    array = target.names[0] if len(target.names) == 1 else target.names[0][:-1]  # of y0, y1, ...
    return read_arrays(path, array, required=False)


def _samples(source: Any, inputs: SampleInputs, target: Target) -> Samples:
    """The samples of an array, a file, an image, a folder of images, or the digits."""
    if isinstance(source, np.ndarray | Tensor):
        array = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
        return array_samples(_("the array"), array, {}, inputs.shape)
    if not isinstance(source, str | Path):
        raise DataError(
            "a {kind} has no samples: give a NumPy array, a tensor, a file or a folder", kind=type(source).__name__
        )
    if source == "digits":
        digits = digit_samples()
        return array_samples(source, digits.take(slice(None)), digits.targets, inputs.shape)
    path = Path(source)
    check_path(path)
    if path.is_dir() or suffix(path) in IMAGES:
        return new_images(path, inputs.shape)
    if suffix(path) in ARRAYS:
        return array_samples(path, *_arrays(path, target), inputs.shape)
    shape = list(inputs.shape)
    raise DataError(
        "{path} is not an array or an image: give samples of shape {shape}, as an .npy or .npz file or as images",
        path=path,
        shape=shape,
    )


def _check_unit(x: Tensor, name: str) -> None:
    """Refuse samples in another unit."""
    mean, deviation = float(x.mean()), float(x.std(correction=0))
    if abs(mean) > FAR or deviation > FAR or (deviation < 1 / FAR and len(x) >= 10):
        raise DataError(
            "{name} has samples with mean {mean:.3g} and deviation {deviation:.2g} after scaling, not 0 and 1: "
            "give them in the same unit as the training data (0 to 1, or 0 to 255?)",
            name=name,
            mean=mean,
            deviation=deviation,
        )
