"""Hooks of a module: the public API adds and removes them, but neither lists nor copies them."""

from copy import copy

from torch import nn

_CALLED = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """Whether forward or backward hooks run with the module.

    Example:
        >>> has_hooks(nn.Tanh())
        False
    """
    return any(getattr(module, name, None) for name in _CALLED)


def move_hooks(source: nn.Module, target: nn.Module) -> None:
    """Give a module the hooks of the one that it replaces; handles that remove a hook still do so."""
    vars(target).update({name: hooks for name, hooks in vars(source).items() if "hook" in name})


def copy_hooks(source: nn.Module, target: nn.Module) -> None:
    """Give a module its own copy of the hooks of another."""
    vars(target).update({name: copy(hooks) for name, hooks in vars(source).items() if "hook" in name})
