"""`unstuck` and its peers, each asked in the way that its documentation says what is wrong with a network.

All say a list of `Said`: one finding each, with the rules of ours that it may stand for, and the layers that it names.

**unstuck** gets one batch (`unstuck.diagnose`), or the training of the case (`unstuck.Monitor` at every step). Errors
and warnings count, notes do not.

**torch-audit** (`audit_dynamic` with its wrappers) sees a training and audits every step of it; by default it would see
step 0 only. Findings of severity WARN and above count, of the rules that are about whether a network learns: non-finite
numbers, gradients, activations, data, layers that are not called. Advice on speed and style (alignment to 8, channels
last, AMP, biases before norms, even kernels, weight decay) is no claim that a network is broken, and is left out.

**torchmortem** (`Autopsy`, its default sampling) sees the same training. WARNING and CRITICAL count, INFO does not.

**SageMaker Debugger**: `_sagemaker_rules` on the same training. It is scored twice: with and without
`PoorWeightInitialization`, which calls most networks broken.

The training is the case's own, if it has one; else `STEPS` steps on the one batch, by the case's optimizer (Adam, 1e-3,
if it names none). A tool that raises an error says nothing, and its row has the error.
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import unstuck
from _sagemaker_rules import fired, recorded
from catalogue.case import Case
from real_failures.program import Training
from unstuck.findings import Severity

STEPS = 20
"""Enough for every detector of torchmortem but the one for plateaus of the loss, which are no fault on one batch."""


@dataclass(frozen=True)
class Said:
    """One finding.

    Attributes:
        rule: the tool's own name of it.
        rules: identifiers of ours that it may stand for; empty: it calls the network broken for another reason.
        layers: names of modules or parameters.
    """

    rule: str
    rules: frozenset[str]
    layers: tuple[str, ...] = ()


Peer = Callable[[Training, int], list[Said]]


class OwnLoopError(Exception):
    """The tool can follow the usual loop only, and the program has its own."""


def ours(case: Case) -> list[Said]:
    model, inputs, targets, loss_fn = case.problem()
    if case.steps:
        monitor = unstuck.Monitor(model, every=1)
        optimizer = case.optimizer(model.parameters())
        for _ in range(case.steps):
            optimizer.zero_grad()
            loss_fn(model(inputs), targets).backward()
            optimizer.step()
        diagnosis = monitor.diagnosis()
    else:
        diagnosis = unstuck.diagnose(model, inputs, targets, loss_fn)
    counted = [f for f in diagnosis.findings if f.severity is not Severity.NOTE]
    return [Said(f.rule, frozenset({f.rule}), f.layers) for f in counted]


_GONE = ("US101", "US103", "US501", "US403")
_TORCH_AUDIT = {
    "TA100": {"US401"},
    "TA102": {"US102", "US104", "US302"},
    "TA103": {*_GONE, "US502", "US202"},
    "TA104": {"US501"},
    "TA105": {"US202"},
    "TA300": set(),
    "TA301": {"US201", "US401"},
    "TA302": {"US203"},
    "TA303": set(),
    "TA304": set(),
    "TA305": set(),
    "TA405": {"US202"},
    "TA500": {"US501"},
    "TA501": set(),
}
"""The rules that count, and what they may stand for: `torch-audit --list-rules`."""


def torch_audit(training: Training, steps: int) -> list[Said]:
    from torch_audit import audit_dynamic
    from torch_audit.core import Severity as Level

    optimizer = usual_optimizer(training)
    with audit_dynamic(training.model, optimizer=optimizer, every_n_steps=1) as auditor:
        for number in range(steps):
            inputs, targets = training.batch(number)
            optimizer.zero_grad()
            auditor.backward(training.loss(auditor.forward(inputs), targets))
            auditor.optimizer_step()
            if training.after is not None:
                training.after()
    found = auditor.finish(report=False).findings
    said = [
        Said(f.rule_id, frozenset(_TORCH_AUDIT[f.rule_id]), (f.module_path,) if f.module_path else ())
        for f in found
        if f.severity >= Level.WARN and f.rule_id in _TORCH_AUDIT
    ]
    return list(dict.fromkeys(said))


_TORCHMORTEM = {
    "Vanishing gradients detected": {*_GONE, "US502"},
    "Exploding gradients detected": {"US102", "US104"},
    "Gradient stalling": {*_GONE, "US502", "US202"},
    "Dead units": {"US202"},
    "Activation saturation": {"US201", "US204"},
    "Update ratio too low": {"US301", "US101"},
    "Update ratio too high": {"US302"},
    "Weight norm explosion": {"US302", "US102"},
    "Stagnant weight norms": {"US301", "US501"},
    "Training divergence detected": {"US302", "US401"},
    "Loss plateau detected": {"US301"},
    "Rank collapse": {"US203", "US503"},
}
"""By the beginning of the title; what is not here calls the network broken without saying why."""


def torchmortem(training: Training, steps: int) -> list[Said]:
    from torchmortem import Autopsy
    from torchmortem.types import Severity as Level

    logging.getLogger("torchmortem").setLevel(logging.CRITICAL)
    loss_fn, after, losses = training.loss, training.after, [0.0]

    def loss(outputs: Any, targets: Any) -> Tensor:
        value = loss_fn(outputs, targets)
        losses.append(value.item())
        return value

    with Autopsy(training.model, optimizer=training.optimizer) as autopsy:

        def after_step() -> None:
            if after is not None:
                after()
            autopsy.step(loss=losses[-1])

        replace(training, loss=loss, after=after_step).run(steps)
    report = autopsy.get_report()
    assert report is not None
    said = []
    for finding in report.findings:
        if finding.severity >= Level.WARNING:
            rules = next((r for title, r in _TORCHMORTEM.items() if finding.title.startswith(title)), set())
            said.append(Said(finding.title.partition(" in ")[0], frozenset(rules), tuple(finding.affected_layers)))
    return said


_SAGEMAKER = {
    "VanishingGradient": {*_GONE, "US502", "US202"},
    "ExplodingTensor": {"US401"},
    "SaturatedActivation": {"US201"},
    "DeadRelu": {"US202"},
    "PoorWeightInitialization": {"US101", "US102", "US103", "US104", "US503", "US203"},
    "WeightUpdateRatio": {"US301", "US302"},
    "UnchangedTensor": {"US301", "US501"},
    "LossNotDecreasing": {"US301", "US302"},
}


def sagemaker(training: Training, steps: int) -> list[Said]:
    trial = recorded(
        training.model,
        training.batch,
        training.loss,
        usual_optimizer(training),
        steps,
        training.after or (lambda: None),
    )
    return [Said(f.rule, frozenset(_SAGEMAKER[f.rule]), f.names) for f in fired(trial)]


def sagemaker_without_initialization(training: Training, steps: int) -> list[Said]:
    return [said for said in sagemaker(training, steps) if said.rule != "PoorWeightInitialization"]


PEERS: dict[str, Peer] = {
    "torch-audit": torch_audit,
    "torchmortem": torchmortem,
    "sagemaker": sagemaker,
    "sagemaker-without-initialization": sagemaker_without_initialization,
}
TOOLS = ("unstuck", *PEERS)


def usual_optimizer(training: Training) -> torch.optim.Optimizer:
    """That of a training whose loop these tools can follow."""
    if training.step is not None or training.optimizer is None:
        raise OwnLoopError("it has its own loop, or no optimizer")
    return training.optimizer


def training_of(case: Case) -> Training:
    """The training of a case on its batch."""
    model, inputs, targets, loss_fn = case.problem()
    return Training(model, lambda _: (inputs, targets), loss_fn, case.optimizer(model.parameters()), lambda _: 0.0)


def asked(tool: str, case: Case, steps: int) -> tuple[list[Said], str | None]:
    """What the tool says of the case, and the error that it ended with: "not installed" for one that is missing."""
    if tool == "unstuck":
        return tried(lambda: ours(case))
    return tried(lambda: PEERS[tool](training_of(case), case.steps or steps))


def tried(ask: Callable[[], list[Said]]) -> tuple[list[Said], str | None]:
    """What a tool says, and the error that it ended with."""
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            return ask(), None
    except ModuleNotFoundError as error:
        return [], "not installed" if error.name in ("torch_audit", "torchmortem") else f"{error}"
    except Exception as error:  # a tool that falls over is a result
        return [], f"{type(error).__name__}: {error}".splitlines()[0][:120]


def matches(named: str, right: str) -> bool:
    """Whether two names are of the same layer, whichever of it they name: module, function in it, or parameter."""

    def module(name: str) -> str:
        name = name.partition("@")[0]
        head, _, last = name.rpartition(".")
        return head if last in _PARTS or last.startswith(("weight_", "bias_")) else name

    return module(named) == module(right)


_PARTS = {"weight", "bias", "in_proj_weight", "in_proj_bias", "relu", "gelu", "tanh", "sigmoid", "softmax"}


def grade(case: Case, said: list[Said], strict: bool) -> dict[str, Any]:
    """Whether the network was called broken, with the right rule, and with the right layer.

    Args:
        case: what was diagnosed.
        said: what the tool said of it.
        strict: the right layer must be the first name of the finding, exactly as the case spells it; else it is enough
            that a finding of the right kind names it at all.
    """
    right = [s for s in said if s.rules.intersection(case.rules)]
    if not case.layers:
        layer = any(not s.layers for s in right)
    elif strict:
        layer = any(s.layers[:1] and s.layers[0] in case.layers for s in right)
    else:
        layer = any(matches(named, one) for s in right for named in s.layers for one in case.layers)
    return {"called_broken": bool(said), "right_rule": bool(right), "right_layer": layer}
