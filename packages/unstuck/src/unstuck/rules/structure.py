"""Parameters without a gradient or not registered, gradients of exactly 0."""

import math
import re
from collections import Counter
from collections.abc import Sequence

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.rules import gradient, units
from unstuck.rules.evidence import FEWEST_MEASUREMENTS, Evidence, is_zero, siblings
from unstuck.rules.rule import Found
from unstuck.wording import listed, named, verb

SURELY_WITHOUT_GRADIENT = 3
"""After this many measurements of a training, a parameter without a gradient is a warning in any case."""
UNUSED_SHARE, SIDE_OUTPUT_SHARE = 0.02, 0.1

RECONNECT = "Look for detach(), .item(), .data, NumPy or torch.no_grad() behind it, or set requires_grad to False."
CONNECT = "Look for steps without a derivative: detach(), .item(), .data, NumPy, argmax, torch.no_grad()."
TRAIN_FIRST = "Nothing to do for predictions; train before you quantize."
USE_OR_FREEZE = "Use them, or set requires_grad to False; DDP needs find_unused_parameters=True otherwise."
WAIT = (
    "Nothing to do if other batches or calls use them, as with idle experts or a critic (DDP needs "
    "find_unused_parameters=True)."
)
ASK_IN_TRAINING = "Diagnose with training=True, or use them: parts of this model may run in training mode only."
ASIDE_IS_FINE = "Nothing to do if the loss does not need this output; otherwise add it to the loss."
FIND_FLAT = "Look for a flat function in between: round, sign, argmax, a clamp, or a factor or mask of 0."
FIND_FLAT_END = "Look for a flat function before the loss: a ReLU, clamp, round, saturated sigmoid, or a factor of 0."
SCALE_LOSS = "Scale the loss with torch.amp.GradScaler, or use bfloat16: float16 has no number below 6e-8."
TARGET_IS_FINE = "Nothing to do for a target network; set requires_grad to False, so that nothing moves it."
CHECK_MASKS = (
    "Check the masks and weights of the loss, and the targets: no network fits its data before it has learned."
)
EXPECTED_ZERO = "Nothing to do if this batch is fitted exactly; otherwise check the loss function."
START_ONE = "Two factors that both start at 0 block each other: start only one of them at 0."
BOTH_DIRECTIONS = (
    "Use the last states of both directions, `torch.cat([h_n[-2], h_n[-1]], 1)`, or the mean over the steps; or leave "
    "out `bidirectional=True`."
)
WAIT_A_STEP = "Nothing to do if a weight starts at 0 on purpose, or this batch does not use these weights."
REGISTER = (
    "Make them in `__init__`, keep modules in nn.ModuleList or nn.ModuleDict and tensors in nn.Parameter, and make the "
    "optimizer after that; nothing to do if another optimizer trains them."
)


def no_gradient(evidence: Evidence) -> Found | None:
    """The graph is cut between two layers, or the loss does not depend on the parameters: they are not trained."""
    reached = {w.name for m in evidence.measurements for w in m.weights if w.gradient is not None}
    trainable = [w for w in evidence.latest.weights if w.trains]
    fixed = {w.name for w in trainable} - reached - moved(evidence)
    missing = [w.name for w in trainable if w.name in fixed]
    copies = copies_of_trained(evidence, missing) if any(evidence.live) else set()
    if copies and len(copies) == len(missing):
        text = _("No gradient reaches {names}, a copy of parameters that have one.", names=listed(missing))
        return _of(missing, text, TARGET_IS_FINE, Severity.NOTE)
    missing = [name for name in missing if name not in copies]
    if not missing:
        return None
    if len(missing) == len(trainable) and not any(evidence.live):
        if False:
            text = _("No gradient passes the quantized {names}.", names=listed(evidence.latest.quantized))
            return _of(missing, text, TRAIN_FIRST, Severity.NOTE)
        text = _("No parameter gets a gradient ({names}): nothing is trained.", names=listed(missing))
        return _of(missing, text, CONNECT, Severity.ERROR)
    cut = _before_a_cut(evidence, missing)
    if cut:
        text = _(
            "{names} {verb} no gradient although later layers do: the graph is cut in between.",
            names=listed(cut), verb=verb(cut, "gets", "get"),
        )  # fmt: skip
        return _of(cut, text)
    spare = _with_used_siblings(evidence, missing) if len(evidence.measurements) < SURELY_WITHOUT_GRADIENT else set()
    if len(spare) == len(missing):
        text = _(
            "{names} {verb} no gradient in this batch; similar parameters do.",
            names=listed(missing), verb=verb(missing, "gets", "get"),
        )  # fmt: skip
        return _of(missing, text, WAIT, Severity.NOTE)
    return _left_out(evidence, [name for name in missing if name not in spare])


