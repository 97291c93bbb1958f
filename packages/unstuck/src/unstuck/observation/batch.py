"""One batch through a model, which is the same afterwards; and checks of what a user gives."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unstuck._torch.eager import eager

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
LossFn = Callable[[Any, Any], Tensor]
MOST_DEPTH = 8
"""Of nested tuples, lists and dicts that are looked through for tensors."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Modules that normalise by the batch in training."""


def loss_of(outputs: Any, targets: Any, loss_fn: LossFn | None) -> Tensor:
    """The loss of outputs; without a loss function, that of random signs."""
    try:
        return random_loss(outputs) if loss_fn is None else scalar_loss(loss_fn(outputs, targets))
    except (TypeError, AttributeError) as error:
        if not is_dataclass(outputs):
            raise
        raise type(error)(
            f"loss_fn does not take a {type(outputs).__name__}: if the model computes its loss, give it the labels, as "
            "in diagnose(model, dict(input_ids=..., labels=...), None, lambda outputs, _: outputs.loss)"
        ) from error


def random_loss(outputs: Any) -> Tensor:
    """The sum of the outputs with random signs, which are made on the CPU so that every device gets the same."""
    floating = floating_tensors(outputs)
    if not floating:
        raise ValueError(
            f"the model gives {type(outputs).__name__}, without a floating-point tensor: give targets and a loss_fn"
        )
    generator = torch.Generator().manual_seed(0)
    signs = [torch.randint(0, 2, t.shape, generator=generator) * 2 - 1 for t in floating]
    products = [(t * s.to(t.device, t.dtype)).sum() for t, s in zip(floating, signs, strict=True)]
    return torch.stack([product.to(torch.float32) for product in products]).sum()


def scalar_loss(loss: Any) -> Tensor:
    """What a loss function has returned, as a 0-dim tensor; a ValueError unless it is a tensor with one number."""
    if loss is None:
        raise ValueError("loss_fn gives None: let it return the loss, a tensor with one number")
    if isinstance(loss, Mapping | tuple | list):
        key = repr(next(iter(loss), "loss")) if isinstance(loss, Mapping) else 0
        raise ValueError(
            f"loss_fn must give a tensor with one number, got a {type(loss).__name__} of {len(loss)}: give a function "
            f"that returns the part to minimise, lambda outputs, targets: loss_fn(outputs, targets)[{key}]"
        )
    if not isinstance(loss, Tensor):
        raise ValueError(f"loss_fn must give a tensor with one number, got {type(loss).__name__}: leave out .item()")
    if loss.numel() != 1:
        raise ValueError(f"loss_fn must give a scalar, got shape {tuple(loss.shape)}: take its mean or sum")
    return loss.reshape(())


def run(model: nn.Module, inputs: Inputs) -> Any:
    """`model(inputs)`, `model(*inputs)` or `model(**inputs)`; an error of the model gets a note with the shapes."""
    try:
        if isinstance(inputs, Tensor):
            return model(inputs)
        return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    except (RuntimeError, IndexError, ValueError) as error:
        tensors = [t for t in floating_tensors(inputs, all_types=True) if not t.is_nested]
        kinds = ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors)
        error.add_note(f"the inputs have the shape {kinds}: give one batch as the model takes it in training")
        raise


def floating_tensors(values: Any, all_types: bool = False, depth: int = MOST_DEPTH) -> list[Tensor]:
    """The floating-point tensors in nested tuples, lists, dicts and dataclasses, in order, down to this depth."""
    if isinstance(values, Tensor):
        return [values] if all_types or values.is_floating_point() else []
    if is_dataclass(values) and not isinstance(values, type | Mapping):
        values = vars(values)
    children = values.values() if isinstance(values, Mapping) else values if isinstance(values, list | tuple) else ()
    return [t for child in children if depth for t in floating_tensors(child, all_types, depth - 1)]


def check_batch(inputs: Any) -> list[Tensor]:
    """The tensors of a batch; raises a ValueError if there is none, or an empty one."""
    tensors = floating_tensors(inputs, all_types=True)
    if not tensors:
        found = f"{type(inputs).__name__}: convert it first"
        if isinstance(inputs, tuple | list | Mapping) and not inputs:
            found = "none: for a model without inputs, use a Monitor"
        raise ValueError(f"inputs must be a tensor, or a tuple or dict of tensors, got {found}")
    empty = next((t for t in tensors if t.numel() == 0), None)
    if empty is not None:
        raise ValueError(f"inputs of shape {tuple(empty.shape)} hold no samples: give a batch of at least one")
    return tensors


def check_model(model: Any) -> None:
    """Raise a TypeError that says what to do for anything but an nn.Module."""
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TypeError(f"model is the class {model.__name__}: give an instance, {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}: give the model itself, or put its code into "
            "the forward of one"
        )


@contextmanager
def unchanged(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """Uncompiled; modes, random generators and running statistics are as they were afterwards."""
    modes = {module: module.training for module in model.modules()}
    norms = [m for m in modes if m.training and _is_batch_norm(m)]
    running = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    devices = {t.device.index or 0 for t in floating_tensors(inputs, all_types=True) if t.is_cuda}
    with torch.random.fork_rng(devices=sorted(devices)), eager():
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for buffer, copy in running:
                buffer.copy_(copy)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, within `unchanged`; exported models refuse it and keep their mode.

    A BatchNorm that is in training mode stays there: training will use the statistics of its batches, too.
    """
    norms = [m for m in model.modules() if m.training and _is_batch_norm(m)]
    with suppress(NotImplementedError):
        model.eval()
    for norm in norms:
        norm.training = True
    yield


def _is_batch_norm(module: nn.Module) -> bool:
    """Whether it normalises by the batch while it trains, in TorchScript, too."""
    scripted = isinstance(module, torch.jit.ScriptModule) and "BatchNorm" in str(module.original_name)
    return scripted or isinstance(module, BATCH_NORMS)


def checked_sinks(sinks: Any) -> tuple[Callable[[Any], object], ...]:
    """The sinks as a tuple; a TypeError for anything but functions of one argument in a list."""
    found = tuple(sinks) if isinstance(sinks, Iterable) else (None,)
    if not all(callable(sink) and not isinstance(sink, type) for sink in found):
        raise TypeError(f'sinks must be a list of functions, as in sinks=[CSV("samples.csv")], got {sinks!r:.60}')
    return found
