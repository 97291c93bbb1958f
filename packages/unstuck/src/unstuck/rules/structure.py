"""Parameters without a gradient or not registered, gradients of exactly 0."""

import math
from collections.abc import Sequence

import torch

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.again import Again
from unstuck.measure.measurement import Weight
from unstuck.rules import gradient, units
from unstuck.rules.evidence import FEWEST_MEASUREMENTS, PATIENT_MEASUREMENTS, Evidence, is_zero
from unstuck.rules.pairs import CHOOSE
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule, shown
from unstuck.wording import listed, named, verb

OFTEN_ZERO, FEWEST_IDLE = 0.25, 2
"""Share of the first quarter of the measurements, and number, whose gradient is 0."""
UNUSED_SHARE, SIDE_OUTPUT_SHARE = 0.02, 0.1

CONNECT = (
    "Call `loss.backward()`, or return the loss from `training_step`; else look for steps without a derivative: "
    "detach(), .item(), .data, NumPy, argmax, torch.no_grad(), or checkpoints of frozen layers without "
    "`use_reentrant=False`."
)
RECONNECT = (
    "Look for detach(), .item(), .data, NumPy or torch.no_grad() behind them; or set requires_grad to False (DDP needs "
    "find_unused_parameters=True otherwise)."
)
WAIT = (
    "Nothing to do if other batches, other calls or the training mode use them, as with idle experts or a critic (DDP "
    "needs find_unused_parameters=True)."
)
ASIDE_IS_FINE = "Nothing to do if the loss does not need this output; otherwise add it to the loss."
SMOOTH = "Use a smooth activation: tanh, a sigmoid, SiLU or GELU."
NO_QUOTIENT = "Normalise before the choice, or only if several are chosen: a single number over itself is 1."
FIND_FLAT = "Look for a flat function in between: round, sign, argmax, a clamp, or a factor or mask of 0."
FIND_FLAT_END = "Look for a flat function before the loss: a ReLU, clamp, round, saturated sigmoid, or a factor of 0."
SCALE_LOSS = "Scale the loss with torch.amp.GradScaler, or use bfloat16: float16 has no number below 6e-8."
EXPECTED_ZERO = "Nothing to do if this batch is fitted exactly; otherwise check the loss function."
VARY_REWARDS = (
    "Look at the advantages: completions of one prompt that are alike, or that all get the same reward, have none. "
    "Raise the temperature or the number of generations, and check the reward."
)
START_ONE = "Two factors that both start at 0 block each other: start only one of them at 0."
WAIT_A_STEP = "Nothing to do if a weight starts at 0 on purpose, or this batch does not use these weights."
REGISTER = (
    "Make them in `__init__`, keep modules in nn.ModuleList or nn.ModuleDict and tensors in nn.Parameter, and make the "
    "optimizer after that; nothing to do if another optimizer trains them."
)


@rule("US501", "parameters without a gradient", remedy=RECONNECT)
def no_gradient(evidence: Evidence) -> Found | None:
    """The graph is cut between two layers, or the loss does not depend on the parameters: they are not trained."""
    start = {w.name: w.size for w in evidence.measurements[0].weights}
    reached = {w.name for m in evidence.measurements for w in m.weights if w.gradient is not None}
    trainable = [w for w in evidence.latest.weights if w.trains]
    # A step that is not measured may have moved them.
    missing = [w for w in trainable if w.name not in reached and not abs(start.get(w.name, w.size) - w.size) > 0]
    if not missing:
        return None
    if len(missing) == len(trainable) and not any(evidence.live):
        text = _("No parameter gets a gradient ({names}): nothing is trained.", names=_names(missing))
        return _of(missing, text, CONNECT, Severity.ERROR)
    surely = len(evidence.measurements) >= FEWEST_MEASUREMENTS
    used = {(p, w.shape) for w in trainable if w.gradient is not None for p in siblings(w.name) if not surely}
    idle = [w for w in missing if not w.used and any((p, w.shape) in used for p in siblings(w.name))]
    rest = [w for w in missing if w not in idle and (w.used or not evidence.latest.reads_mode)]
    share = sum(math.prod(w.shape) for w in rest) / sum(math.prod(w.shape) for w in trainable)
    vectors = all(max(w.shape, default=1) == math.prod(w.shape) for w in rest)
    if not any(w.used for w in rest) and (vectors or share < UNUSED_SHARE):
        text = _("The forward pass of this batch does not use {names}.", names=_names(rest or missing))
        return _of(rest or missing, text, WAIT, Severity.NOTE)
    aside = (x for i, x in enumerate(evidence.layers) if x.gradient is None and not evidence.feeds_weights[i])
    modules = {name.rpartition(".")[0] for layer in aside for name in layer.weights}
    if share < SIDE_OUTPUT_SHARE and all(w.name.rpartition(".")[0] in modules for w in rest):
        text = _("The loss does not depend on {names}: this output is not used.", names=_names(rest))
        return _of(rest, text, ASIDE_IS_FINE, Severity.NOTE)
    text = _(
        "{names} {verb} trainable but without a gradient: the loss does not depend on {pronoun}.",
        names=_names(rest), verb=verb(rest, "is", "are"), pronoun=verb(rest, "it", "them"),
    )  # fmt: skip
    return _of(rest, text)


