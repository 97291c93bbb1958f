"""How the page writes numbers and names: three digits, short, and readable to a script as well."""

import math

from sigmoidcore.diagnosis.report.columns import printable

NAME = 160
"""Characters of a name; a longer one is shortened in its middle."""


def short(value: float | None) -> str:
    """Three digits; an empty string for None.

    Example:
        >>> [short(v) for v in (None, 0.0, 0.12345, 1234.5, 1.23e-9, 0.1, math.inf, math.nan)]
        ['', '0', '0.123', '1234', '1.23e-9', '0.1', 'inf', 'nan']
    """
    if value is None:
        return ""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}".replace("-0", "0")
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def percent(share: float | None) -> str:
    """A share as a percentage, without the sign; never 0 or 100 for what only comes near it.

    Example:
        >>> [percent(s) for s in (None, 0.0, 0.0001, 0.5, 0.9999, 1.0)]
        ['', '0', '0.1', '50', '99.9', '100']
    """
    if share is None:
        return ""
    if share in (0, 1) or not math.isfinite(share):
        return f"{100 * share:g}"
    return f"{min(max(100 * share, 0.1), 99.9):.3g}"


def power(exponent: int) -> str:
    """A power of ten in HTML."""
    return {0: "1", 1: "10"}.get(exponent, f"10<sup>{exponent}</sup>".replace("-", "\N{MINUS SIGN}"))


def counted(number: int, what: str) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "layer"), counted(1200, "layer")
        ('1 layer', '1,200 layers')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def shown(name: str) -> str:
    r"""A name as the page writes it, not yet escaped.

    Example:
        >>> shown("encoder.0"), shown(""), shown("a\tb")
        ('encoder.0', '(the model)', 'a\\tb')
    """
    return clipped(name if name.isprintable() else printable(name), NAME) or "(the model)"


def clipped(text: str, most: int) -> str:
    """A text, or as much of its two ends as `most` characters hold: more of the right end, where names differ.

    Example:
        >>> clipped("encoder.layers.11.linear", 12)
        'enco….linear'
    """
    return text if len(text) <= most else f"{text[: most // 3]}…{text[most // 3 + 1 - most :]}"
