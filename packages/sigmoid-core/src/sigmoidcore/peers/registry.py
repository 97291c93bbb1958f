"""All methods by their names: those of this package, of other packages, and of the user's own code."""

import difflib
import pkgutil
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import nn

from sigmoidcore.peers import methods
from sigmoidcore.peers.method import Method, Problem
from sigmoidcore.training.data import InputError
from sigmoidcore.training.user_code import reported_as, users_code, with_article
from sigmoidcore.language import _
from unstuck.observation import undisturbed

GROUP = "sigmoidcore.methods"
"""Entry points of other packages: a `Method`, or a function that makes a network from a `Problem`."""
_FILES = [pkgutil.resolve_name(f"{methods.__name__}.{file.name}") for file in pkgutil.iter_modules(methods.__path__)]
BUILT_IN: dict[str, Method] = {method.name: method for file in _FILES for method in file.METHODS}


def names() -> list[str]:
    """The names of all methods that are installed."""
    return [*BUILT_IN, *(entry.name for entry in entry_points(group=GROUP) if entry.name not in BUILT_IN)]


def find(name: str) -> Method:
    """The method of a name, or of `package.module:name` in the user's own code."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    if ":" in name:
        with users_code(name) as found:
            return _method(name, found)
    for entry in entry_points(group=GROUP, name=name):
        with reported_as(_("the entry point {name} = {value}", name=entry.name, value=entry.value)):
            found = entry.load()
        return _method(name, found)
    near = difflib.get_close_matches(name, names(), n=3)
    hint = _("`sigmoid-core compare --list` lists them")
    if near:
        hint = _("did you mean {names}?", names=_(" or ").join(near))
    raise InputError("there is no method {name!r}; {hint}", name=name, hint=hint)


def _check_runs(name: str, model: nn.Module, problem: Problem) -> None:
    """Run the network once: an error in a training would have no name."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("{name} returned a network without trainable parameters: set requires_grad=True", name=name)
    shape = tuple(problem.inputs.shape)
    what = _("the network of {name}, with inputs of shape {inputs} and the loss,", name=name, inputs=shape)
    with reported_as(what), undisturbed(model, problem.inputs), torch.no_grad():
        problem.loss_fn(model(problem.inputs), problem.targets)


def _method(name: str, found: Any) -> Method:
    """A method of other code, whose errors are reported in one line."""
    if isinstance(found, Method):
        method = found
    elif callable(found) and not isinstance(found, nn.Module):
        method = Method(name, _("your own, {name}", name=name), found, kinds=("mlp", "conv", "rnn"))
    else:
        raise InputError("{name} is neither a Method nor a function that makes a network from a Problem", name=name)

    def build(*arguments: Any) -> nn.Module:
        with reported_as(name):
            model: Any = method.build(*arguments)
        if not isinstance(model, nn.Module):
            raise InputError(
                "{name} returned {what}, not a torch.nn.Module: let it return the network",
                name=name,
                what=with_article(model),
            )
        _check_runs(name, model, arguments[0])
        return model

    return replace(method, name=name, build=build)
