"""Forwards that `convert` rewrote: a folded model has those of its classes again, or a GraphModule."""

from torch import fx, nn

from sigmoidcore._torch.hooks import has_hooks, move_hooks
from sigmoidcore.conversion.rewritten_forward import RewrittenForward

_FUNCTIONS = {"tanh()": nn.Tanh, "sigmoid()": nn.Sigmoid}


def with_class_forwards(model: nn.Module) -> nn.Module:
    """The model without rewritten forwards. A module becomes a GraphModule if a constant stayed at one of its calls.

    Raises:
        ValueError: a constant stayed, and the forward differs between training and evaluation.
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
    made = forward.as_graph_module(owner.training)
    if made.code != forward.as_graph_module(not owner.training).code:
        raise ValueError(
            f"a slope or shift stays in the forward of '{name}' ({type(owner).__name__}), which does something else in "
            "training than in evaluation: make its functional calls and its dropout modules, such as nn.Tanh(), before "
            "convert, or leave them out with exclude="
        )
    unread = [*owner.named_children(), *owner.named_parameters(recurse=False)]
    for key, value in unread:  # the state dict keeps its entries
        if not hasattr(made, key):
            setattr(made, key, value)
    move_hooks(owner, made)
    return made.train(owner.training)
