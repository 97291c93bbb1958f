"""The loss reads the wrong input, or the outputs and targets do not fit."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import torch

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.activations import SOFTMAX, range_of
from unstuck.measure.again import Again
from unstuck.measure.calls import BINARY_LOSSES, CLASS_LOSSES, COMPARISONS, OVERLAP, REGRESSION_LOSSES
from unstuck.measure.measurement import Comparison, Layer
from unstuck.rules.copies import twin
from unstuck.rules.evidence import Evidence
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule, shown
from unstuck.rules.standstill import PATIENT_STEPS, constant_level, falling, loss_of_equal_outputs
from unstuck.rules.units import LARGE_INPUTS
from unstuck.step import Node
from unstuck.wording import named, number, percent

READS_LOGITS = (
    *("cross_entropy", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss"),
    *("softmax", "log_softmax"),
)
AGAIN = {("logsumexp", kind) for kind in SOFTMAX}
"""The logarithm of a sum of exponentials of these is a second softmax."""
READS_PROBABILITIES = (OVERLAP, "clamp", "log")
TOLERATED_MISS = 0.02
"""Targets may be outside of the reach by this share of their range: smoothed or noisy labels."""
NOISY_DEVIATION = 0.35
"""Targets that deviate by less of the reach are mostly in it: beyond is noise, if the network learns."""
FAR_TARGETS, LARGE_TARGETS = 10.0, 10.0
MASK = 1e6
"""Larger numbers are masks."""
FEWEST_LABELS, FEWEST_BINARY_LABELS = 32, 256
LARGE_LOGITS, WORSE_THAN_EQUAL, FAR_OFF = 5.0, 3.0, 10.0
USUAL_RATE, FEW_STEPS = 1e-3, 50.0
FEW_TEXTS = 0.1
"""Share of texts that may be too long; usual trainings skip them."""
MOST_LABEL = 2.0
"""Targets of a binary loss beyond it are not labels that begin at 1."""

TURNED_BOXES = 0.1
"""Share of boxes that end before they begin, from which on they are of another kind."""

SWAP_BACK = "Give the outputs first: `loss_fn(outputs, targets)`."
REPLACE = "Give the loss the input that it expects."
WITH_GRAPH = (
    "Give it the outputs with their graph, without detach(), item() or another network in their place; nothing to do "
    "if the term is for information only."
)
RESHAPE = "Give outputs and targets the same shape, for example by `targets.unsqueeze(1)` or `outputs.squeeze(1)`."
SCALE = "Scale the targets into the range of the outputs, or end with a linear layer."
STANDARDISE = (
    "Subtract the mean of the targets over the training set and divide by their standard deviation; multiply the "
    "predictions back."
)
ZERO_OR_ONE = "Bring the labels to 0 and 1, for example by `(targets > 0.5).float()`."
DIVIDE = (
    "Divide targets such as pixels by the largest value that they can have (`targets / 255`); labels of classes are 0 "
    "and 1 here, and more classes need cross_entropy."
)
TWO_OUTPUTS = "Use a sigmoid for a single output, or a softmax of two."
TWO_CLASSES = "Give the last layer one output for each class, or use binary_cross_entropy_with_logits for a single one."
CORNERS = "Convert the boxes first, for example by `torchvision.ops.box_convert(boxes, 'cxcywh', 'xyxy')`."
BLANK = "Give the blank an index of its own: `blank=` the number of letters, or letters from 1 on."
MORE_FRAMES = "Use smaller strides or longer recordings, and leave out texts that are too long."
CHECK_LABELS = "Check the code that makes the labels, and shuffle the training set."
SMALLER = (
    "Start with smaller weights, for example PyTorch's defaults or `nn.init.orthogonal_`; if the network is trained, "
    "check the labels."
)


@rule("US601", "wrong input to the loss", remedy=REPLACE, mistake=True, stalls=True)
def wrong_input(evidence: Evidence) -> Found | None:
    """Nothing fails, but the network learns slowly, or the wrong thing."""
    latest = evidence.latest
    calls = [(latest.loss_function, latest.loss_reads), *((c.function, c.reads) for c in latest.comparisons)]
    ends = [i for i, x in enumerate(evidence.layers) if not x.gate and not evidence.feeds_weights[i]]
    calls += [(evidence.layers[i].read_by, i) for i in ends]
    read = (_misread(function or "", evidence.layers[i]) for function, i in calls if i is not None)
    found = _swapped(latest.comparisons) or next(filter(None, read), None)
    found = found or _constant_term(evidence) or _single_class(evidence) or _blank_letter(evidence)
    return found or _other_boxes(evidence)


def _other_boxes(evidence: Evidence) -> Found | None:
    """A loss of the overlap of boxes that are given by their centres."""
    share = evidence.ask(turned_boxes) or 0.0
    if share < TURNED_BOXES:
        return None
    text = _("{share} % of the target boxes end before they begin: the loss expects corners.", share=percent(share))
    return shown(text, CORNERS, value=share)


@question
def turned_boxes(again: Again) -> float:
    """The share of boxes with a side below 0, of those whose area the loss computes from targets."""
    shares = [0.0]
    for area in (n for n in again.step.needed() if n.function in calls.MULTIPLICATIONS and not n.requires_grad):
        sides = [side for side in dict.fromkeys(area.reads) if side.function in calls.DIFFERENCES]
        ends = {read.through(calls.MOVES) for side in sides for read in side.reads}
        columns = all(read.op == "call_function" for side in sides for read in side.reads)
        boxes = columns and len(ends) == 1 and all(end.op == "constant" and end.shape[-1:] == (4,) for end in ends)
        if len(sides) == 2 and boxes:
            width, height = again.run(sides)
            shares.append(((width < 0) | (height < 0)).float().mean().item())
    return max(shares)


def _blank_letter(evidence: Evidence) -> Found | None:
    """A CTC loss whose blank occurs in the texts: it can never be read there."""
    blanks, _too_long = evidence.ask(ctc_texts) or (0.0, 0.0)
    if not blanks:
        return None
    text = _("{share} % of the texts contain the blank of ctc_loss, which is no letter.", share=percent(blanks))
    return shown(text, BLANK, value=blanks)


def _constant_term(evidence: Evidence) -> Found | None:
    """A term of the loss that has lost its graph, or reads no output, beside others that have one."""
    if not evidence.latest.constant_terms or evidence.ask(twin) is not None:  # US705 says why
        return None
    text = _(
        "A term of the loss has no gradient after {function}: it trains nothing.",
        function=evidence.latest.constant_terms[0],
    )
    return Found((), 1.0, 0.0, text, WITH_GRAPH)


def _swapped(comparisons: Sequence[Comparison]) -> Found | None:
    """A loss of classes that takes outputs for targets, and labels, probabilities or single ones, for outputs."""
    for c in comparisons:
        if c.swapped and c.function in (*CLASS_LOSSES, "kl_div") and 0 <= c.low < c.high <= 1:
            text = _("{function} got the targets first and the outputs second.", function=c.function)
            return Found((), 1.0, 0.0, text, SWAP_BACK, Severity.ERROR)
    return None


def _single_class(evidence: Evidence) -> Found | None:
    """The cross-entropy of a single class, which is 0 whatever the output."""
    for c in evidence.latest.comparisons:
        if c.function == "cross_entropy" and c.shape[min(1, len(c.shape) - 1) :][:1] == (1,):
            text = _("cross_entropy got outputs of a single class, whose probability is always 1: the loss is 0.")
            return Found(_layers(evidence, c), 1.0, 0.0, text, TWO_CLASSES)
    return None


@rule("US602", "outputs and targets broadcast", severity=Severity.ERROR, remedy=RESHAPE, mistake=True)
def broadcast(evidence: Evidence) -> Found | None:
    """The loss compares each output with the targets of all samples, and the network learns their mean."""
    for c in evidence.latest.comparisons:
        together = _together(c.shape, c.target_shape)
        grown = math.prod(together) > max(math.prod(c.shape), math.prod(c.target_shape))
        if grown and len(c.shape) != len(c.target_shape) and c.function not in ("cross_entropy", "nll_loss"):
            text = _(
                "{function} compares outputs of shape {shape} with targets of shape {targets}: broadcasting pairs all "
                "of them, {together}, so that every output learns the mean.",
                function=_by(c), shape=list(c.shape), targets=list(c.target_shape), together=list(together),
            )  # fmt: skip
            return Found(_layers(evidence, c), math.prod(together), math.prod(c.shape), text)
    return None


@rule("US603", "targets out of reach", remedy=SCALE, mistake=True)
def out_of_reach(evidence: Evidence) -> Found | None:
    """The last activation cannot return these targets, so the loss pushes it to its end and stays large."""
    _blanks, share = evidence.ask(ctc_texts) or (0.0, 0.0)
    if share > FEW_TEXTS:
        text = _("{share} % of the texts have more letters than frames: no path leads to them.", share=percent(share))
        return shown(text, MORE_FRAMES, Severity.ERROR if share == 1 else None, share)
    for c in evidence.latest.comparisons:
        layer = None if c.reads is None else evidence.layers[c.reads]
        binary = c.function in BINARY_LOSSES and _missed(c, 0.0, 1.0)
        low, high = (0.0, 1.0) if binary or c.function in READS_LOGITS else range_of(layer)
        missed = max(low - c.low, c.high - high)
        if c.function in (*BINARY_LOSSES, *COMPARISONS, OVERLAP) and _missed(c, low, high):
            values = {"low": number(c.low), "high": number(c.high)}
            if binary:
                text = _(
                    "{function} got targets from {low} to {high}, and labels must be in [0, 1]: outside, the loss has "
                    "no minimum.",
                    function=c.function, **values,
                )  # fmt: skip
                remedy = DIVIDE if c.low >= 0 and c.high > MOST_LABEL else ZERO_OR_ONE
                return Found(_layers(evidence, c), missed, 0.0, text, remedy, Severity.ERROR)
            assert layer is not None
            values |= {"name": named(layer.name), "kind": layer.kind.removesuffix("()")}
            text = _(
                "{name} ({kind}) returns numbers from {least} to {most}, but the loss compares it with targets from "
                "{low} to {high}.",
                least=number(low), most=number(high), **values,
            )  # fmt: skip
            noisy = math.isfinite(high - low) and c.target_deviation < NOISY_DEVIATION * (high - low)
            severity = Severity.NOTE if noisy and falling(evidence) else None
            return Found((layer.name,), missed, 0.0, text, severity=severity)
    return None


@rule("US604", "targets far from the outputs", remedy=STANDARDISE, hidden_by=("US401", "US501", "US603"), mistake=True)
def far_targets(evidence: Evidence) -> Found | None:
    """The network first learns the size of the targets, with large errors and gradients, and slowly the rest."""
    for c in evidence.latest.comparisons:
        far = LARGE_TARGETS <= c.target_rms < MASK and c.target_rms > FAR_TARGETS * c.output_rms
        if far and c.function in COMPARISONS and not c.classes:
            text = _(
                "{function} compares outputs of size {outputs} (root mean square) with targets of size {targets}.",
                function=_by(c), outputs=number(c.output_rms), targets=number(c.target_rms),
            )  # fmt: skip
            return Found(_layers(evidence, c), c.target_rms / (c.output_rms or 1.0), FAR_TARGETS, text)
    return None


@rule("US605", "all targets are the same", remedy=CHECK_LABELS, mistake=True)
def same_targets(evidence: Evidence) -> Found | None:
    """All samples have the same label: the network learns this constant, and the loss becomes 0."""
    every = (c for m in evidence.measurements for c in m.comparisons)
    labels = [c for c in every if c.function in CLASS_LOSSES and not c.high < 0]  # -100 is ignored
    values = {bound for c in labels for bound in (c.low, c.high)}
    count = sum(math.prod(c.target_shape) for c in labels)
    if any(c.reads is None for c in labels) or len(values) != 1 or count < FEWEST_LABELS:
        return None
    (value,) = values
    text = _(
        "All {count} targets are {value}: there is nothing to tell apart.", count=f"{count:,}", value=number(value)
    )
    few = count < FEWEST_BINARY_LABELS and all(c.function in BINARY_LOSSES for c in labels)
    return Found(_layers(evidence, labels[-1]), count, FEWEST_LABELS, text, severity=Severity.NOTE if few else None)


@rule(
    "US607",
    "certain and wrong",
    remedy=SMALLER,
    hidden_by=("US102", "US203", "US206", "US302", "US305", "US307", "US401", "US601"),
)
def certain_and_wrong(evidence: Evidence) -> Found | None:
    """The outputs are large and wrong, so training must first shrink them."""
    latest = evidence.latest
    if latest.loss is None or len(latest.comparisons) != 1 or (latest.input_rms or 0.0) > LARGE_INPUTS:
        return None
    if latest.comparisons[0].function == "mse_loss":
        return _far_outputs(evidence, latest.comparisons[0])
    comparison, guess = latest.comparisons[0], loss_of_equal_outputs(latest.comparisons[0])
    heads = [i for i, x in enumerate(evidence.layers) if x.role == "weights" and x.read_by == "log_softmax"]
    if comparison.function == "nll_loss" and comparison.reads is None and len(heads) == 1:
        comparison = replace(comparison, reads=heads[0])
    # Outputs of no layer are computed, such as similarities over a temperature.
    if guess is None or comparison.reads is None or not comparison.output_rms > LARGE_LOGITS:
        return None
    times = latest.loss / guess
    if not WORSE_THAN_EQUAL < times < math.inf:
        return None
    text = _(
        "The loss is {loss}, and {guess} for equal outputs: the outputs are large (root mean square {size}) and wrong.",
        loss=number(latest.loss), guess=number(guess), size=number(comparison.output_rms),
    )  # fmt: skip
    soon = times < FAR_OFF and _steps_to_shrink(evidence, evidence.layers[comparison.reads]) < FEW_STEPS
    severity = Severity.NOTE if soon else None
    return Found(_layers(evidence, comparison), times, WORSE_THAN_EQUAL, text, severity=severity)


def _far_outputs(evidence: Evidence, comparison: Comparison) -> Found | None:
    """Outputs of a regression that are still farther from the targets than their mean is, by the sizes alone."""
    level, targets = constant_level(comparison), comparison.target_rms
    if level is None or comparison.reads is None or (evidence.latest.step or 0) < PATIENT_STEPS:
        return None
    times = max(0.0, comparison.output_rms - targets) ** 2 / level
    if not WORSE_THAN_EQUAL < times < math.inf:
        return None
    text = _(
        "The outputs are much larger than the targets (root mean square {size} and {targets}), and farther from them "
        "than a constant: the weights are too large to be corrected soon.",
        size=number(comparison.output_rms), targets=number(targets),
    )  # fmt: skip
    return Found(_layers(evidence, comparison), times, WORSE_THAN_EQUAL, text)


def _steps_to_shrink(evidence: Evidence, head: Layer) -> float:
    """Steps of Adam, each of the usual rate in every weight, that move the outputs by their size; inf: not known."""
    own = (evidence.weights[name] for name in head.weights if name in evidence.weights)
    steps = (w.size / math.sqrt(w.shape[0]) / math.prod(w.shape[1:]) / USUAL_RATE for w in own if len(w.shape) > 1)
    return next(steps, math.inf)


def _misread(function: str, layer: Layer) -> Found | None:
    """What is wrong with a layer as the input of a loss function."""
    low, high = range_of(layer)
    weighted, bounded = layer.role == "weights", low == 0 or -math.inf < low < high < math.inf
    values = {"name": named(layer.name), "function": _("The loss") if function == OVERLAP else function}
    if layer.softmax_dim is not None and layer.shape[layer.softmax_dim] == 1:
        text = _("The loss reads {name}, a softmax of a single number: it is always 1.", **values)
        return Found((layer.name,), 1.0, 0.0, text, TWO_OUTPUTS)
    if bounded and not weighted and (function in READS_LOGITS or (function, layer.plain_kind) in AGAIN):
        expected, remedy = _("logits (any real number)"), _("Remove {name}: logits may be any real number.", **values)
        if (low, high) == (0, 1):
            remedy = _("Remove {name}: {function} has its own.", **values)
    elif weighted and function in READS_PROBABILITIES:
        expected, remedy = _("probabilities"), _("Use a sigmoid or a softmax on the output of {name}.", **values)
    elif function in calls.CLASSES and (bounded or weighted):
        right = "cross_entropy" if function == "nll_loss" else "log_softmax"
        expected, remedy = _("log-probabilities"), _("Use {right} on the output of the last linear layer.", right=right)
    else:
        return None
    kind = layer.kind.removesuffix("()")
    text = _("{function} expects {expected} but reads {name}, a {kind}.", expected=expected, kind=kind, **values)
    return Found((layer.name,), 1.0, 0.0, text, remedy)


def _missed(comparison: Comparison, low: float, high: float) -> bool:
    """Whether targets are clearly outside of a range."""
    size = (comparison.high - comparison.low) or abs(comparison.high)
    return max(low - comparison.low, comparison.high - high) > TOLERATED_MISS * size


def _together(shape: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that two shapes are broadcast to; () if they do not fit."""
    pairs = list(zip_longest(reversed(shape), reversed(other), fillvalue=1))
    fits = all(1 in pair or pair[0] == pair[1] for pair in pairs)
    return tuple(max(pair) for pair in reversed(pairs)) if fits else ()