@rule("US502", "gradient of exactly zero", remedy=FIND_FLAT, hidden_by=("US206", "US401", "US601", "US701", "US705"))
def zero_gradient(evidence: Evidence) -> Found | None:
    """A gradient of exactly 0 trains nothing, and marks a function without slope."""
    weights = (w for w in evidence.latest.weights if w.trains and math.prod(w.shape) > 0)
    matrices = [w for w in weights if len(w.shape) > 1 and w.gradient is not None]
    if (found := _often_zero(evidence)) is not None:
        return found
    held = {w.name for m in evidence.measurements for w in m.weights if w.rate is not None}  # others are for US303
    zero = [w for w in matrices if w.gradient == 0 and (w.name in held or not held)]
    if evidence.ask(no_curvature):
        text = _("A second derivative in the loss is 0 everywhere, as with activations made of straight lines (ReLU).")
        return shown(text, SMOOTH)
    if call := evidence.ask(constant):
        text = _("{call} is always 1: what it is computed from has no gradient.", call=call)
        return Found(tuple(w.name for w in zero), 1.0, 0.0, text, NO_QUOTIENT)
    if not zero:
        return None
    names = tuple(w.name for w in zero)
    if evidence.sinks and not any(evidence.references):
        if evidence.latest.loss == 0:
            text, steps = _("The loss is 0, and so is every gradient."), evidence.measurements
            surely = len(steps) >= FEWEST_MEASUREMENTS and all(m.loss == 0 for m in steps)
            return Found(names, 0.0, 0.0, text, EXPECTED_ZERO, Severity.ERROR if surely else Severity.NOTE)
        text = _("The gradient from the loss to the last layer is exactly 0: nothing is trained.")
        half = any(evidence.layers[i].dtype == "float16" for i in evidence.sinks)
        return Found(names, 0.0, 0.0, text, SCALE_LOSS if half else FIND_FLAT_END, Severity.ERROR)
    alone = {x.module for x in evidence.layers if x.role == "attention" and x.shape[-1:] == (1,)}  # of one key
    own = [w for w in zero if is_zero(w) and w.name.rpartition(".")[0] not in alone]
    stuck = [] if evidence.zero_initialised else [w.name for w in own]
    if stuck:
        text = _(
            "{names} {verb} a gradient of exactly 0: nothing moves.",
            names=listed(stuck), verb=verb(stuck, "is 0 and gets", "are 0 and get"),
        )  # fmt: skip
        severity = Severity.ERROR if len(zero) == len(matrices) else None
        return Found(tuple(stuck), 0.0, 0.0, text, START_ONE, severity)
    fades, lost = gradient.fades(evidence), gradient.lost(evidence)
    if lost and not fades:
        names = tuple(evidence.layers[i].name for i in reversed(lost))
        after = next((evidence.layers[i].name for i in evidence.next_live(lost[-1])), "")
        text = _(
            "The gradient becomes exactly 0 between {first} and {second}: {names} {verb} none.",
            first=named(names[0]), second=named(after) if after else _("the loss"),
            names=evidence.listed(names), verb=verb(names, "gets", "get"),
        )  # fmt: skip
        return Found(names, 0.0, 0.0, text, severity=Severity.ERROR)
    if fades or units.neurons_explain(evidence):
        return None
    never = _always_zero(evidence, names)
    if never:
        count = len(evidence.measurements)
        text = _("The gradient of {names} is exactly 0 in all {count} measurements.", names=listed(never), count=count)
        return Found(tuple(never), 0.0, 0.0, text)
    text = _("The gradient of {names} is exactly 0 in this batch.", names=listed(names))
    return Found(names, 0.0, 0.0, text, WAIT_A_STEP, Severity.NOTE)


