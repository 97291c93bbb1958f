"""Forwards that `convert` rewrote: a folded model has those of its classes again, or a GraphModule."""

from typing import Any

from torch import fx, nn

from sigmoidcore._torch.hooks import has_hooks, move_hooks
from sigmoidcore.conversion.rewritten_forward import RewrittenForward

_FUNCTIONS = {"tanh()": nn.Tanh, "sigmoid()": nn.Sigmoid}
_DROPOUTS: dict[Any, type[nn.Module]] = {
    **{getattr(nn.functional, f"dropout{n}"): getattr(nn, f"Dropout{n}") for n in ("", "1d", "2d", "3d")},
    nn.functional.alpha_dropout: nn.AlphaDropout,
}


def with_class_forwards(model: nn.Module) -> nn.Module:
    """The model without rewritten forwards. A module becomes a GraphModule if a constant stayed at one of its calls.

    Raises:
        ValueError: a constant stayed, and the forward differs between training and evaluation in more than dropout.
    """
    for name, owner in reversed(list(model.named_modules())):  # what is inside first
        forward = vars(owner).get("forward")
        if not isinstance(forward, RewrittenForward):
            continue
        if _is_the_class_again(owner, forward):
            for core in [core for core, was in forward.added.items() if core != was]:
                parent, _, key = core.rpartition(".")
                delattr(owner.get_submodule(parent), key)
            del owner.forward
            continue
        made = _graph_module(owner, forward, name)
        if not name:
            return made
        for other, module in list(model.named_modules(remove_duplicate=False)):
            if module is owner:
                parent, _, key = other.rpartition(".")
                setattr(model.get_submodule(parent), key, made)
    return model


def _is_the_class_again(owner: nn.Module, forward: RewrittenForward) -> bool:
    """Whether the forward of the class calls what the added cores have become."""
    for core, was in forward.added.items():
        module = owner.get_submodule(core)
        called = _FUNCTIONS.get(was) or type(owner.get_submodule(was))
        if type(module) not in _FUNCTIONS.values() or type(module) is not called:
            return False
        if core != was and has_hooks(module):
            return False
    return True


def _graph_module(owner: nn.Module, forward: RewrittenForward, name: str) -> fx.GraphModule:
    """A plain module with the same forward and submodules, which loads without sigmoidcore."""
    made = forward.as_graph_module(training=True)
    nodes, others = list(made.graph.nodes), list(forward.as_graph_module(training=False).graph.nodes)
    same = [(n.op, n.target) for n in nodes] == [(n.op, n.target) for n in others]
    pairs = zip(nodes, others, strict=True) if same else ()
    differing = [n for n, other in pairs if str((n.args, n.kwargs)) != str((other.args, other.kwargs))]
    if not same or any(node.target not in _DROPOUTS for node in differing):
        raise ValueError(
            f"a slope or shift stays in the forward of '{name}' ({type(owner).__name__}), which does something else in "
            "training than in evaluation: make its functional calls modules, such as nn.Tanh(), before convert, or "
            "leave them out with exclude="
        )
    for node in differing:
        _as_module(made, node)
    made.recompile()
    unread = [*owner.named_children(), *owner.named_parameters(recurse=False)]
    for key, value in unread:  # the state dict keeps its entries
        if not hasattr(made, key):
            setattr(made, key, value)
    move_hooks(owner, made)
    return made.train(owner.training)


def _as_module(made: fx.GraphModule, node: fx.Node) -> None:
    """Replace a call of a dropout by a module, which follows the mode of the GraphModule."""
    given = dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)) | dict(node.kwargs)
    key = f"_{node.name}"
    made.add_module(key, _DROPOUTS[node.target](given.get("p", 0.5), bool(given.get("inplace"))))
    with made.graph.inserting_before(node):
        node.replace_all_uses_with(made.graph.call_module(key, (given["input"],)))
    made.graph.erase_node(node)
