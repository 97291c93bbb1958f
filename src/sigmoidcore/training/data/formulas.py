"""Text that a spreadsheet would run as a formula gets an apostrophe in CSV, as OWASP advises (CSV injection)."""

from collections.abc import Callable
from typing import Any

from sigmoidcore.training.data.errors import pa, pc

_START = "[=+\\-@\t\r\n＝＋－＠]"
_NUMBER = r"^-[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?$"


def disarmed(table: Any) -> Any:
    """A pyarrow.Table whose texts and names are safe to open in a spreadsheet; negative numbers stay.

    Example:
        >>> disarmed(pa.table({"@a": ["=1+1", "-1", "b"], "n": [-1, 2, 3]})).to_pydict()
        {"'@a": ["'=1+1", '-1', 'b'], 'n': [-1, 2, 3]}
    """
    return _changed(table, lambda text: pc.replace_substring_regex(text, f"^('*{_START})", r"'\1"))


def armed(table: Any) -> Any:
    """The table that `disarmed` got.

    Example:
        >>> table = pa.table({"@a": ["=1+1", "'=1", "-1", "'b", None]})
        >>> armed(disarmed(table)) == table
        True
    """
    return _changed(table, lambda text: pc.replace_substring_regex(text, f"^'('*{_START})", r"\1"))


def _changed(table: Any, change: Callable[[Any], Any]) -> Any:
    """A table with its texts and names changed, except negative numbers."""
    names = _texts_changed(pa.array(table.column_names, pa.string()), change).to_pylist()
    return pa.table([_texts_changed(column, change) for column in table.columns], names=names)


def _texts_changed(column: Any, change: Callable[[Any], Any]) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    return pc.if_else(pc.match_substring_regex(column, _NUMBER), column, change(column))
