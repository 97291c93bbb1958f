"""Text for a terminal: its width and encoding, and text that is counted, shortened and wrapped by columns."""

import io
import re
import shutil
import sys
import tokenize
import unicodedata
from itertools import accumulate

NARROWEST, DEFAULT, WIDEST = 40, 80, 100
"""Columns of text: at least, without a terminal, and at most, because longer lines are hard to read."""
ASCII = str.maketrans(
    {"█": "#", "→": ">", "…": "~"}
    | dict(zip("▁▂▃▄▅▆▇", "1234567", strict=True))
    | dict(zip("▏▎▍▌▋▊▉", "    ###", strict=True))
)
"""Replacements for bars, arrows and dots, one character each, so that columns stay aligned."""


def width() -> int:
    """Columns of standard output: those of the terminal within limits, or 80."""
    if sys.stdout is None or not sys.stdout.isatty():
        return DEFAULT
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((DEFAULT, 24)).columns))


def writable(text: str) -> str:
    """The text in characters that standard output can encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(ASCII).encode(encoding, "replace").decode(encoding)
    return text


def printable(text: str) -> str:
    r"""The text with control characters escaped as in Python: `\n`, `\x1b`, `\ud800`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def columns(text: str) -> int:
    """Columns of a text: East Asian wide characters take 2, combining ones 0."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shortened(text: str, limit: int) -> str:
    """At most `limit` columns of the text, without its middle.

    Of a dotted name, the parts between the first and the last go first, except numbers, which tell layers apart:
    `encoder.layers.11.attention.output.dense` in 24 columns is `encoder…11…output.dense`.
    """
    if columns(text) <= limit:
        return text
    parts = text.split(".")
    for i in range(1, len(parts) - 1):
        if not parts[i].isdigit():
            parts[i] = ""
            shorter = re.sub(r"\.{2,}", "…", ".".join(parts))
            if columns(shorter) <= limit:
                return shorter
    text = re.sub(r"\.{2,}", "…", ".".join(parts))
    start = _prefix(text, (limit - 1) // 3)
    end = _prefix(text[::-1], limit - 1 - columns(start))[::-1]
    return f"{start.rstrip('…')}…{end.lstrip('…')}"


def _prefix(text: str, limit: int) -> str:
    taken = accumulate(map(_columns, text))
    return "".join(character for character, total in zip(text, taken, strict=True) if total <= limit)


def wrapped(text: str, limit: int, first: str = "", rest: str | None = None) -> list[str]:
    """Lines of at most `limit` columns, broken between words; longer words are shortened.

    Args:
        text: any text.
        limit: columns of a line.
        first: start of the first line.
        rest: start of the other lines; None: as `first`.
    """
    rest = first if rest is None else rest
    lines: list[str] = []
    for word in map(printable, text.split()):
        word = shortened(word, limit - max(columns(first), columns(rest)))
        if lines and columns(lines[-1]) + 1 + columns(word) <= limit:
            lines[-1] += " " + word
        else:
            lines.append((rest if lines else first) + word)
    return lines


def folded(code: str, limit: int) -> list[str]:
    """Python code in lines of at most `limit` columns that run the same.

    A line breaks after a comma or a bracket. A longer name is not broken, so that the code can be copied.
    """
    if columns(code) <= limit or "\n" in code:
        return [printable(line) for line in code.splitlines()]
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    except (tokenize.TokenError, SyntaxError):  # not Python
        return wrapped(code, limit)
    cuts = [token.end[1] for token in tokens if token.string in (",", "(", "[", ";")]
    return _filled([code[i:j] for i, j in zip([0, *cuts], [*cuts, None], strict=True)], limit)


def _filled(pieces: list[str], limit: int) -> list[str]:
    """Pieces of code, as many in a line as fit; a statement begins a line."""
    lines = [""]
    for piece in map(printable, pieces):
        if lines[-1].endswith(";"):
            lines[-1] = lines[-1].rstrip(";")
            lines.append(piece.strip())
        elif columns(lines[-1] + piece.rstrip()) <= limit:
            lines[-1] += piece
        else:
            lines[-1] = lines[-1].rstrip()
            lines.append("    " + piece.strip())
    return lines
