"""Numbers and names in reports and findings: short, whatever the number of layers."""

import math
from collections.abc import Sequence

from unstuck.language import _, language

SHOWN = 3
"""Names that are spelled out."""


def short_number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits; an empty string for None.

    Example:
        >>> [short_number(v) for v in (None, 0.0, 0.12345, 1234.5, 1.23e-9, 0.1, math.inf, math.nan)]
        ['', '0', '0.123', '1234', '1.23e-9', '0.1', 'inf', 'nan']
    """
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}".replace("-0", "0")
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"
    number, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number}e{int(exponent)}"


def number(value: float) -> str:
    """Two digits."""
    return short_number(value, 2)


def percent(share: float | None) -> str:
    """A share as a percentage, without the sign; only an exact 0 or 1 gives 0 or 100.

    Example:
        >>> [percent(s) for s in (None, 0.0, 0.0001, 0.5, 0.9999, 1.0)]
        ['', '0', '0.1', '50', '99.9', '100']
    """
    if share is None:
        return ""
    if share in (0, 1) or not math.isfinite(share):
        return f"{100 * share:g}"
    return f"{min(max(100 * share, 0.1), 99.9):.3g}"


def counted(count: int, noun: str) -> str:
    """A number with its noun; the catalogue of a language has "{count} layers" for "layer"."""
    if count == 1 and language() == "en":
        return f"1 {noun}"
    return _(f"{{count}} {noun}s", count=f"{count:,}")


def named(name: str) -> str:
    """A name as code; the model itself has none."""
    return f"`{name}`" if name else _("the model itself")


def listed(names: Sequence[str], every: Sequence[str] = (), noun: str = "layer") -> str:
    """Names in a sentence: all, or a range of `every`, or the first three and the number of the others.

    Example:
        >>> listed(["0", "2", "4", "6"], ["0", "2", "4", "6", "8"])
        '`0` to `6` (4 of 5 layers)'
        >>> listed(["a", "b", "c", "d", "e"])
        '`a`, `b`, `c` and 2 more'
    """
    wanted = set(names)
    places = [i for i, name in enumerate(every) if name in wanted]
    if len(places) > SHOWN and places[-1] - places[0] + 1 == len(places):
        first, last = named(every[places[0]]), named(every[places[-1]])
        of = {"count": len(places), "all": counted(len(every), noun)}
        return _("{first} to {last} ({count} of {all})", first=first, last=last, **of)
    *parts, last = [named(name) for name in names] or [""]
    if len(names) > SHOWN:
        return few([*parts, last])
    return _("{names} and {last}", names=_(", ").join(parts), last=last) if parts else last


def few(names: Sequence[str], most: int = SHOWN) -> str:
    """The first names as they are, and the number of the others."""
    shown = _(", ").join(names[:most])
    return shown if len(names) <= most else _("{names} and {count} more", names=shown, count=f"{len(names) - most:,}")


def same_in(names: Sequence[str]) -> str:
    """A sentence about all names but the first, or ""."""
    return _(" The same holds for {names}.", names=listed(names[1:])) if len(names) > 1 else ""


def in_one_line(error: Exception) -> str:
    """An error with its class.

    Example:
        >>> in_one_line(ValueError("no rows"))
        'ValueError: no rows'
    """
    return f"{type(error).__name__}: {error}".splitlines()[0]


def verb(names: Sequence[object], one: str, several: str) -> str:
    """The form of a verb that fits the number of names."""
    return one if len(names) == 1 else several
