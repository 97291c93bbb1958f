"""The terminal or file that the demo is printed to."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from unstuck.language.terminal import wrapped

Figures = list[tuple[str, Figure, str]]  # names of files, figures, and what they show


class Screen(Console):
    """The terminal or file that the demo is printed to."""

    def heading(self, text: str) -> None:
        """The first line of a section."""
        self.print(Padding(Text(text, "bold"), (1, 0, 0, 0), expand=False))

    def say(self, text: str, style: str = "", above: int = 0) -> None:
        """A paragraph, below so many empty lines."""
        self.print(Padding(Text("\n".join(wrapped(text, self.width - 3)), style), (above, 0, 0, 3), expand=False))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table, whose last column is highlighted."""
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
        for i, column in enumerate(columns):
            style = "bold green" if i == len(columns) - 1 else ""
            table.add_column(column, justify="right" if i else "left", style=style)
        for row in rows:
            table.add_row(*row)
        self.print(Padding(table, (1, 0, 0, 3), expand=False))
