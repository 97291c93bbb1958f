"""Fonts for characters that Matplotlib's default font does not have, such as Chinese ones."""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from matplotlib.font_manager import FontEntry, FontProperties, findfont, findSystemFonts, fontManager, get_font

_FIRST = re.compile("CJK|Han Sans|Hei|PingFang")
"""Families with most characters of Chinese, Japanese and Korean, without serifs."""


@contextmanager
def without_notes_on_weights() -> Iterator[None]:
    """Hide that a fallback font has no bold face: Matplotlib takes another one, and says so for every text."""
    logger = logging.getLogger("matplotlib.font_manager")

    def wanted(record: logging.LogRecord) -> bool:
        return "find font weight" not in str(record.msg)

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def fallback_families(text: str) -> tuple[str, ...]:
    """Installed families for characters that the default font does not have; a warning if there are none."""
    known = _characters(findfont(FontProperties()))
    missing = frozenset(c for c in text if c.isprintable() and not c.isspace() and ord(c) not in known)
    return _families(missing) if missing else ()


@cache
def _families(missing: frozenset[str]) -> tuple[str, ...]:
    found: list[str] = []
    for font in _fonts():
        if covered := {c for c in missing if ord(c) in _characters(font.fname)}:
            found.append(font.name)
            missing -= covered
        if not missing:
            return tuple(found)
    characters = "".join(sorted(missing)[:10])
    warnings.warn(
        f"no installed font has the characters {characters}, so figures show boxes for them: install one, such as "
        "Noto Sans CJK (Debian's package fonts-noto-cjk) for Chinese",
        stacklevel=2,
    )
    return tuple(found)


def _fonts() -> Iterator[FontEntry]:
    """Upright fonts, the likeliest first, then those installed after Matplotlib made its list."""

    def rank(font: FontEntry) -> tuple[bool, bool, bool, bool, str]:
        name = font.name
        return not _FIRST.search(name), "Serif" in name, "SC" not in name.split(), font.weight != 400, name

    upright = [font for font in fontManager.ttflist if font.style == "normal"]
    yield from (font for font in sorted(upright, key=rank) if not font.name.startswith("Last Resort"))  # all boxes
    listed = len(fontManager.ttflist)
    for path in {*findSystemFonts()} - {font.fname for font in fontManager.ttflist}:
        fontManager.addfont(Path(path))
    yield from fontManager.ttflist[listed:]


def _characters(path: str) -> Mapping[int, int]:
    return get_font(path).get_charmap()
