"""Names and numbers in sentences: short, whatever the number of layers."""

from collections.abc import Sequence

SHOWN = 3
"""Names that are spelled out."""


def number(value: float) -> str:
    """Two digits."""
    return f"{value:.2g}"


def share(value: float) -> str:
    """A share in percent; 0 or 100 % only if it is exact."""
    percent = 100 * value
    if 0 < percent < 1:
        return "less than 1 %"
    if 99 < percent < 100:
        return "more than 99 %"
    return f"{percent:.0f} %"


def named(name: str) -> str:
    """A name as code; the model itself has none."""
    return f"`{name}`" if name else "the model itself"


def listed(names: Sequence[str], every: Sequence[str] = (), noun: str = "layers") -> str:
    """Names in a sentence: all, or a range, or the first three and the number of the others.

    Args:
        names: the names to list.
        every: all names of the kind, in order; neighbours in it are written as a range.
        noun: plural of the listed things.

    Example:
        >>> listed(["0", "2", "4", "6"], ["0", "2", "4", "6", "8"])
        '`0` to `6` (4 of 5 layers)'
        >>> listed(["a", "b", "c", "d", "e"])
        '`a`, `b`, `c` and 2 more'
    """
    wanted = set(names)
    places = [i for i, name in enumerate(every) if name in wanted]
    if len(places) > SHOWN and places[-1] - places[0] + 1 == len(places):
        return f"{named(every[places[0]])} to {named(every[places[-1]])} ({len(places)} of {len(every)} {noun})"
    shown = [named(name) for name in names[:SHOWN]]
    if len(names) > SHOWN:
        return f"{', '.join(shown)} and {len(names) - SHOWN} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


def same_in(names: Sequence[str]) -> str:
    """A sentence about all names but the first, or ""."""
    return f" The same holds for {listed(names[1:])}." if len(names) > 1 else ""


def verb(names: Sequence[str], one: str, several: str) -> str:
    """The form of a verb that fits the number of names."""
    return one if len(names) == 1 else several
