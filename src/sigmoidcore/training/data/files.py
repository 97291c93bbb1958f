"""The bytes of files, gzipped or not, within the limits of this machine's memory."""

import gzip
import os
import zlib
from pathlib import Path

from sigmoidcore.training.data.errors import DataError, short

SHARE = 4
"""A file may use 1 / SHARE of the memory: parsing it needs several times its size."""
_BLOCK = 1 << 24


def memory() -> int:
    """Bytes of this machine's memory; 1 TiB if the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 1 << 40


def check_size(path: Path, size: int) -> None:
    """Refuse a file that is too large to be read into memory."""
    largest = memory() // SHARE
    if size > largest:
        raise DataError(
            f"{path} is larger than {largest / 2**30:,.1f} GiB unpacked, a quarter of this machine's memory: convert "
            "it to Parquet, which is read in pieces (pyarrow.dataset.write_dataset)"
        )


def unpacked(path: Path) -> bytes:
    """The content of a file; gzipped content is unpacked."""
    check_size(path, path.stat().st_size)
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            if path.suffix == ".gz":
                raise DataError(f"{path} is named .gz and is not gzipped: rename it")
            return path.read_bytes()
    blocks, size = [], 0
    try:
        with gzip.open(path) as packed:
            while block := packed.read(_BLOCK):
                size += len(block)
                check_size(path, size)
                blocks.append(block)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} cannot be unpacked ({short(error)}): was it cut off? copy or load it again") from error
    return b"".join(blocks)
