"""Text that a spreadsheet would run as a formula gets an apostrophe in CSV, as OWASP advises (CSV injection)."""

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
    names = _disarmed(pa.array(table.column_names, pa.string())).to_pylist()
    return pa.table([_disarmed(column) for column in table.columns], names=names)


def _disarmed(column: Any) -> Any:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return column
    changed = pc.replace_substring_regex(column, f"^({_START})", r"'\1")
    return pc.if_else(pc.match_substring_regex(column, _NUMBER), column, changed)
