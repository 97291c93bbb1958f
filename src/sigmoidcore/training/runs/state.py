"""Where a training is: all that decides how it goes on, in tensors and in values that JSON can hold."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.equalizer.equalizer import Equalizer


@dataclass(frozen=True)
class State:
    """A training between two steps.

    Attributes:
        step: steps done.
        score: the metric, where the step is the last of an epoch; the more, the better.
        weights: the model's state dict: weights, slopes and shifts.
        tensors: of optimizer, Equalizer and random generators, by name.
        values: the rest, in numbers, texts, lists and dicts.
    """

    step: int
    score: float | None
    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]
    values: dict[str, Any] = field(default_factory=dict)


class MismatchError(ValueError):
    """A state that is sound, and belongs to another model or another recipe."""


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose name begins with `prefix.`, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def over(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with `prefix.` before their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def whole(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with those that are spread over several processes put together; all of these call it together."""
    return {name: t.full_tensor() if hasattr(t, "full_tensor") else t for name, t in tensors.items()}


def held(tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies on the CPU, each with memory of its own.

    Raises:
        MismatchError: something is no tensor, as a module's extra state may be.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise MismatchError(f"{name} of the model's state dict is no tensor and cannot be saved")
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in whole(tensors).items()}


@torch.no_grad()
def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights into a model; all of them fit, or nothing is changed.

    Raises:
        MismatchError: names, shapes or dtypes are not those of the model.
    """
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    _same_names(wanted, weights)
    for name, value in wanted.items():
        given = weights[name]
        if given.shape != value.shape or given.dtype != value.dtype:
            raise MismatchError(
                f"{name} has shape {list(given.shape)} and {given.dtype}, the model's has {list(value.shape)} and "
                f"{value.dtype}: it belongs to another model"
            )
    for name, value in wanted.items():
        value.copy_(weights[name])


def _same_names(wanted: Iterable[str], given: Iterable[str]) -> None:
    missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing or unknown:
        what = f"lack {missing[0]}" if missing else f"have {unknown[0]}, which the model has not"
        raise MismatchError(f"the weights {what}: they belong to another model")


# --- the optimizer ---------------------------------------------------------------------------------------------------


def groups_of(model: nn.Module, optimizer: torch.optim.Optimizer, peaks: Sequence[float]) -> list[dict[str, Any]]:
    """The optimizer's groups: names of the parameters, and the rate at its peak."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [
        {"params": [names[id(p)] for p in group["params"]], "lr": peak}
        for group, peak in zip(optimizer.param_groups, peaks, strict=True)
    ]


def named_groups(model: nn.Module, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Groups of parameters with the names of these, for `groups_for`."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [{"params": [names[id(p)] for p in group["params"]], "lr": float(group["lr"])} for group in groups]


def groups_for(model: nn.Module, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The groups that `groups_of` named, with the parameters of this model.

    Raises:
        MismatchError: it has no such parameters.
    """
    parameters = dict(model.named_parameters())
    try:
        return [{"params": [parameters[n] for n in group["params"]], "lr": float(group["lr"])} for group in groups]
    except (KeyError, TypeError, ValueError) as error:
        raise MismatchError(f"the optimizer's groups are those of another model: {error}") from error


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers of each parameter, `PARAMETER/KIND` by name; all of it is tensors."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        f"{names[id(p)]}/{kind}": value for p, kept in optimizer.state.items() for kind, value in kept.items()
    }  # fmt: skip


def fill_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer of this model what `optimizer_tensors` has.

    Raises:
        MismatchError: it is of another model.
    """
    parameters = dict(model.named_parameters())
    for key, value in tensors.items():
        name, _, kind = key.rpartition("/")
        parameter = parameters.get(name)
        if parameter is None or value.shape not in (parameter.shape, torch.Size()):
            raise MismatchError(f"the optimizer's {key} is of another model")
        # An optimizer that is not fused counts its steps on the CPU.
        counted = kind == "step" and not optimizer.param_groups[0].get("fused")
        home = torch.device("cpu") if counted else parameter.device
        value = value.to(home, copy=True)
        if hasattr(parameter, "full_tensor") and kind != "step":  # spread over several processes
            from torch.distributed.tensor import distribute_tensor

            spread: Any = parameter
            value = distribute_tensor(value, spread.device_mesh, spread.placements)
        optimizer.state[parameter][kind] = value


# --- the scaler of the gradient --------------------------------------------------------------------------------------


def scaler_tensors(scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
    """`GradScaler.state_dict()` in tensors."""
    state = scaler.state_dict()
    return {name: torch.tensor(state[name], dtype=torch.float64) for name in _SCALER if name in state}


def fill_scaler(scaler: torch.amp.GradScaler, tensors: Mapping[str, Tensor]) -> None:
    """Give a scaler what `scaler_tensors` has; nothing where the state is of a training without one."""
    if tensors:
        state = scaler.state_dict()
        scaler.load_state_dict({name: type(state[name])(tensors[name].item()) for name in state})


# --- the Equalizer ---------------------------------------------------------------------------------------------------

_SCALER = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
_NUMBERS = ("step", "slopes", "neurons")


def equalizer_tensors(equalizer: Equalizer) -> dict[str, Tensor]:
    """`Equalizer.state_dict()` in tensors: its history may hold ten thousand samples."""
    state = equalizer.state_dict()
    history = state["history"]
    tensors = {
        "counts": torch.tensor([state["step"], state["next"], state["interval"]]),
        "history.counts": torch.tensor([[s[key] for key in _NUMBERS] for s in history], dtype=torch.int64),
        "history.spread": torch.tensor([s["spread"] for s in history], dtype=torch.float64),
        "history.log_sizes": torch.tensor([s["log_sizes"] for s in history], dtype=torch.float64),
    }
    return tensors if state["before"] is None else {**tensors, "before": state["before"]}


def equalizer_state(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What `equalizer_tensors` was made of, for `Equalizer.load_state_dict`.

    Raises:
        MismatchError: these are no such tensors.
    """
    try:
        step, following, interval = tensors["counts"].tolist()
        rows = zip(
            tensors["history.counts"].tolist(),
            tensors["history.spread"].tolist(),
            tensors["history.log_sizes"].tolist(),
            strict=True,
        )
        history = [
            {**dict(zip(_NUMBERS, counts, strict=True)), "spread": spread, "log_sizes": sizes}
            for counts, spread, sizes in rows
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise MismatchError(f"the state of the Equalizer cannot be read: {error}") from error
    return {
        "step": step, "next": following, "interval": interval, "before": tensors.get("before"), "history": history,
    }  # fmt: skip