def _left_out(evidence: Evidence, missing: list[str]) -> Found:
    """Parameters without a gradient, although the graph is not cut."""
    resting = [n for n in missing if not evidence.weights[n].used] if evidence.latest.reads_mode else []
    if len(resting) == len(missing):
        text = _("The forward pass does not use {names} in evaluation mode.", names=listed(missing))
        return _of(missing, text, ASK_IN_TRAINING, Severity.NOTE)
    missing = [name for name in missing if name not in resting]
    unused = not any(evidence.weights[name].used for name in missing)
    share = sum(_count(evidence, name) for name in missing) / sum(
        math.prod(w.shape) for w in evidence.latest.weights if w.trains
    )
    vectors = all(max(evidence.weights[name].shape, default=1) == _count(evidence, name) for name in missing)
    values = {
        "names": listed(missing), "verb": verb(missing, "is", "are"), "pronoun": verb(missing, "it", "them"),
    }  # fmt: skip
    if unused and (vectors or share < UNUSED_SHARE or _are_networks(evidence, missing)):
        text = _("The forward pass of this batch does not use {names}.", names=values["names"])
        return _of(missing, text, WAIT, Severity.NOTE)
    if share < SIDE_OUTPUT_SHARE and {name.rpartition(".")[0] for name in missing} <= _side_outputs(evidence):
        text = _("The loss does not depend on {names}: this output is not used.", names=values["names"])
        return _of(missing, text, ASIDE_IS_FINE, Severity.NOTE)
    text = _("{names} {verb} trainable but without a gradient: the loss does not depend on {pronoun}.", **values)
    if unused:
        text = _("{names} {verb} trainable but without a gradient: the forward pass does not use {pronoun}.", **values)
    return _of(missing, text, USE_OR_FREEZE)


def _are_networks(evidence: Evidence, unused: Sequence[str]) -> bool:
    """Whether these are children of the model of several layers each, seen outside of a training: a critic may be."""
    children = {name.partition(".")[0] for name in unused}
    own = [w for w in evidence.latest.weights if w.trains and w.name.partition(".")[0] in children]
    layers = Counter(w.name.partition(".")[0] for w in own if len(w.shape) > 1)
    return evidence.latest.step is None and len(own) == len(unused) and min(layers[c] for c in children) > 1


def zero_gradient(evidence: Evidence) -> Found | None:
    """A gradient of exactly 0 trains nothing, and marks a function without slope."""
    weights = (w for w in evidence.latest.weights if w.trains and math.prod(w.shape) > 0)
    matrices = [w for w in weights if len(w.shape) > 1 and w.gradient is not None]
    zero = [w for w in matrices if w.gradient == 0]
    if not zero:
        return None
    names = tuple(w.name for w in zero)
    if evidence.sinks and not any(evidence.references):
        if evidence.latest.loss == 0:
            count = len(evidence.measurements)
            if count >= FEWEST_MEASUREMENTS and all(m.loss == 0 for m in evidence.measurements):
                text = _("The loss is 0 in all {count} measurements, and so is every gradient.", count=count)
                return Found(names, 0.0, 0.0, text, CHECK_MASKS, Severity.ERROR)
            text = _("The loss is 0, and so is every gradient.")
            return Found(names, 0.0, 0.0, text, EXPECTED_ZERO, Severity.NOTE)
        text = _("The gradient from the loss to the last layer is exactly 0: nothing is trained.")
        half = any(evidence.layers[i].dtype == "float16" for i in evidence.sinks)
        return Found(names, 0.0, 0.0, text, SCALE_LOSS if half else FIND_FLAT_END, Severity.ERROR)
    factors = {name for layer in evidence.latest.weighted for name in layer.weights}  # what is added blocks nothing
    stuck = [] if evidence.zero_initialised else [w.name for w in zero if is_zero(w) and w.name in factors]
    if stuck:
        text = _(
            "{names} {verb} a gradient of exactly 0: nothing moves.",
            names=listed(stuck), verb=verb(stuck, "is 0 and gets", "are 0 and get"),
        )  # fmt: skip
        severity = Severity.ERROR if len(zero) == len(matrices) else None
        return Found(tuple(stuck), 0.0, 0.0, text, START_ONE, severity)
    fades, lost = gradient.fades(evidence), gradient.lost(evidence)
    if lost and not fades:
        return _becomes_zero(evidence, lost)
    if fades or units.neurons_explain(evidence):
        return None
    starting = [w.name for w in evidence.zero_initialised]
    text = _("The gradient of {names} is exactly 0 in this batch.", names=listed(names))
    if starting:
        values = {"names": listed(names), "zeros": listed(starting), "verb": verb(starting, "starts", "start")}
        text = _("The gradient of {names} is exactly 0: {zeros} {verb} at 0.", **values)
    if found := _one_direction(evidence, names):
        return found
    return Found(names, 0.0, 0.0, text, WAIT_A_STEP, Severity.NOTE)


