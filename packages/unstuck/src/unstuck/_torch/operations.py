"""A look at every operation of PyTorch, forward and backward, as it runs."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operations through a function while it is entered.

    `run` is called with the name of an operation, its arguments, and a function that runs it and returns its result.
    Operations that `run` calls itself are not seen.
    """

    def __init__(self, run: Callable[[str, tuple[Any, ...], Callable[[], Any]], Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._run = run

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        name = str(func.overloadpacket.__name__)
        return self._run(name, (*args, *given.values()), lambda: func(*args, **given))


def node_that_runs() -> Node | None:
    """The node that the backward pass is at."""
    return cast(Node | None, torch._C._current_autograd_node())


def node_lines(node: Node) -> list[str]:
    """The lines of code that made a node, if anomalies are detected."""
    metadata: Any = node.metadata
    return metadata.get("traceback_", []) if isinstance(metadata, dict) else []
