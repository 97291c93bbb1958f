"""The report of `convert`: what was done with every activation and recurrent layer, and why."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

NAMES_SHOWN = 3


@dataclass(frozen=True)
class Activation:
    """What `convert` did with one activation, or one recurrent layer.

    Attributes:
        name: its name in the model; a functional call is named as its core is, or would be.
        kind: class of the module, or "tanh()" for a functional call.
        converted: whether it is a core, or a layer of cores, now.
        why: the reason.
        exact: the core computes the same function; False for the nearest core of another kind, and for a sigmoid's
            that is centered.

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
        unseen: modules whose forward could not be traced, by name, with the reason: functional calls in them were not
            seen.

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
        """Names of the activations whose function is another one now, as was asked for."""
        return tuple(a.name for a in self.activations if not a.exact)

    def __str__(self) -> str:
        """A line for each reason, with the names that it holds for."""
        groups: dict[tuple[bool, str, str], list[str]] = defaultdict(list)
        for a in self.activations:
            groups[not a.converted, a.kind, a.why].append(a.name or "(the model)")
        rows = [
            ("left" if left else "converted", few(names), kind, why)
            for (left, kind, why), names in sorted(groups.items(), key=lambda item: item[0][0])
        ]
        unseen: dict[str, list[str]] = defaultdict(list)
        for name, why in self.unseen:
            unseen[why].append(name or "(the model)")
        rows += [("not seen", few(names), "forward", f"could not be traced: {why}") for why, names in unseen.items()]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        head = f"converted {len(self.converted)} of {len(self.activations)} activations"
        if self.changed:
            head += f"; the function has changed at {few(self.changed)}"
        return "\n".join(
            [
                head,
                *("  " + "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in rows),
            ]
        )


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} and {len(names) - NAMES_SHOWN} more"
