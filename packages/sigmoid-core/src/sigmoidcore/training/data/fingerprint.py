"""Fingerprints of data: a digest for each column or array, to see whether data have changed, and which."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from sigmoidcore.training.data.columns import is_number
from sigmoidcore.training.data.errors import listed, pa, pc
from sigmoidcore.language import _


class Fingerprint:
    """Collects the values of a data set, in pieces of any size."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def add(self, name: str, content: bytes | np.ndarray) -> None:
        """Add bytes, or the values of an array, to a column."""
        digest = self._found.setdefault(name, hashlib.blake2b(digest_size=8))
        digest.update(content if isinstance(content, bytes) else np.ascontiguousarray(content).data)

    def add_table(self, table: Any) -> None:
        """Add the rows of a pyarrow.Table."""
        for name, column in zip(table.column_names, table.columns, strict=True):
            if is_number(column.type):
                self.add(name, np.asarray(column.cast(pa.float64(), safe=False)))
            else:
                texts = pc.fill_null(column.cast(pa.string()), "\0").combine_chunks()
                joined = pc.binary_join(pa.ListArray.from_arrays([0, len(texts)], texts), "\n")
                self.add(name, joined[0].as_py().encode() + b"\n")

    def digests(self) -> dict[str, str]:
        """The digest of each column."""
        return {name: digest.hexdigest() for name, digest in self._found.items()}


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, ...]:
    """The differences between two fingerprints, in words; empty if the data are the same."""
    found = {
        _("changed"): [name for name in old if name in new and old[name] != new[name]],
        _("missing"): [name for name in old if name not in new],
        _("new"): [name for name in new if name not in old],
    }
    return tuple(_("{what}: {names}", what=what, names=listed(names)) for what, names in found.items() if names)
