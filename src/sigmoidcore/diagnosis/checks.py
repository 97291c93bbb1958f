"""What `diagnose` is given: whether it can be measured, and if not, why not and what to do."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from sigmoidcore.observation.profile import Inputs, LossFn, floating_tensors, run


def check(model: Any, inputs: Any, targets: Any, loss_fn: LossFn | None) -> None:
    """Raise a TypeError or a ValueError, with the remedy, if there is nothing to be measured."""
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TypeError(f"model is the class {model.__name__}: give a model of it, {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}: make what it does the forward of one"
        )
    if isinstance(inputs, DataLoader):
        raise ValueError("inputs is a DataLoader: give one of its batches, inputs, targets = next(iter(loader))")
    given = floating_tensors(inputs, all_types=True)
    if not given:
        raise ValueError(
            f"inputs must be a tensor, or a tuple or dict of tensors, got {type(inputs).__name__}: convert it first"
        )
    empty = next((t for t in given if t.numel() == 0), None)
    if empty is not None:
        raise ValueError(f"inputs of shape {tuple(empty.shape)} hold no samples: give a batch of at least one")
    if any(t.is_meta for t in given):
        raise ValueError("inputs are on the device meta, which holds no numbers: give a batch that does")
    if targets is not None and loss_fn is None:
        raise ValueError("targets is given without loss_fn: give both, or neither for random cotangents")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(
                f"'{name}' of the model is on the device meta, which holds no numbers: give it some first, with "
                "load_state_dict(..., assign=True) or to_empty(device=...)"
            )
        if tensor.is_inference():
            raise ValueError(
                f"'{name}' of the model was made in torch.inference_mode(), and no gradient can come to it: make or "
                "load the model outside"
            )


def outputs_of(model: nn.Module, inputs: Inputs) -> Any:
    """What the model gives.

    Raises:
        TypeError: its forward does not take such inputs.
        ValueError: it does not run on inputs of these shapes.
    """
    try:
        return run(model, inputs)
    except TypeError as error:
        if _fits(model, inputs):
            raise
        raise TypeError(f"the model's forward does not take these inputs ({error}): {_call(inputs)}") from error


def _fits(model: nn.Module, inputs: Inputs) -> bool:
    """Whether forward takes so many arguments, of these names."""
    args, kwargs = ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):  # written in C++, as that of TorchScript
        return True
    try:
        signature.bind(*((args,) if isinstance(args, Tensor) else args), **kwargs)
    except TypeError:
        return False
    return True


def _call(inputs: Inputs) -> str:
    """How forward was called, and how else it could be."""
    if isinstance(inputs, Tensor):
        return "it is called as forward(inputs); give a tuple for forward(*inputs), or a dict for forward(**inputs)"
    if isinstance(inputs, Mapping):
        return f"inputs is a dict, so it is called as forward({', '.join(f'{k}=...' for k in inputs)}); give its names"
    return (
        f"inputs is a {type(inputs).__name__} of {len(inputs)}, so it is called as forward(*inputs); if the last of "
        "them are the targets, give them apart, diagnose(model, inputs, targets, loss_fn)"
    )


def cut_off(values: Any) -> Any:
    """Without the graph that tensors come from, for the backward pass would go on into it; as ordinary tensors."""

    def cut(tensor: Tensor) -> Tensor:
        if tensor.is_inference():
            return tensor.clone()
        return tensor if tensor.is_leaf else tensor.detach().requires_grad_(tensor.requires_grad)

    return tree_map_only(torch.Tensor, cut, dict(values) if isinstance(values, Mapping) else values)