def _often_zero(evidence: Evidence) -> Found | None:
    """Steps of a policy gradient, whose loss may be negative, that learn nothing: all advantages are 0."""
    known = [[w.gradient for w in m.weights if w.gradient is not None] for m in evidence.measurements]
    idle = [bool(gradients) and not any(gradients) for gradients in known]
    early, negative = idle[: max(3, len(idle) // 4)], any((m.loss or 0.0) < 0 for m in evidence.measurements)
    if not negative or not evidence.lasts or sum(early) < max(FEWEST_IDLE, OFTEN_ZERO * len(early)):
        return None
    text = _(
        "In {count} of {all} measured steps every gradient is exactly 0: there is nothing to learn from these samples.",
        count=sum(idle), all=len(idle),
    )  # fmt: skip
    return Found((), sum(idle) / len(idle), OFTEN_ZERO, text, VARY_REWARDS)


def _always_zero(evidence: Evidence, names: Sequence[str]) -> list[str]:
    """Those of the parameters whose gradient is 0 in all of several measurements."""
    gradients: dict[str, list[float | None]] = {name: [] for name in names if evidence.lasts}
    for weight in (weight for m in evidence.measurements for weight in m.weights if weight.name in gradients):
        gradients[weight.name].append(weight.gradient)
    return [name for name, own in gradients.items() if len(own) >= PATIENT_MEASUREMENTS and not any(own)]


@rule("US504", "weights that are not registered", remedy=REGISTER, mistake=True)
def unregistered(evidence: Evidence) -> Found | None:
    """PyTorch finds modules and parameters that are attributes of a module, and not those in lists and dicts."""
    names = evidence.latest.strays
    if not names:
        return None
    text = _(
        "{names} {verb} trainable but missing in model.parameters(): the optimizer does not move {pronoun} and "
        "state_dict() does not save {pronoun}.",
        names=listed(names), verb=verb(names, "is", "are"), pronoun=verb(names, "it", "them"),
    )  # fmt: skip
    return Found(names, len(names), 0, text)


def _names(weights: Sequence[Weight]) -> str:
    return listed([weight.name for weight in weights])


def _of(weights: Sequence[Weight], message: str, remedy: str | None = None, severity: Severity | None = None) -> Found:
    return Found(tuple(weight.name for weight in weights), len(weights), 0, message, remedy, severity)


def siblings(name: str) -> tuple[str, ...]:
    """Patterns that the names of similar parts share: the name with one of its numbers replaced.

    Example:
        >>> siblings("blocks.3.experts.12.up")
        ('blocks.*.experts.12.up', 'blocks.3.experts.*.up')
    """
    parts = name.split(".")
    return tuple(".".join([*parts[:i], "*", *parts[i + 1 :]]) for i, part in enumerate(parts) if part.isdigit())


@question
def constant(again: Again) -> str | None:
    """A quotient of what the network computes, or a softmax of what it chose, that is 1: nothing before it trains."""
    needed = [n for n in again.step.needed() if n.requires_grad and n.module is not None and n.shape]
    ends = [n for n in needed if n.function in ("div", "truediv", "true_divide", "softmax") and n.shape[0] > 1]
    chosen = {n for n in ends if n.reads[0].through(calls.MOVES).function in CHOOSE}  # an attention may have one key
    ends = [n for n in ends if (n in chosen if n.function == "softmax" else len(n.moving) > 1)]
    for node, value in zip(ends, again.run(ends), strict=True):
        if value.numel() >= again.samples and bool(((value - 1).abs() < 1e-6).all()):
            return f"{node.function} in {node.module}" if node.module else node.function
    return None


@question
def no_curvature(again: Again) -> bool:
    """Whether a derivative of a derivative is 0 everywhere, as if activations consist of straight lines."""
    second = [n for n in again.step.calls("grad") if any(x.function == "grad" for x in again.step.needed(n.reads))]
    parts = [user for node in second for user in node.users if user.dtype is not None]
    with torch.enable_grad():
        return any(not value.any() for value in again.run(parts))
