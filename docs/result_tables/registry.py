"""The functions that make tables and sentences, by the name of the table and by the page."""

from collections.abc import Callable, Iterator

Cells = Iterator[tuple[str, ...]]
TABLES: dict[str, Callable[[], Cells]] = {}
SENTENCES: dict[str, Callable[[], Iterator[str]]] = {}


def table(function: Callable[[], Cells]) -> Callable[[], Cells]:
    """Register the function that makes the rows of a table, under its name."""
    TABLES[function.__name__] = function
    return function


def sentences(page: str) -> Callable[[Callable[[], Iterator[str]]], Callable[[], Iterator[str]]]:
    """Register the function that makes sentences which the page must contain."""

    def register(function: Callable[[], Iterator[str]]) -> Callable[[], Iterator[str]]:
        assert page not in SENTENCES, f"one function makes all sentences of {page}"
        SENTENCES[page] = function
        return function

    return register
