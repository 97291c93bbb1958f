"""Files that sinks append lines to: what a process that was killed in the middle of a line has left."""

import os
import warnings
from pathlib import Path
from typing import BinaryIO

SHOWN = 300
"""Characters of a dropped line that the warning quotes; a row of numbers is shorter."""


def unfinished_line(file: BinaryIO) -> bytes:
    r"""The last line, if it has no end, else nothing.

    Example:
        >>> import io
        >>> unfinished_line(io.BytesIO(b"1,2\n3,")), unfinished_line(io.BytesIO(b"1,2\n"))
        (b'3,', b'')
    """
    file.seek(0)
    last = b""
    for line in file:
        last = line
    return b"" if last.endswith(b"\n") else last


def drop_unfinished_line(file: BinaryIO, path: Path) -> None:
    """Take the last line back, if it has no end: what is appended would become a part of it.

    Args:
        file: open for reading and writing.
        path: its name, for the warning.

    Warns:
        RuntimeWarning: there was one; it is quoted.
    """
    line = unfinished_line(file)
    if line:
        file.truncate(file.seek(0, os.SEEK_END) - len(line))
        text = line.decode(errors="replace")
        more = f"... ({len(text):,} characters)" if len(text) > SHOWN else ""
        warnings.warn(
            f"the last line of {path} was cut off, as by a process that was killed, and is dropped: "
            f"{text[:SHOWN]!r}{more}",
            RuntimeWarning,
            stacklevel=4,
        )
