"""The bytes and the text of files, gzipped or not, within the limits of this machine's memory."""

import contextlib
import gzip
import os
import re
import zlib
from pathlib import Path

from sigmoidcore.training.data.errors import DataError, short

SHARE = 4
"""A file may use 1 / SHARE of the memory: parsing it needs several times its size."""
_BLOCK = 1 << 24


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
            f"{path} is larger than {largest / 2**30:,.1f} GiB unpacked, a quarter of this machine's memory: convert "
            "it to Parquet, which is read in pieces (pyarrow.dataset.write_dataset)"
        )


def unpacked(path: Path) -> bytes:
    """The content of a file; gzipped content is unpacked, after its size was counted."""
    check_size(path, path.stat().st_size)
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            if path.suffix == ".gz":
                raise DataError(f"{path} is named .gz and is not gzipped: rename it")
            return path.read_bytes()
    try:
        size = 0
        with gzip.open(path) as packed:
            while block := packed.read(_BLOCK):
                size += len(block)
                check_size(path, size)
        return gzip.decompress(path.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} cannot be unpacked ({short(error)}): was it cut off? copy or load it again") from error


def text_of(path: Path) -> bytes:
    """The content of a text file in UTF-8, without a byte order mark."""
    content = unpacked(path).removeprefix(b"\xef\xbb\xbf")
    if not content or content.isspace():
        raise DataError(f"{path} is empty: give a file with column names in its first line and data below")
    try:
        content.decode()
        problem = content.find(b"\0")
    except UnicodeDecodeError as error:
        problem = error.start
    if problem >= 0:
        line = content[:problem].count(b"\n") + 1
        raise DataError(
            f"{path} is not UTF-8 text, see line {line}: save it as UTF-8, for example by iconv -f "
            f"{_encoding(content)} -t UTF-8 {short(path.name)} > new.csv"
        )
    return content


def _encoding(content: bytes) -> str:
    """The likely encoding of text that is not UTF-8."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    letters = re.findall(rb"[\x80-\xff]+", content)
    pairs = sum(len(each) % 2 == 0 for each in letters)  # GBK writes most characters with two such bytes
    try:
        content.decode("gb18030")
    except UnicodeDecodeError:
        return "WINDOWS-1252"
    return "GB18030" if 2 * pairs > len(letters) else "WINDOWS-1252"
