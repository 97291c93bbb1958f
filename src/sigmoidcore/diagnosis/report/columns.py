"""Text in the columns of a terminal: counted, shortened, padded, wrapped, and code folded so that it still runs."""

import ast
import unicodedata
from collections.abc import Sequence

DOTS = "…"
INDENT = 4
"""Columns of a folded call's arguments."""


def printable(text: str) -> str:
    r"""The text with what a terminal would not show, or obey, written as Python escapes it: `\n`, `\x1b`, `\ud800`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def columns(text: str) -> int:
    """How many columns a text takes: East Asian wide characters take 2, combining ones 0."""
    return sum(map(_columns, text))


def shortened(text: str, limit: int) -> str:
    """At most `limit` columns of the text: what is left out is in the middle.

    Of a dotted name, parts between the first and the last go first, but not numbers, which tell layers apart:
    `encoder.layers.11.attention.output.dense` in 24 columns is `encoder…11…output.dense`.
    """
    if columns(text) <= limit:
        return text
    parts = text.split(".")
    kept = [True] * len(parts)
    for i in range(1, len(parts) - 1):
        if not parts[i].isdigit():
            kept[i] = False
            if columns(_dotted(parts, kept)) <= limit:
                return _dotted(parts, kept)
    return _ends(_dotted(parts, kept), limit)


def left(text: str, width: int) -> str:
    """The text with spaces behind it, `width` columns in all."""
    return text + " " * (width - columns(text))


def right(text: str, width: int) -> str:
    """The text with spaces before it, `width` columns in all."""
    return " " * (width - columns(text)) + text


def wrapped(text: str, limit: int) -> list[str]:
    """Lines of at most `limit` columns, broken between words; a word that is longer is shortened."""
    lines: list[str] = []
    for word in map(printable, text.split()):
        word = shortened(word, limit)
        if lines and columns(lines[-1]) + 1 + columns(word) <= limit:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def folded(code: str, limit: int) -> list[str]:
    """Lines of at most `limit` columns of Python code that means the same; text that is no Python is wrapped.

    Only calls, lists, tuples and strings fold; what is still too long after that is wrapped, too.
    """
    written = [printable(line) for line in code.splitlines()]
    if all(columns(line) <= limit for line in written):
        return written
    try:
        lines = [line for part in ast.parse(code).body for line in _statement(code, part, limit)]
    except (SyntaxError, ValueError, RecursionError):
        return wrapped(code, limit)
    return lines if all(columns(line) <= limit for line in lines) else wrapped(code, limit)


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _dotted(parts: Sequence[str], kept: Sequence[bool]) -> str:
    """The parts that are kept, with dots for those between them that are not."""
    name = parts[0]
    for i in range(1, len(parts)):
        if kept[i]:
            name += ("." if kept[i - 1] else DOTS) + parts[i]
    return name


def _ends(text: str, limit: int) -> str:
    """The two ends of the text; more of the right one, where names differ."""
    room = max(0, limit - columns(DOTS))
    beginning = _fitting(text, room // 3)
    end = _fitting(text[::-1], room - columns(beginning))[::-1]
    while end and not _columns(end[0]):
        end = end[1:]  # a combining character without the letter that it belongs to
    return beginning.rstrip(DOTS) + DOTS + end.lstrip(DOTS)


def _fitting(text: str, limit: int) -> str:
    """The longest beginning of the text that takes at most `limit` columns."""
    taken = 0
    for i, character in enumerate(text):
        taken += _columns(character)
        if taken > limit:
            return text[:i]
    return text


def _statement(code: str, statement: ast.stmt, limit: int) -> list[str]:
    if isinstance(statement, ast.Expr):
        return _folded(code, statement.value, limit)
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = f"{_source(code, statement.targets[0])} = "
        return _joined(target, _folded(code, statement.value, limit - columns(target)))
    return [printable(_source(code, statement))]


def _folded(code: str, node: ast.expr, limit: int) -> list[str]:
    whole = _source(code, node)
    if columns(whole) <= limit:
        return [whole]
    inside = limit - INDENT
    if isinstance(node, ast.Call):
        arguments = [_folded(code, argument, inside - 1) for argument in node.args]
        for keyword in node.keywords:
            name = f"{keyword.arg}=" if keyword.arg else "**"
            arguments.append(_joined(name, _folded(code, keyword.value, inside - 1 - len(name))))
        lines = [line for argument in arguments for line in [*argument[:-1], argument[-1] + ","]]
        return _bracketed(_source(code, node.func) + "(", lines, ")")
    if isinstance(node, ast.List | ast.Tuple) and node.elts:
        elements = [_folded(code, element, inside - 1) for element in node.elts]
        return _bracketed(*_brackets(node, _filled(elements, inside)))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _bracketed("(", [_quoted(piece) for piece in _pieces(node.value, inside - 2)], ")")
    return [whole]


def _brackets(node: ast.List | ast.Tuple, lines: Sequence[str]) -> tuple[str, Sequence[str], str]:
    return ("[", lines, "]") if isinstance(node, ast.List) else ("(", lines, ")")


def _bracketed(opening: str, lines: Sequence[str], closing: str) -> list[str]:
    return [opening, *(" " * INDENT + line for line in lines), closing]


def _joined(before: str, lines: Sequence[str]) -> list[str]:
    return [before + lines[0], *lines[1:]]


def _filled(elements: Sequence[Sequence[str]], limit: int) -> list[str]:
    """Elements one after the other, as many in a line as fit."""
    lines: list[str] = []
    for element in elements:
        first = element[0] + ("," if len(element) == 1 else "")
        if lines and len(element) == 1 and columns(lines[-1]) + 1 + columns(first) <= limit:
            lines[-1] += " " + first
        else:
            lines += [*element[:-1], element[-1] + ","]
    return lines


def _source(code: str, node: ast.AST) -> str:
    """The node as it was written, if that is one line."""
    written = ast.get_source_segment(code, node)
    return printable(written) if written and "\n" not in written else ast.unparse(node)


def _pieces(text: str, limit: int) -> list[str]:
    pieces = [""]
    for character in text:
        if columns(_quoted(pieces[-1] + character)) - 2 > limit:
            pieces.append("")
        pieces[-1] += character
    return pieces


def _quoted(text: str) -> str:
    """A literal in double quotes, unless it holds such."""
    literal = repr(text)
    return literal if '"' in literal or "\\'" in literal else f'"{literal[1:-1]}"'
