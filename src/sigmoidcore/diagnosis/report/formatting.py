"""Numbers in a report: short, and readable by a script as well."""

import math


def short(value: float | None, digits: int = 3) -> str:
    """Three digits, or another number of them; an empty string for None.

    Example:
        >>> [short(v) for v in (None, 0.0, 0.12345, 1234.5, 1.23e-9, 0.1, math.inf, math.nan)]
        ['', '0', '0.123', '1234', '1.23e-9', '0.1', 'inf', 'nan']
    """
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}".replace("-0", "0")
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"
    number, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{number.rstrip('0').rstrip('.')}e{int(exponent)}"


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


def counted(number: int, noun: str) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "layer"), counted(1200, "layer")
        ('1 layer', '1,200 layers')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
