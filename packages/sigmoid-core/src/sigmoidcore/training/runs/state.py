"""The state of a training between two steps: everything that decides how it continues, as tensors and JSON values."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unstuck.language.errors import TranslatedError


@dataclass(frozen=True)
class State:
    """A training between two steps."""

    step: int  # steps done
    score: float | None  # metric (of validation, if there is any) after the last step of an epoch; higher is better
    weights: dict[str, Tensor]  # the model's state dict: weights, slopes and shifts
    tensors: dict[str, Tensor]  # of optimizer, Equalizer and random generators, by name
    values: dict[str, Any] = field(default_factory=dict)  # the rest, in numbers, texts, lists and dicts


class MismatchError(TranslatedError, ValueError):
    """A valid state of another model or another recipe."""


def cpu_copies(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies on the CPU; MismatchError if a value is not a tensor, as a module's extra state may be."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise MismatchError("{name} of the model's state dict is not a tensor and cannot be saved", name=name)
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def not_finite(weights: Mapping[str, Any]) -> str | None:
    """The name of a weight in a state dict that is not finite, or None."""
    tensors = ((name, value) for name, value in weights.items() if isinstance(value, Tensor))
    return next((name for name, value in tensors if value.is_floating_point() and not value.isfinite().all()), None)


def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a model; MismatchError if they are those of another model."""
    with MismatchError.replacing("the weights belong to another model: {error}", RuntimeError):
        model.load_state_dict(weights)


def named_groups(model: nn.Module, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Parameter groups with names in place of parameters: rates may depend on the weights, so they are stored."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{"params": [names[id(p)] for p in group["params"]], "lr": float(group["lr"])} for group in groups]


def groups_for(model: nn.Module, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The groups of `named_groups` with the parameters of this model; MismatchError if it has no such parameters."""
    parameters = dict(model.named_parameters())
    wrong = KeyError, TypeError, ValueError
    with MismatchError.replacing("the optimizer's groups are those of another model: {error}", *wrong):
        return [{"params": [parameters[n] for n in group["params"]], "lr": float(group["lr"])} for group in groups]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as tensors, `optimizer.NUMBER.NAME`, with the number of the parameter."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` returned; MismatchError if the tensors are of another model."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _prefix, number, name = key.split(".", 2)
            if int(number) >= len(parameters) or value.shape not in (parameters[int(number)].shape, torch.Size()):
                raise MismatchError("{key} of the state is of another model", key=key)
            state.setdefault(int(number), {})[name] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def seed_all(seed: int) -> None:
    """Seed the generators of PyTorch, NumPy and Python, which a network of the user's own may draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  the generator that others use
    random.seed(seed)


def random_tensors() -> dict[str, Tensor]:
    """The states of the generators of PyTorch on the CPU and on every CUDA device."""
    states = {"random.torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"random.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def random_values() -> dict[str, Any]:
    """The states of the generators of NumPy and Python, as JSON values."""
    name, key, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    version, numbers, gauss = random.getstate()
    return {"numpy": [name, np.asarray(key).tolist(), *rest], "python": [version, list(numbers), gauss]}


def restore_random(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Restore the generators; those of CUDA if there are as many devices. MismatchError for other states."""
    try:
        torch.set_rng_state(tensors["random.torch"])
        np.random.set_state(tuple(values["numpy"]))  # noqa: NPY002
        version, numbers, gauss = values["python"]
        random.setstate((version, tuple(numbers), gauss))
        cuda = [state for name, state in tensors.items() if name.startswith("random.cuda.")]
        if cuda and torch.cuda.is_available() and torch.cuda.device_count() == len(cuda):
            torch.cuda.set_rng_state_all(cuda)
    except (KeyError, IndexError, TypeError, RuntimeError, OverflowError, ValueError) as error:
        raise MismatchError("the states of the random generators cannot be read: {error}", error=error) from error
