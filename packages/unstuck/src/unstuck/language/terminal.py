"""Text for a terminal: its width and encoding, and text that is counted, shortened and wrapped by columns."""

import contextlib
import re
import shutil
import sys
import unicodedata
from itertools import accumulate
from typing import TextIO

NARROWEST, DEFAULT, WIDEST = 40, 80, 100
"""Columns of text: at least, without a terminal, and at most, because longer lines are hard to read."""
ASCII = str.maketrans("█→…▁▂▃▄▅▆▇▏▎▍▌▋▊▉", "#>~1234567    ###")
"""Replacements for bars, arrows and dots, one character each, so that columns stay aligned."""
WIDE, CLOSING = "\u2e80-\ua4cf\uf900-\ufaff", "\u3001\u3002\uff01\uff09\uff0c\uff1a\uff1b\uff1f"
PARTS = re.compile(f"[{WIDE}\uff08]?[^{WIDE}{CLOSING}\uff08]*[{CLOSING}]*")
"""The parts of a word that a line can end between: after a Chinese character, not before punctuation that closes."""


def width(stream: TextIO | None = None) -> int:
    """Columns of a stream, by default standard output: those of the terminal within limits, or 80."""
    stream = stream or sys.stdout
    if stream is None or getattr(stream, "closed", False) or not stream.isatty():
        return DEFAULT
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size((DEFAULT, 24)).columns))


def writable(text: str, stream: TextIO | None = None) -> str:
    """The text in characters that a stream, by default standard output, can encode."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(ASCII).encode(encoding, "replace").decode(encoding)
    return text


def say(stream: TextIO | None, *lines: str) -> None:
    """Print lines to a stream, if there is one, and never fail."""
    with contextlib.suppress(OSError, ValueError):  # closed, or not read any more
        for line in lines if stream is not None else ():
            print(writable(line, stream), file=stream, flush=True)


def printable(text: str) -> str:
    r"""The text with characters that could control a terminal escaped as in Python: names of files may hold any.

    Example:
        >>> print(printable("\x1b[31mred\n"))
        \x1b[31mred\n
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def text_width(text: str) -> int:
    """Columns of a text: East Asian wide characters take 2, combining ones 0."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shortened(text: str, limit: int) -> str:
    """At most `limit` columns of the text, without its middle.

    Of a dotted name, the parts before the last two go first, except numbers, which tell layers apart: in 24 columns,
    `encoder.layers.11.attention.output.dense` is `encoder…11…output.dense`. What PEFT puts around a name goes before.
    """
    if text.startswith("base_model.") and text_width(text) > limit:
        text = re.sub(r"^base_model\.(model\.)*", "…", text.replace(".default", ""))
    parts = text.split(".")
    order = (*range(1, len(parts) - 2), 0, len(parts) - 2) if len(parts) > 2 else ()
    for i in (i for i in order if not parts[i].isdigit()):
        if text_width(text) <= limit:
            break
        parts[i] = ""
        text = re.sub(r"^\.+|\.{2,}", "…", ".".join(parts))
    if text_width(text) <= limit:
        return text
    start = _prefix(text, (limit - 1) // 3)
    end = _prefix(text[::-1], limit - 1 - text_width(start))[::-1]
    return f"{start.rstrip('…')}…{end.lstrip('…')}"


def _prefix(text: str, limit: int) -> str:
    totals = accumulate(map(_columns, text))
    return "".join(character for character, total in zip(text, totals, strict=True) if total <= limit)


def wrapped(text: str, limit: int, first: str = "", rest: str | None = None) -> list[str]:
    """Lines of at most `limit` columns, broken between words and Chinese characters; longer words are shortened.

    The first line starts with `first`, the others with `rest`, or with `first` as well.
    """
    rest = first if rest is None else rest
    lines: list[str] = []
    for word in text.split():
        for i, part in enumerate(PARTS.findall(word)):
            part = shortened(printable(part), limit - max(text_width(first), text_width(rest)))
            joined = f"{lines[-1]}{'' if i else ' '}{part}" if lines else first + part
            if lines and text_width(joined) > limit:
                lines.append(rest + part)
            else:
                lines[-1:] = [joined]
    return lines
