"""Checks of a batch, and the context in which it runs."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from unstuck.observation.batch import Inputs, LossFn, check_batch, evaluating, run, unchanged
from unstuck.wording import in_one_line


def check_inputs(inputs: Inputs) -> None:
    """Raise a ValueError if the batch has no tensor, no sample, or numbers that are not finite."""
    for tensor in check_batch(inputs):
        if tensor.dim() == 0:
            raise ValueError("inputs of shape () hold no samples: give a batch of at least one")
        if tensor.is_floating_point():
            numbers = tensor if tensor.layout is torch.strided else _values(tensor)
            bad = int((~torch.isfinite(numbers)).sum())
            if bad:
                raise ValueError(
                    f"inputs hold {bad} non-finite value(s) of {tensor.numel()}: remove or impute those samples"
                )


def _values(sparse: Tensor) -> Tensor:
    """The numbers of a sparse or jagged tensor that it holds, in one piece."""
    return sparse.coalesce().values() if sparse.layout is torch.sparse_coo else sparse.values()


def run_checked(model: nn.Module, inputs: Inputs) -> Any:
    """Run a model; a ValueError names the layer that cannot read what arrives, and the remedy."""
    try:
        return run(model, inputs)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        names = {id(module): name for name, module in model.named_modules()}
        frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
        innermost: dict[str, Any] = next((local for local in reversed(frames) if id(local.get("self")) in names), {})
        layer, x = innermost.get("self"), innermost.get("input")
        weight = getattr(layer, "weight", None)
        if not isinstance(x, Tensor) or not isinstance(weight, Tensor):
            raise
        wrong, remedy = f"shape {tuple(x.shape)}", "give a batch as in training, or make the model for these inputs"
        if x.dtype != weight.dtype:
            wrong, remedy = f"{x.dtype} with weights of {weight.dtype}", f"give inputs.to({weight.dtype})"
        where = f"layer '{names[id(layer)]}', {layer},"
        raise ValueError(f"{where} cannot read {wrong}: {remedy} ({in_one_line(error)})") from error


def check_loss(targets: Any, loss_fn: LossFn | None) -> None:
    """Raise a ValueError unless both or neither are given."""
    if (targets is None) != (loss_fn is None):
        present, missing = ("loss_fn", "targets") if targets is None else ("targets", "loss_fn")
        raise ValueError(f"{present} is given without {missing}: give both, or neither for random cotangents")


@contextmanager
def undisturbed(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """Evaluation mode, uncompiled; the modes, random generators and running statistics are as they were afterwards."""
    with unchanged(model, inputs), evaluating(model):
        yield
