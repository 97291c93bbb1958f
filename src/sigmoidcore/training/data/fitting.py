"""What the transformers need to know, found batch by batch: one pass over the training part, in memory or streamed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sigmoidcore.training.data.columns import Column, Role, counts, numbers
from sigmoidcore.training.data.error import DataError, listed, needed, short
from sigmoidcore.training.data.preprocessing import Categories, Numbers, Table

ONE_HOT = 32
"""Most categories that become a number each; with more, the column is one number: the rank by frequency."""
MOST_CATEGORIES = 100_000
"""Most categories that are told apart; those that come first are."""


class Fitting:
    """Looks at the rows of a table's training part, then knows how to make numbers of them.

    Args:
        columns: that are learnt from.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._numeric = [c for c in columns if c.role is not Role.CATEGORY]
        self._categorical = [c for c in columns if c.role is Role.CATEGORY]
        parts = sum(len(c.parts) for c in self._numeric)
        self._scaler = needed("sklearn.preprocessing", "scikit-learn").StandardScaler()
        self._missing = np.zeros(parts, dtype=bool)
        self._least, self._most = np.full(parts, np.inf), np.full(parts, -np.inf)
        self._counts: list[Counter[str]] = [Counter() for _ in self._categorical]
        self._empty = [False for _ in self._categorical]
        self._rows = 0

    def see(self, columns: Mapping[str, Any], train: np.ndarray, first: int = 0) -> None:
        """Take rows into account: those of the training part, while the others are only checked.

        Args:
            columns: pyarrow.ChunkedArray by name.
            train: places of the rows that are in the training part.
            first: number of the first row, for messages.

        Raises:
            DataError: a value is not of its column's kind, or infinite.
        """
        every = [numbers(c, columns[c.name], first) for c in self._numeric]
        if not len(train):
            return
        self._rows += len(train)
        if every:
            found = np.concatenate(every)[:, train].T
            self._missing |= np.isnan(found).any(0)
            self._least = np.fmin(self._least, np.fmin.reduce(found, axis=0))
            self._most = np.fmax(self._most, np.fmax.reduce(found, axis=0))
            self._scale(found)
        for place, column in enumerate(self._categorical):
            values = columns[column.name].take(train)
            self._empty[place] |= values.null_count > 0
            for category, count in counts(values).items():
                if category in self._counts[place] or len(self._counts[place]) < MOST_CATEGORIES:
                    self._counts[place][category] += count

    def _scale(self, found: np.ndarray) -> None:
        """Take a batch into means and deviations; where it has no value at all, what was known before stays."""
        scaler, parts = self._scaler, found.shape[1]
        names = ("mean_", "var_", "scale_", "n_samples_seen_")
        before = [
            np.broadcast_to(getattr(scaler, name, empty), parts)
            for name, empty in zip(names, (0, 0, 1, 0), strict=True)
        ]
        nothing = np.isnan(found).all(0)
        with np.errstate(all="ignore"):  # what comes of numbers that are too large is looked at in the end
            scaler.partial_fit(found)
        if nothing.any():  # scikit-learn divides by the number of values, and would get NaN for ever
            for name, kept in zip(names, before, strict=True):
                setattr(scaler, name, np.where(nothing, kept, getattr(scaler, name)))

    def table(self) -> tuple[Table, tuple[str, ...]]:
        """How rows become numbers, and what is to be said about columns that were left out.

        Raises:
            DataError: nothing is left to learn from, or numbers are too large.
        """
        same: list[str] = []
        every: list[str] = []
        found_numbers = []
        place = 0
        for column in self._numeric:
            parts = slice(place, place + len(column.parts))
            place = parts.stop
            missing = bool(self._missing[parts].any())
            if self._least[parts.start] >= self._most[parts.start] and (
                not missing or self._least[parts.start] == np.inf
            ):
                same.append(column.name)
                continue
            mean, scale = self._scaler.mean_[parts], self._scaler.scale_[parts]
            if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
                largest = max(abs(self._least[parts]).max(), abs(self._most[parts]).max())
                raise DataError(
                    f"column {short(column.name)!r} has numbers as large as {largest:.1e}, too large to compute with: "
                    "take their logarithm, or mend them"
                )
            found_numbers.append(Numbers(column, tuple(mean.tolist()), tuple(scale.tolist()), missing))
        found_categories = []
        for column, counted, missing in zip(self._categorical, self._counts, self._empty, strict=True):
            if len(counted) + missing < 2:
                same.append(column.name)
            elif len(counted) > ONE_HOT and len(counted) == self._rows:
                every.append(column.name)
            else:
                found_categories.append(_categories(column, counted, missing, self._rows))
        notes = []
        if same:
            notes.append(f"left out, for they are always the same: {listed(same)}")
        if every:
            notes.append(f"left out, for they are different in every row: {listed(every)}")
        if not found_numbers and not found_categories:
            reason = f" ({'; '.join(notes)})" if notes else ""
            raise DataError(f"there is no column to learn from{reason}: give data with columns beside the target")
        return Table(tuple(found_numbers), tuple(found_categories)), tuple(notes)


def _categories(column: Column, counted: Counter[str], missing: bool, rows: int) -> Categories:
    if len(counted) + missing <= ONE_HOT:
        return Categories(column, tuple(sorted(counted)), missing)
    ordered = sorted(counted, key=lambda category: (-counted[category], category))
    times = [counted[category] for category in ordered]
    if missing:
        times.append(max(rows - sum(times), 1))
    scaler = needed("sklearn.preprocessing", "scikit-learn").StandardScaler()
    scaler.fit(np.arange(float(len(times)))[:, None], sample_weight=np.array(times, dtype=np.float64))
    return Categories(column, tuple(ordered), missing, float(scaler.mean_[0]), float(scaler.scale_[0]))
