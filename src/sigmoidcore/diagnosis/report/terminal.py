"""Where a diagnosis is printed: how wide that is, and which characters it has."""

import shutil
import sys

NARROWEST, USUAL, WIDEST = 40, 80, 100
"""Columns of text: at least, where no terminal is, and at most, for longer lines are hard to read."""
PLAIN = str.maketrans(
    {"█": "#", "→": ">", "…": "~"}
    | dict(zip("▁▂▃▄▅▆▇", "1234567", strict=True))
    | dict(zip("▏▎▍▌▋▊▉", "    ###", strict=True))
)
"""What stands for bars, arrows and dots in ASCII: a character each, so that columns stay."""


def width() -> int:
    """Columns of standard output, within limits: those of the terminal, or 80."""
    if sys.stdout is None or not sys.stdout.isatty():
        return USUAL
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((USUAL, 24)).columns))


def writable(text: str) -> str:
    """The text as standard output can write it: where that has no bars and arrows, in ASCII."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(PLAIN).encode(encoding, "replace").decode(encoding)
    return text
