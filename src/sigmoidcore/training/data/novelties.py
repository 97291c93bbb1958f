"""What new data have that the data which were learnt from had not: unknown categories, and missing values."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from sigmoidcore.training.data.columns import codes, texts
from sigmoidcore.training.data.error import DataError, listed, needed, short
from sigmoidcore.training.data.preprocessing import Categories, Table


class Surprises:
    """Looks at the rows of new data, and counts.

    Args:
        inputs: how the rows become numbers.
        accept_unknown: whether a category that was not learnt from is counted, and not refused.
    """

    def __init__(self, inputs: Table, accept_unknown: bool) -> None:
        self._inputs = inputs
        self._accept = accept_unknown
        self._unknown: Counter[str] = Counter()
        self._missing: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def see(self, columns: Mapping[str, Any], first: int) -> None:
        """Take rows into account.

        Args:
            columns: pyarrow.ChunkedArray by name.
            first: number of the first row, for messages.

        Raises:
            DataError: a category was not in the data that were learnt from, and that is not accepted.
        """
        pc = needed("pyarrow.compute", "pyarrow")
        for numbers in self._inputs.numbers:
            if not numbers.missing:
                values = columns[numbers.column.name]
                self._missing[numbers.column.name] += pc.sum(pc.is_null(values, nan_is_null=True)).as_py() or 0
        for categories in self._inputs.categories:
            self._look(categories, columns[categories.column.name], first)

    def _look(self, known: Categories, values: Any, first: int) -> None:
        name = known.column.name
        try:
            found = codes(values, known.categories, known.missing)
            written = texts(values)
        except DataError as error:
            raise DataError(f"column {short(name)!r}: {error}") from error
        places = np.flatnonzero(found < 0)
        if not len(places):
            return
        absent = np.asarray(written.take(places).is_null())
        self._missing[name] += int(absent.sum())
        places = places[~absent]
        if not len(places):
            return
        row = int(places[0])
        example = short(written[row].as_py(), 30)
        if not self._accept:
            raise DataError(
                f"column {short(name)!r} has {example!r} in row {first + row + 1}, which was not in the data that were "
                f"learnt from (these were: {listed(known.categories, 5)}): mend it, or accept it as none of these "
                "(--accept-unknown)"
            )
        self._unknown[name] += len(places)
        self._examples.setdefault(name, example)

    def notes(self) -> tuple[str, ...]:
        """A sentence for each column that surprised."""
        unknown = [
            f"column {short(name)!r}: {_rows(count)} values that were not learnt from, such as {self._examples[name]!r}"
            for name, count in self._unknown.items()
        ]
        missing = [
            f"column {short(name)!r}: {_rows(count)} no value, which never was so in the data that were learnt from"
            for name, count in self._missing.items()
            if count
        ]
        return (*unknown, *missing)


def _rows(count: int) -> str:
    return "1 row has" if count == 1 else f"{count:,} rows have"
