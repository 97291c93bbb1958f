"""SageMaker Debugger's built-in rules, written anew from its documentation, with its default thresholds.

https://docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.html; each function names its page. The rules
run on AWS only, on tensors that a training saves. Here they get what Debugger's PyTorch hook saves at every step: the
loss, all parameters and their gradients, and the inputs and outputs of the activation modules. A rule is evaluated at
every step and fires once it is true. Where a page leaves something open, the docstring says how it was read.

`TensorVariance` is not among them: its page gives no default thresholds.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS = {nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}
"""Modules whose inputs are saved as `*relu_input`, `*sigmoid_input`, `*tanh_input`."""


@dataclass(frozen=True)
class Step:
    """The tensors of one step.

    Attributes:
        loss: of the batch.
        weights: parameters before the step, by name.
        gradients: by the parameter's name.
        inputs: of the activation modules, by the module's name.
        outputs: of them.
    """

    loss: float
    weights: dict[str, Tensor]
    gradients: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclass(frozen=True)
class Trial:
    """What a training saved; `kinds` says of each activation module what it is."""

    kinds: dict[str, str]
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Fired:
    """A rule that fired; `names` of parameters or modules, those of the first step at which it did."""

    rule: str
    names: tuple[str, ...] = ()


def recorded(
    model: nn.Module,
    batch: Callable[[int], tuple[Any, Any]],
    loss_fn: Callable[[Any, Any], Tensor],
    optimizer: torch.optim.Optimizer,
    steps: int,
    after: Callable[[], object],
) -> Trial:
    """Trains, calls `after` after each step, and saves every step."""
    chosen = {name: m for name, m in model.named_modules() if type(m) in ACTIVATIONS}
    trial = Trial({name: ACTIVATIONS[type(m)] for name, m in chosen.items()})
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def saver(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def save(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            seen[name] = (given[0].detach().float().clone(), output.detach().float())

        return save

    def keep_input(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def keep(module: nn.Module, given: tuple[Any, ...]) -> None:
            before[name] = given[0].detach().float().clone()

        return keep

    before: dict[str, Tensor] = {}  # an activation in place overwrites its input
    hooks = [m.register_forward_pre_hook(keep_input(name)) for name, m in chosen.items()]
    hooks += [m.register_forward_hook(saver(name)) for name, m in chosen.items()]
    for number in range(steps):
        inputs, targets = batch(number)
        weights = {name: p.detach().float().clone() for name, p in model.named_parameters()}
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        loss.backward()
        gradients = {
            name: p.grad.detach().float().clone() for name, p in model.named_parameters() if p.grad is not None
        }
        optimizer.step()
        after()
        outputs = {name: output for name, (_, output) in seen.items()}
        trial.steps.append(Step(loss.item(), weights, gradients, dict(before), outputs))
    for hook in hooks:
        hook.remove()
    return trial


def fired(trial: Trial) -> list[Fired]:
    """All rules, each at most once."""
    found = []
    for rule, named in RULES.items():
        names = named(trial)
        if names is not None:
            found.append(Fired(rule, tuple(names)))
    return found


def _first(names_of_steps: Iterable[list[str]]) -> list[str] | None:
    return next((names for names in names_of_steps if names), None)


def vanishing_gradient(trial: Trial) -> list[str] | None:
    """vanishing-gradient.html: the mean of the absolute values of a gradient is below 1e-7."""
    return _first([n for n, g in step.gradients.items() if g.abs().mean() < 1e-7] for step in trial.steps)


def exploding_tensor(trial: Trial) -> list[str] | None:
    """exploding-tensor.html: a tensor has numbers that are infinite or NaN. All saved tensors are inspected."""
    for step in trial.steps:
        saved = (step.weights, step.gradients, step.inputs, step.outputs)
        names = [n for tensors in saved for n, t in tensors.items() if not bool(torch.isfinite(t).all())]
        if names or step.loss - step.loss != 0:
            return list(dict.fromkeys(names))
    return None


def _inactive(active: Tensor) -> bool:
    """More than 50 % of the neurons are active for less than 1 % of the rows; they are dimension 1 of images."""
    rows = active.transpose(1, -1).flatten(0, -2) if active.dim() == 4 else active.flatten(0, -2)
    return bool((rows.float().mean(0) < 0.01).float().mean() > 0.5)


def saturated_activation(trial: Trial) -> list[str] | None:
    """saturated-activation.html: inputs outside (-9.4999, 9.4999) for tanh and (-23, 16.99999) for sigmoid."""
    bounds = {"tanh": (-9.4999, 9.4999), "sigmoid": (-23.0, 16.99999)}

    def saturated(name: str, x: Tensor) -> bool:
        low, high = bounds.get(trial.kinds[name], (-float("inf"), float("inf")))
        return _inactive((x > low) & (x < high))

    return _first([n for n, x in s.inputs.items() if trial.kinds[n] != "relu" and saturated(n, x)] for s in trial.steps)


def dead_relu(trial: Trial) -> list[str] | None:
    """dead-relu.html: more than 50 % of a layer's ReLUs are active less than 1 % of the time."""
    return _first(
        [n for n, x in s.inputs.items() if trial.kinds[n] == "relu" and _inactive(x > 0)] for s in trial.steps
    )


