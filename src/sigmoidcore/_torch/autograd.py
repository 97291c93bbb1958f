"""Questions to PyTorch's autograd: about the graph behind a tensor, and about the backward pass that is running."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Variable, forward_ad
from torch.autograd.graph import Node
from torch.utils import checkpoint

NONE = -1
"""The number of no backward pass."""
_NORMS = ("BatchNorm", "LayerNorm", "GroupNorm", "RmsNorm", "RMSNorm")
"""In the names of the nodes of normalisations by the signal (InstanceNorm is a BatchNorm there)."""
_PRODUCTS = ("Mul", "Div", "Bmm", "Baddbmm", "Lerp", "Addcmul", "Addcdiv", "ScaledDotProduct")
"""In the names of the nodes of products, whose factors may be signals or weights."""
_LAYERS = ("Addmm", "Mm", "Linear", "Convolution")
"""In the names of the nodes of layers: what comes out of them is a signal."""


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


def asks_for(nodes: Iterable[Node | None]) -> bool:
    """Whether the backward pass that is running needs a gradient at any of these nodes; that of some inputs may not."""
    return any(node is not None and accumulates(node, unknown=True) for node in nodes)


def in_checkpoint() -> bool:
    """Whether the code that runs is inside an activation checkpoint, whose forward pass is computed a second time."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename != checkpoint.__file__:
        frame = frame.f_back
    return frame is not None


def normalises(node: Node) -> bool:
    """Whether a node is that of a normalisation by the signal, which undoes the size of what it reads."""
    return any(name in node.name() for name in _NORMS)


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


class Link(NamedTuple):
    """The way from one node to another."""

    name: str  # of the node at its end
    normalised: bool  # whether it passes a normalisation
    multiplied: bool  # whether it passes a product with another signal: a gate, attention, a mixture


def met_first(starts: Iterable[Node | None], among: Mapping[Node, str]) -> set[Link]:
    """The ways to the nodes that walks back from `starts` meet first."""
    waiting = [(start, False, False) for start in starts]
    visited: set[tuple[Node, bool, bool]] = set()
    found: set[Link] = set()
    while waiting:
        at, normalised, multiplied = waiting.pop()
        if at is None or (at, normalised, multiplied) in visited:
            continue
        visited.add((at, normalised, multiplied))
        if at in among:
            found.add(Link(among[at], normalised, multiplied))
        elif not hasattr(at, "variable"):
            normalised, multiplied = normalised or normalises(at), multiplied or _multiplies_signals(at, among)
            waiting.extend((before, normalised, multiplied) for before, _ in at.next_functions)
    return found


def _multiplies_signals(node: Node, among: Mapping[Node, str]) -> bool:
    """Whether a node multiplies two signals; a signal by a weight or a constant does not count."""
    name = node.name()
    if "Glu" in name:
        return True
    factors = [before for before, _ in node.next_functions if before is not None]
    return any(kind in name for kind in _PRODUCTS) and sum(_is_signal(factor, among) for factor in factors) > 1


def _is_signal(node: Node, among: Mapping[Node, str]) -> bool:
    """Whether the walk back from a node meets one of those among, or a layer."""
    waiting, visited = [node], {node}
    while waiting:
        at = waiting.pop()
        if at in among or any(kind in at.name() for kind in _LAYERS):
            return True
        new = {before for before, _ in at.next_functions if before is not None} - visited
        visited |= new
        waiting.extend(new)
    return False


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
