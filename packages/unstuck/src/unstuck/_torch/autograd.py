"""Questions to PyTorch's autograd: about the graph behind a tensor, and about the backward pass that is running."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable, forward_ad
from torch.autograd.graph import Node

NONE = -1
"""The number of no backward pass."""


def backward_pass() -> int:
    """The number of the backward pass that is running, or NONE."""
    return torch._C._current_graph_task_id()


def version(tensor: Tensor) -> int:
    """How often a tensor, or one that shares its memory, has been changed in place."""
    return tensor._version


def keeps_graph() -> bool:
    """Whether the backward pass that is running keeps its graph, so that another may come through it."""
    kept: bool = torch._C._autograd._get_current_graph_task_keep_graph()
    return kept


def bare(tensor: Tensor) -> Tensor:
    """The tensor without its graph and without the attributes of a Python subclass (labels, units), which may fail."""
    if type(tensor) in (Tensor, nn.Parameter):
        return tensor.detach()
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.detach(tensor)


def own_copy(tensor: Tensor) -> Tensor:
    """A copy behind the tensor in its graph, or a leaf that requires a gradient; without a subclass's labels."""
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.clone(tensor) if tensor.requires_grad else Tensor.detach(tensor).requires_grad_()


def in_transform() -> bool:
    """Whether `torch.func` differentiates what runs, or forward mode does: its derivatives leave no graph behind."""
    if forward_ad._current_level >= 0:
        return True
    stack = torch._C._functorch.get_interpreter_stack() if torch._C._are_functorch_transforms_active() else None
    kinds = torch._C._functorch.TransformType
    return any(transform.key() in (kinds.Grad, kinds.Jvp) for transform in stack or ())


def accumulates(leaf: Node, unknown: bool = False) -> bool:
    """Whether the backward pass that is running puts a gradient into this leaf's `.grad`."""
    try:
        return torch._C._will_engine_execute_node(leaf)
    except RuntimeError:  # `torch.autograd.grad` by that very leaf
        return unknown


def nearest_leaf(node: Node) -> Node:
    """The nearest node before this one, itself included, that accumulates into the `.grad` of a parameter.

    Where there is none, that of another leaf.
    """
    front, seen, other = [node], {node}, None
    while front:
        for node in front:
            if hasattr(node, "variable"):
                if isinstance(node.variable, nn.Parameter):
                    return node
                other = other or node
        front = [before for node in front for before, _ in node.next_functions if before is not None]
        front = [n for n in dict.fromkeys(front) if n not in seen]
        seen.update(front)
    if other is None:
        raise RuntimeError("a preactivation requires a gradient, but depends on no leaf: report this")
    return other


def nodes_behind(tensor: Tensor) -> Iterator[Node]:
    """All nodes of the graph behind a tensor."""
    waiting, seen = [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(before for before, _ in node.next_functions)


def leaves(tensor: Tensor) -> Iterator[Tensor]:
    """The leaves of the graph behind a tensor, into whose `.grad` its backward pass accumulates."""
    return (node.variable for node in nodes_behind(tensor) if hasattr(node, "variable"))


def running_node() -> Node:
    """The node of the graph whose hook the backward pass is running. No public function tells."""
    node: Node = torch._C._current_autograd_node()
    return node


def after_backward(callback: Callable[[], None]) -> None:
    """Call a function when the backward pass that is running is over. The public hooks are for single tensors."""
    Variable._execution_engine.queue_callback(callback)


def post_accumulate_hooks(leaf: Tensor) -> dict[int, Any]:
    """The hooks that run after a gradient is accumulated into a leaf. The public API adds them and lists none."""
    hooks: dict[int, Any] | None = getattr(leaf, "_post_accumulate_grad_hooks", None)
    return {} if hooks is None else hooks


def gradient_state(parameter: Tensor) -> tuple[int, int] | None:
    """What changes when a gradient is added to the `.grad` of a parameter; None without one."""
    grad = parameter.grad
    return None if grad is None else (id(grad), grad._version)
