"""The text of files, gzipped or not, within the limits of this machine's memory."""

import contextlib
import gzip
import os
import zlib
from pathlib import Path

from sigmoidcore.training.data.errors import DataError
from unstuck.language.errors import short

SHARE = 4
"""A file may use 1 / SHARE of the memory: parsing it needs several times its size."""


def memory() -> int:
    """Bytes that this process may use, of the machine, its container or its limit; 1 TiB if unknown."""
    found = [1 << 40]
    with contextlib.suppress(AttributeError, OSError, ValueError):
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # the file says "max" if there is no limit
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        found += [limit] if limit > 0 else []
    return min(found)


def check_size(path: Path, size: int) -> None:
    """Refuse a file that is too large to be read into memory."""
    largest = memory() // SHARE
    if size > largest:
        raise DataError(
            "{path} is larger than {largest:,.1f} GiB unpacked, a quarter of this machine's "
            "memory: convert it to Parquet, which is read in pieces (pyarrow.dataset.write_dataset)",
            path=path,
            largest=largest / 2**30,
        )


def text_of(path: Path) -> bytes:
    """The content of a text file in UTF-8, gzipped or not, without a byte order mark."""
    broken = DataError.replacing(
        "{path} cannot be unpacked ({error}): was it cut off? copy or load it again",
        EOFError, zlib.error, gzip.BadGzipFile, path=path,
    )  # fmt: skip
    with broken, path.open("rb") as plain:
        gzipped = plain.peek(2)[:2] == b"\x1f\x8b"
        if path.suffix == ".gz" and not gzipped:
            raise DataError("{path} is named .gz and is not gzipped: rename it", path=path)
        with gzip.open(plain) if gzipped else plain as file:
            content = file.read(memory() // SHARE + 1).removeprefix(b"\xef\xbb\xbf")
    check_size(path, len(content))
    if not content or content.isspace():
        raise DataError("{path} is empty: give a file with column names in its first line and data below", path=path)
    try:
        content.decode()
        problem = content.find(b"\0")
    except UnicodeDecodeError as error:
        problem = error.start
    if problem >= 0:
        line = content[:problem].count(b"\n") + 1
        raise DataError(
            "{path} is not UTF-8 text, see line {line}: save it as UTF-8, for example by iconv -f "
            "GB18030 (or UTF-16, or WINDOWS-1252) -t UTF-8 {name} > new.csv",
            path=path,
            line=line,
            name=short(path.name),
        )
    return content