def poor_weight_initialization(trial: Trial) -> list[str] | None:
    """poor-weight-initialization.html, in the first 10 steps.

    It is true if the largest variance of the inputs of the ReLU modules is more than 10 times the smallest; if the
    difference of the 95th and the 5th percentile of a gradient is less than 0.001; or if the loss has not decreased for
    5 steps. The page calls the first "variance of weights per layer", its parameter reads `.*relu_input`. Of the three,
    the last two hold for most healthy networks; see the script for the result without this rule.
    """
    for step in trial.steps[:10]:
        variances = {n: float(x.var()) for n, x in step.inputs.items() if trial.kinds[n] == "relu" and x.numel() > 1}
        if variances and max(variances.values()) > 10 * min(variances.values()):
            return [min(variances, key=lambda n: variances[n]), max(variances, key=lambda n: variances[n])]
        narrow = [n for n, g in step.gradients.items() if g.numel() > 1 and _range(g) < 0.001]
        if narrow:
            return narrow
    losses = [step.loss for step in trial.steps[:10]]
    return [] if len(losses) > 5 and min(losses[-5:]) >= min(losses[:-5]) else None


def _range(gradient: Tensor) -> float:
    ordered = gradient.flatten().sort().values
    return float(ordered[round(0.95 * (len(ordered) - 1))] - ordered[round(0.05 * (len(ordered) - 1))])


def weight_update_ratio(trial: Trial) -> list[str] | None:
    """weight-update-ratio.html: the update over the weight is above 10 or below 1e-8. Biases are another collection."""

    def wrong(old: Tensor, new: Tensor) -> bool:
        ratio = float((new - old).norm() / (old.norm() + 1e-9))
        return ratio > 10 or ratio < 1e-8

    pairs = zip(trial.steps[:-1], trial.steps[1:], strict=True)
    return _first(
        [n for n in a.weights if n.endswith("weight") and n in b.gradients and wrong(a.weights[n], b.weights[n])]
        for a, b in pairs
    )


def unchanged_tensor(trial: Trial) -> list[str] | None:
    """unchanged-tensor.html: numpy.allclose holds over 3 steps (rtol 1e-5, atol 1e-8); for the weights that train."""
    if len(trial.steps) < 4:
        return None
    last, *before = (step.weights for step in trial.steps[:-5:-1])
    trained = trial.steps[-1].gradients
    return [n for n in trained if all(bool(torch.allclose(last[n], w[n])) for w in before)] or None


def loss_not_decreasing(trial: Trial) -> list[str] | None:
    """loss-not-decreasing.html: after 10 steps the loss has not fallen by 0.1 %."""
    losses = [step.loss for step in trial.steps]
    pairs = zip(losses[::10], losses[10::10], strict=False)
    return [] if any(not new <= old * 0.999 for old, new in pairs) else None


RULES: dict[str, Callable[[Trial], list[str] | None]] = {
    "VanishingGradient": vanishing_gradient,
    "ExplodingTensor": exploding_tensor,
    "SaturatedActivation": saturated_activation,
    "DeadRelu": dead_relu,
    "PoorWeightInitialization": poor_weight_initialization,
    "WeightUpdateRatio": weight_update_ratio,
    "UnchangedTensor": unchanged_tensor,
    "LossNotDecreasing": loss_not_decreasing,
}
