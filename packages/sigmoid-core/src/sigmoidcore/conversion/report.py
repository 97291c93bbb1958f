"""The report of `convert`: what happened to every activation and recurrent layer, and why."""

import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sigmoidcore.conversion.activations import WITH_MEAN

_NAMES_SHOWN, _WIDTH, _ROOM = 3, 80, 26
_REMEDY = (
    "Calls of torch.tanh and the like in a forward that is not seen can become cores as modules: self.tanh = nn.Tanh()."
)
_SHALLOW = 10
_CENTERED = (
    "{} cores are not centered, and so deep a network hardly learns: build the model again and call "
    "sc.convert(model, centered=True)."
)


@dataclass(frozen=True)
class Activation:
    """What `convert` did with one activation, or one recurrent layer.

    Attributes:
        name: its name in the model. A functional call has the name of its core, or the one that a core would have.
        kind: class of the module, or "tanh()" for a functional call.
        converted: whether it is a core, or a layer of cores, now.
        why: the reason.
        exact: whether the core computes the same function. False for a centered core of a sigmoid.

    Example:
        >>> from torch import nn
        >>> import sigmoidcore as sc
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        >>> sc.convert(model).activations[0]
        Activation(name='1', kind='Tanh', converted=True, why='hidden', exact=True)
    """

    name: str
    kind: str
    converted: bool
    why: str
    exact: bool = True


@dataclass(frozen=True)
class Conversion:
    """What `convert` did with a model; `print` it.

    Attributes:
        activations: every activation and recurrent layer that was found, in the order of the model's modules.
        unseen: modules whose forward cannot be traced, by name, with the reason. Functional calls in them are not
            among the activations.

    Example:
        >>> from torch import nn
        >>> import sigmoidcore as sc
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1), nn.Sigmoid())
        >>> report = sc.convert(model)
        >>> report.converted, report.left, report.changed, report.unseen
        (('1',), ('3',), (), ())
    """

    activations: tuple[Activation, ...]
    unseen: tuple[tuple[str, str], ...]

    @property
    def converted(self) -> tuple[str, ...]:
        """Names of the activations that are cores now."""
        return tuple(a.name for a in self.activations if a.converted)

    @property
    def left(self) -> tuple[str, ...]:
        """Names of the activations that were left alone."""
        return tuple(a.name for a in self.activations if not a.converted)

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the activations whose function changed, as asked for."""
        return tuple(a.name for a in self.activations if not a.exact)

    def __str__(self) -> str:
        """A line for each reason, with the names that it holds for; at most 80 columns, if names are short."""
        groups: dict[tuple[str, str, str], list[str]] = defaultdict(list)
        for a in sorted(self.activations, key=lambda a: not a.converted):
            groups["converted" if a.converted else "left", a.kind, a.why].append(a.name or "(the model)")
        for name, why in self.unseen:
            groups["not seen", "forward", why].append(name or "(the model)")
        rows = [(done, few(names), kind, why) for (done, kind, why), names in groups.items()]
        head = f"converted {len(self.converted)} of {len(self.activations)} activations"
        if self.changed:
            head = textwrap.fill(f"{head}; the function has changed at {few(self.changed)}", _WIDTH)
        plain = sum(a.converted and a.exact and a.kind in WITH_MEAN for a in self.activations)
        deep = [textwrap.fill(_CENTERED.format(plain), _WIDTH)] if plain > _SHALLOW else []
        return "\n".join([head, *_lines(rows), *deep, *([textwrap.fill(_REMEDY, _WIDTH)] if self.unseen else [])])


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


def _lines(rows: list[tuple[str, str, str, str]]) -> list[str]:
    """The rows as a table; the reasons are in the lines below if there is little room beside the names."""
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    starts = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
    room = _WIDTH - sum(widths) - 8
    fits = room >= min(_ROOM, max((len(row[3]) for row in rows), default=0))
    indent = " " * (_WIDTH - room if fits else widths[0] + 4)
    lines: list[str] = []
    for start, (*_, reason) in zip(starts, rows, strict=True):
        lines += [] if fits else [start.rstrip()]
        first = f"{start}  " if fits else indent
        lines.append(textwrap.fill(reason, _WIDTH, initial_indent=first, subsequent_indent=indent))
    return lines
