"""Files that may be gzipped, unpacked as far as this machine's memory allows and no further."""

import gzip
import zlib
from pathlib import Path

from sigmoidcore.training.data.error import DataError, short
from sigmoidcore.training.data.memory import memory

SHARE = 4
"""What a file is unpacked to may take this part of the memory: reading it takes as much again, and more."""
_BLOCK = 1 << 24


def largest() -> int:
    """Bytes that a file may be unpacked to."""
    return memory() // SHARE


def unpacked(path: Path) -> tuple[bytes, bool]:
    """What is in a file, and whether it was gzipped.

    Raises:
        DataError: it cannot be unpacked, or would be larger than `largest()`.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return path.read_bytes(), False
    blocks, size = [], 0
    try:
        with gzip.open(path) as packed:
            while block := packed.read(_BLOCK):
                size += len(block)
                if size > largest():
                    raise DataError(too_large(path))
                blocks.append(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} cannot be unpacked ({short(error)}): was it cut off? copy or load it again") from error
    return b"".join(blocks), True


def too_large(path: Path) -> str:
    """The sentence for a file that is unpacked to more than there is room for."""
    return (
        f"{path} is unpacked to more than {largest() / 2**30:,.1f} GiB, a quarter of this machine's memory: give it as "
        "Parquet, which is read in pieces"
    )
