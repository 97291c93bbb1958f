"""How far something is, where a person looks on: in a terminal and in a notebook; elsewhere nothing is written."""

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

Counted = Callable[[Iterable[Any]], Iterator[Any]]
"""Hands tables on, and counts their rows."""


@contextmanager
def counted(what: str, unit: str) -> Iterator[Counted]:
    """Show on standard error how many rows have gone by, and how many a second; it is gone in the end.

    Args:
        what: is being done.
        unit: of the rows, in the plural.

    Yields:
        A function that takes tables and hands them on.
    """
    console = _console()
    if console is None:
        yield iter
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task(what, total=None)

        def count(tables: Iterable[Any]) -> Iterator[Any]:
            rows = 0
            for table in tables:
                rows += table.num_rows
                speed = rows / max(progress.tasks[0].elapsed or 0.0, 1e-3)
                progress.update(task, description=f"{what}: {rows:,} {unit}, {speed:,.0f} a second")
                yield table

        yield count


def _console() -> Any:
    """Where it can be shown; None where nobody looks on, or rich is not installed."""
    if importlib.util.find_spec("rich") is None:
        return None
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    return console if console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal) else None