def _one_direction(evidence: Evidence, names: Sequence[str]) -> Found | None:
    """Those of the parameters that belong to a direction of a recurrent layer that the outputs do not use."""
    half = tuple(name for name in names if _of_one_direction(evidence, name))
    text = _(
        "The gradient of {names} is exactly 0: of a layer with two directions, the outputs use one, or of the other "
        "the first step only.",
        names=listed(half),
    )  # fmt: skip
    return Found(half, 0.0, 0.0, text, BOTH_DIRECTIONS) if half else None


def _of_one_direction(evidence: Evidence, name: str) -> bool:
    """Whether a parameter belongs to one direction of a recurrent layer, and that of the other one has a gradient."""
    if not re.search(r"weight_[ih]h_l\d+(_reverse)?$", name):
        return False
    other = name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"
    never = all(weight.gradient == 0 for weight in evidence.moved_weights.get(name, ()))
    return never and other in evidence.weights and bool(evidence.weights[other].gradient)


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
    return _of(names, text)


def _count(evidence: Evidence, name: str) -> int:
    """How many numbers a parameter has."""
    return math.prod(evidence.weights[name].shape)


def _of(names: Sequence[str], message: str, remedy: str | None = None, severity: Severity | None = None) -> Found:
    return Found(tuple(names), len(names), 0, message, remedy, severity)


def _before_a_cut(evidence: Evidence, missing: Sequence[str]) -> list[str]:
    """Those of the parameters whose layer feeds layers with a gradient, or that would if no tensor had been rebuilt."""
    first = next((i for i, live in enumerate(evidence.live) if live), None)
    if first is None:
        return []
    rebuilt = first if not evidence.layers[first].sources else 0
    cut = [x for i, x in enumerate(evidence.layers) if x.gradient is None and (evidence.feeds_live[i] or i < rebuilt)]
    names = (name for layer in cut if layer.role == "weights" for name in layer.weights)
    return list(dict.fromkeys(name for name in names if name in missing))


def _side_outputs(evidence: Evidence) -> set[str]:
    """Modules of the layers without a gradient that no layer with weights reads."""
    ends = (x for i, x in enumerate(evidence.layers) if x.gradient is None and not evidence.feeds_weights[i])
    return {name.rpartition(".")[0] for layer in ends for name in layer.weights if "." in name}


def copies_of_trained(evidence: Evidence, missing: Sequence[str]) -> set[str]:
    """Those of the parameters that no optimizer moves, in a part of several layers built like one that trains."""
    weights = evidence.weights
    moved = {w.name for m in evidence.measurements for w in m.weights if w.rate is not None}
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, weight in weights.items():
        places = name.split(".")
        for i in range(1, len(places)):
            if not places[i - 1].isdecimal():
                parts.setdefault(".".join(places[:i]), {})[".".join(places[i:])] = weight.shape
    without = {p for p, own in parts.items() if all(f"{p}.{n}" in missing and f"{p}.{n}" not in moved for n in own)}
    networks = {p: own for p, own in parts.items() if sum(len(shape) > 1 for shape in own.values()) > 1}
    trained = [own for p, own in networks.items() if all(weights[f"{p}.{n}"].gradient is not None for n in own)]
    return {f"{part}.{name}" for part in without if parts[part] in trained for name in parts[part]}


def moved(evidence: Evidence) -> set[str]:
    """Parameters whose size is not that of the first measurement, also by steps that are not measured."""
    start = {w.name: w.size for w in evidence.measurements[0].weights}
    return {w.name for w in evidence.latest.weights if abs(start.get(w.name, w.size) - w.size) > 0}


def _with_used_siblings(evidence: Evidence, missing: Sequence[str]) -> set[str]:
    """Those of the parameters beside similar ones, in one list of modules, that get a gradient."""
    used = {(p, w.shape) for w in evidence.latest.weights if w.gradient is not None for p in siblings(w.name)}
    return {name for name in missing if any((p, evidence.weights[name].shape) in used for p in siblings(name))}


def _becomes_zero(evidence: Evidence, lost: Sequence[int]) -> Found:
    """The gradient is 0 at once, behind these layers."""
    last = lost[-1]
    names = tuple(evidence.layers[i].name for i in reversed(lost))
    values = {"names": evidence.listed(names), "verb": verb(names, "gets", "get"), "first": named(names[0])}
    following = next((named(evidence.layers[c].name) for c in evidence.next_live(last)), None)
    text = _("The gradient becomes exactly 0 behind {first}: {names} {verb} none.", **values)
    if following is not None:
        text = _(
            "The gradient becomes exactly 0 between {first} and {second}: {names} {verb} none.",
            second=following, **values,
        )  # fmt: skip
    return Found(names, 0.0, 0.0, text, severity=Severity.ERROR)
