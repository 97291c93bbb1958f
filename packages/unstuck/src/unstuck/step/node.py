"""One call of PyTorch in a recorded step, or a tensor from outside. The words are those of `torch.fx.Node`."""

import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unstuck.observation.batch import MOST_DEPTH

NO_TENSOR = frozenset(
    {"__set__", "requires_grad_", "dim", "size", "stride", "numel", "is_floating_point", "is_complex", "__len__"}
)
"""Functions that make no new tensor and change none."""


class Node:
    """A call, or a placeholder for a tensor that no call of the step has made.

    Attributes:
        op: "call_function", or the kind of a placeholder: "parameter", "buffer", "input" (of a model), "constant".
        target: the function, or the name of a parameter or a buffer, or a number for other placeholders.
        function: the name of the function without underscores at its ends; "" for a placeholder.
        args, kwargs: as the user's code gave them, with a Node in the place of each tensor.
        reads: the nodes in `args` and `kwargs`, in order; one that is given twice is there twice.
        users: the nodes that read this one.
        module: the name of the innermost module of the model that ran; "" is the model itself; None: no module.
        place: file and line of the user's code; ("", 0) if unknown.
        shape, dtype, requires_grad: of the tensor that it made; a call with several results has no shape and no dtype.
        grad_enabled, autocast: the state in which it ran: (device, dtype) of autocast, or None.
        leaf: `requires_grad_` made a leaf of what it returned.
        value: the tensor of an input or a constant.
        made_by: of a constant, the call that made it before the forward pass, where another network ran.
        tensor: a function that returns the tensor that it made, while it exists.
    """

    module: str | None = None
    place: tuple[str, int] = ("", 0)
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    requires_grad = False
    grad_enabled = True
    autocast: tuple[str, torch.dtype] | None = None
    leaf = False
    value: Tensor | None = None
    made_by: "Node | None" = None
    function = ""
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    reads: tuple["Node", ...] = ()
    tensor: Callable[[], Tensor | None] = staticmethod(lambda: None)

    def __init__(self, op: str, target: Any) -> None:
        self.op = op
        self.target = target
        self.users: dict[Node, None] = {}

    @property
    def all_input_nodes(self) -> list["Node"]:
        """The nodes that it reads, in order, each once."""
        return list(dict.fromkeys(self.reads))

    @property
    def sources(self) -> tuple["Node", ...]:
        """What it was computed from, also before the forward pass."""
        return self.reads if self.made_by is None else (self.made_by,)

    @property
    def floating(self) -> bool:
        """Whether it is a tensor of floating-point numbers."""
        return self.dtype is not None and self.dtype.is_floating_point

    @property
    def line(self) -> str:
        """File and line of the user's code, as in "train.py:12"; "" if they are not known."""
        return f"{Path(self.place[0]).name}:{self.place[1]}" if self.place[0] else ""

    @property
    def moving(self) -> list["Node"]:
        """Those of its `reads` that require a gradient."""
        return [node for node in self.reads if node.requires_grad]

    def through(self, functions: Collection[str]) -> "Node":
        """The first node on the way back, along first arguments, that is no call of these functions."""
        node = self
        while node.function in functions and node.reads:
            node = node.reads[0]
        return node

    def makes(self, tensor: Tensor) -> None:
        """Take shape, dtype and whether a gradient is required from the tensor that it made."""
        self.dtype, self.requires_grad = tensor.dtype, tensor.requires_grad
        if not tensor.is_nested:
            self.shape = tuple(tensor.shape)
        self.tensor = weakref.ref(tensor)

    def __repr__(self) -> str:
        what = self.function if self.op == "call_function" else f"{self.op} {self.target}"
        return f"<{what} {list(self.shape)}{f' in {self.module}' if self.module else ''}>"


def reached(starts: Iterable[Node], to: Callable[[Node], Iterable[Node]]) -> Iterator[Node]:
    """What steps lead to from some nodes: these first, then what is near, each once."""
    waiting = list(dict.fromkeys(starts))
    seen = set(waiting)
    for node in waiting:
        yield node
        new = [other for other in dict.fromkeys(to(node)) if other not in seen]
        seen.update(new)
        waiting += new


def numbered(nodes: Sequence[Node]) -> dict[Node, int]:
    """How many of these nodes ran in the same module before, for each."""
    return {node: [other.module for other in nodes[:i]].count(node.module) for i, node in enumerate(nodes)}


def tensors_in(values: Any, depth: int = MOST_DEPTH) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts, in order, down to this depth: a dict may contain itself."""
    if isinstance(values, Tensor):
        yield values
        return
    children = values.values() if isinstance(values, dict) else values if isinstance(values, tuple | list) else ()
    for child in children:
        if isinstance(child, Tensor):
            yield child
        elif isinstance(child, tuple | list | dict) and depth:
            yield from tensors_in(child, depth - 1)


def mapped(values: Any, kind: type, change: Callable[[Any], Any], depth: int = MOST_DEPTH) -> Any:
    """Nested tuples, lists and dicts with `change` applied to each value of a kind; named tuples stay such."""
    if isinstance(values, kind):
        return change(values)
    if not isinstance(values, tuple | list | dict) or depth < 0:
        return values
    if isinstance(values, dict):
        return {key: mapped(value, kind, change, depth - 1) for key, value in values.items()}
    parts = [mapped(value, kind, change, depth - 1) for value in values]
    if isinstance(values, list):
        return parts
    return type(values)(*parts) if hasattr(values, "_fields") else tuple(parts)


@cache
def name_of(function: Callable[..., Any]) -> str:
    """The name of a function without underscores at its ends; "" for those that make no tensor and change none."""
    name = str(getattr(function, "__name__", ""))
    if name == "__get__":  # an attribute of a tensor, such as T or data
        attribute = str(getattr(getattr(function, "__self__", None), "__name__", ""))
        return attribute if attribute in ("T", "mT", "H", "mH", "data", "real", "imag") else ""
    # An operator of ATen, as exported models call them, is named `linear.default`.
    return "" if name in NO_TENSOR else name.partition(".")[0].strip("_")