def _by(comparison: Comparison) -> str:
    """The subject of a sentence about a comparison."""
    return comparison.function if comparison.function in REGRESSION_LOSSES else _("The loss")


def _layers(evidence: Evidence, comparison: Comparison) -> tuple[str, ...]:
    return () if comparison.reads is None else (evidence.layers[comparison.reads].name,)


@question
def ctc_texts(again: Again) -> tuple[float, float] | None:
    """The shares of the texts of a CTC loss that contain the blank, and that have more letters than frames."""
    call = next(again.step.calls("ctc_loss"), None)
    if call is None:
        return None
    arguments = calls.given(call, "input", "targets", "input_lengths", "target_lengths", "blank")
    values = [arguments[name] for name in ("targets", "input_lengths", "target_lengths")]
    known = iter(again.run([value for value in values if isinstance(value, Node)]))
    texts, frames, letters = (next(known) if isinstance(x, Node) else torch.as_tensor(x) for x in values)
    ends = letters.cumsum(0)[:-1]
    own = texts.tensor_split(ends) if texts.dim() == 1 else [x[:n] for x, n in zip(texts, letters, strict=True)]
    blank = [bool((text == arguments.get("blank", 0)).any()) for text in own]
    return sum(blank) / len(own), float((frames < letters).float().mean())
