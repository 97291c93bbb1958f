"""Text that cannot do anything to a terminal."""


def printable(text: str) -> str:
    r"""The text with what is not printable as escapes: names of files and columns may hold any character.

    Example:
        >>> print(printable("\x1b[31mred"))
        \x1b[31mred
    """
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
