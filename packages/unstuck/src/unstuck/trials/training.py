"""Trains copies of the weights on recorded steps."""

import inspect
import math
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from unstuck._torch.hooks import without_optimizer_hooks
from unstuck._torch.modes import unfollowed
from unstuck.step import Node, Replay, gpus
from unstuck.trials import replacements
from unstuck.trials.edits import Edit, is_stray
from unstuck.trials.recording import USUAL_RATE, Recording

CHECKED = 5
"""Steps from one look whether the loss is finite to the next."""


@unfollowed
def train(recording: Recording, edit: Edit, steps: int, until: float = math.inf) -> list[float]:
    """The mean loss of the recorded steps at the first weights, and the loss before each of so many steps.

    Random numbers of the user stay. Raises what PyTorch raises where the edit does not fit.

    Args:
        recording: steps, in turn; weights; optimizer.
        edit: what is different.
        steps: at most so many.
        until: the time of `time.perf_counter` at which it ends.
    """
    replay = Replay(recording.values)
    for name in edit.joins:
        replay.values[name].requires_grad_()
    if edit.single:
        replay.values = {name: replacements.single(value) for name, value in replay.values.items()}
    if edit.redraws:
        _redraw(replay.values, recording)
    optimizers = _optimizers(recording, replay.values, edit)
    changes = [dict(edit.changes(step)) for step in recording.steps]
    instead = [edit.instead(step) for step in recording.steps]
    if edit.strays_join:
        _train_strays(recording, changes, optimizers[0])
    evaluating = [one for one in optimizers if _asks_for_closure(one)]
    losses: list[Tensor] = []
    shares, scales = recording.taken or [1.0], recording.scales

    def loss_of(number: int) -> Tensor:
        place = number % len(recording.steps)
        losses = replay.losses(recording.steps[place], changes[place], instead=instead[place])
        return torch.stack([x.sum().float() for x in losses]).sum()

    def backward(loss: Tensor, number: int) -> Tensor:
        for optimizer in optimizers if edit.clears is not False else ():
            optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
            _take(optimizers, (1.0 if edit.unclipped else shares[number % len(shares)]) / scales[number % len(scales)])
        return loss

    with (
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=gpus(recording.values)),
        torch.inference_mode(False),
        torch.enable_grad(),
        without_optimizer_hooks(),
    ):
        warnings.simplefilter("ignore")  # the user has seen them
        torch.default_generator.manual_seed(0)  # `torch.manual_seed` would seed every GPU
        losses.append(torch.stack([loss_of(i).detach() / scale for i, scale in enumerate(scales)]).mean())
        for number in range(steps):
            if time.perf_counter() > until:
                break
            loss, scale = loss_of(number), scales[number % len(scales)]
            losses.append(loss.detach() / scale)
            if number % CHECKED == 0 and not bool(loss.isfinite()):  # it does not come back
                losses += [losses[-1]] * (steps - number - 1)
                break
            backward(loss, number)
            for optimizer in optimizers:
                if optimizer in evaluating:
                    optimizer.step(lambda number=number: backward(loss_of(number), number))  # type: ignore[arg-type,misc]
                else:
                    optimizer.step()
    return torch.stack(losses).tolist()


def _asks_for_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its step has to evaluate the loss, as that of LBFGS."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def _optimizers(recording: Recording, values: dict[str, Tensor], edit: Edit) -> list[torch.optim.Optimizer]:
    """The optimizers of a trial."""

    def change(group: dict[str, Any]) -> None:
        group.update({name: value for name, value in edit.options.items() if name in group})
        if "lr" in group:
            group["lr"] = float(group["lr"]) * edit.rate

    if edit.adam:
        return [torch.optim.Adam([values[name] for name in recording.held], USUAL_RATE)]
    optimizers = [one.build(values, change) for one in recording.optimizers]
    fastest = max((group for one in optimizers for group in one.param_groups), key=lambda group: group.get("lr", 0.0))
    fastest["params"] += [values[name] for name in sorted(set(edit.joins) - recording.held)]
    return optimizers


def _take(optimizers: list[torch.optim.Optimizer], share: float) -> None:
    """Leave a share of the gradients, as clipping and unscaling did in the training."""
    for parameter in (p for one in optimizers for group in one.param_groups for p in group["params"]):
        if share < 1.0 and parameter.grad is not None:
            parameter.grad *= share


def _train_strays(recording: Recording, changes: list[dict[Node, Any]], optimizer: torch.optim.Optimizer) -> None:
    """Weights that are not parameters of the model become parameters of the optimizer."""
    trained: dict[int, Tensor] = {}  # by their order in a step
    for step, change in zip(recording.steps, changes, strict=True):
        for order, node in enumerate(node for node in step.needed() if is_stray(node)):
            assert node.value is not None
            own = trained.setdefault(order, node.value.detach().clone().requires_grad_())
            change[node] = lambda _value, own=own: own
    optimizer.param_groups[0]["params"] += trained.values()


def _redraw(values: dict[str, Tensor], recording: Recording) -> None:
    """Fresh weights, of the size that keeps the signal for the activations that are there; biases of 0."""
    functions = {node.function for step in recording.steps for node in step.calls()}
    bends = "relu" if functions & {"relu", "gelu", "silu", "leaky_relu", "elu"} else "tanh"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)
        for name, value in values.items():
            if not value.requires_grad or name not in recording.parameters:
                continue
            if value.dim() > 1:
                if bends == "relu":
                    nn.init.kaiming_normal_(value)
                else:
                    nn.init.orthogonal_(value, 1.1)
            elif name.rpartition(".")[2].startswith("bias"):
                value.zero_()
