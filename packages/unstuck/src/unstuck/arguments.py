"""Checks of the arguments of `diagnose`; errors say what to do."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from unstuck.observation.batch import Inputs, LossFn, check_batch, check_model


def check(model: Any, inputs: Any, targets: Any, loss_fn: LossFn | None) -> None:
    """Raise a TypeError or a ValueError that says what to do if the model or the batch cannot be measured."""
    check_model(model)
    if isinstance(inputs, DataLoader):
        raise ValueError("inputs is a DataLoader: give one of its batches, inputs, targets = next(iter(loader))")
    check_batch(inputs)
    if targets is not None and loss_fn is None:
        raise ValueError("targets is given without loss_fn: give both, or neither for random cotangents")
    if loss_fn is not None:
        _check_loss(loss_fn)
    _check_call(model, inputs)


def _check_loss(loss_fn: Any) -> None:
    """Raise a TypeError for a class in place of its instance, and for a function that does not take two arguments."""
    if isinstance(loss_fn, type):
        raise TypeError(f"loss_fn is the class {loss_fn.__name__}: give an instance, {loss_fn.__name__}()")
    if not callable(loss_fn):
        raise TypeError(f"loss_fn must be a function of outputs and targets, got {type(loss_fn).__name__}")
    if error := _refuses(loss_fn.forward if isinstance(loss_fn, nn.Module) else loss_fn, None, None):
        raise TypeError(
            f"loss_fn does not take outputs and targets ({error}): give a function of both, such as "
            "lambda outputs, targets: loss_fn(outputs)"
        )


def _check_call(model: nn.Module, inputs: Inputs) -> None:
    """Raise a TypeError if forward does not accept this number of arguments, or these names."""
    args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})
    if error := _refuses(model.forward, *((args,) if isinstance(args, Tensor) else args), **kwargs):
        kind = type(inputs).__name__ + (f" of {len(inputs)}" if isinstance(inputs, list | tuple) else "")
        raise TypeError(
            f"the model's forward does not accept these inputs ({error}): inputs is a {kind}; give a tensor for "
            "forward(inputs), a tuple for forward(*inputs), a dict for forward(**inputs), a tuple of one dict for a "
            "forward that takes it whole, and targets as a separate argument: diagnose(model, inputs, targets, loss_fn)"
        )


def _refuses(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """Why a function does not take these arguments; "" if it does, or is written in C++, as in TorchScript."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return ""
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return ""
