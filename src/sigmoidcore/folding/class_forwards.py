"""Forwards that `convert` rewrote: a folded model has those of its classes again, or a GraphModule."""

from torch import fx, nn

from sigmoidcore._torch.hooks import has_hooks, move_hooks
from sigmoidcore.conversion.rewritten_forward import RewrittenForward

_FUNCTIONS = {"tanh()": nn.Tanh, "sigmoid()": nn.Sigmoid}


def plain_forward(owner: nn.Module, name: str) -> nn.Module:
    """A module without a rewritten forward: itself, or a GraphModule if a constant stayed at one of its calls."""
    forward = vars(owner).get("forward")
    if not isinstance(forward, RewrittenForward):
        return owner
    if not _is_the_class_again(owner, forward):
        return _graph_module(owner, forward, name)
    for core in [core for core, was in forward.added.items() if core != was]:
        parent, _, key = core.rpartition(".")
        delattr(owner.get_submodule(parent), key)
    del owner.forward
    return owner


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
    """A plain module with the forward of the owner's mode, which loads without sigmoidcore."""
    made, other = (forward.as_graph_module(training) for training in (owner.training, not owner.training))
    if owner.training and str(made.graph) != str(other.graph):
        raise ValueError(
            f"a slope or shift stays in the forward of '{name}' ({type(owner).__name__}), which does something else in "
            "training than in evaluation: call model.eval() before fold, or make its functional calls modules"
        )
    move_hooks(owner, made)
    return made
