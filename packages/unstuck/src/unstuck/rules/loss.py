"""The loss reads the wrong input, or the outputs and targets do not fit."""

import math
from collections.abc import Sequence
from itertools import zip_longest

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure.activations import SOFTMAX, range_of
from unstuck.measure.calls import (
    BINARY_LOSSES,
    CLASS_LOSSES,
    DIFFERENCES,
    LOSSES,
    MULTIPLICATIONS,
    OVERLAP,
    REGRESSION_LOSSES,
)
from unstuck.measure.measurement import Comparison, Layer
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found
from unstuck.rules.standstill import FAR_OFF, REGRESSION, WORSE_THAN_EQUAL, overshoots
from unstuck.rules.units import LARGE_INPUTS
from unstuck.wording import named, number

READS_LOGITS = (
    *("cross_entropy", "binary_cross_entropy_with_logits", "multilabel_soft_margin_loss"),
    *("softmax", "log_softmax"),
)
READS_LOGARITHMS = ("nll_loss", "kl_div", "ctc_loss")
READS_PROBABILITIES = (OVERLAP, "clamp", "log")
TOLERATED_MISS = 0.02
"""Targets may be outside of the reach by this share of their range: smoothed or noisy labels."""
STATES = ("gru", "rnn")
"""Recurrent layers, beside the LSTM, whose states cannot be as large as logits, or never negative."""
FAR_TARGETS, LARGE_TARGETS = 10.0, 10.0
MASK = 1e6
"""Larger numbers are masks."""
FEWEST_LABELS, FEWEST_BINARY_LABELS = 32, 256
USUAL_RATE, FEW_STEPS = 1e-3, 50.0
ROUNDING = 1e-3
"""A divergence below 0 by less is one of 0."""

SEVERAL_CLASSES = 1.1

BINARY_EACH = "Use binary_cross_entropy_with_logits: each class is a question of yes or no."
ONE_SIGMOID_EACH = "Use a sigmoid in its place: each class is a question of yes or no."
SWAP_BACK = "Give the outputs first: `loss_fn(outputs, targets)`."
REPLACE = "Give the loss the input that it expects."
RESHAPE = "Give outputs and targets the same shape, for example by `targets.unsqueeze(1)` or `outputs.squeeze(1)`."
SCALE = "Scale the targets into the range of the outputs, or end with a linear layer."
STANDARDISE = (
    "Subtract the mean of the targets over the training set and divide by their standard deviation; multiply the "
    "predictions back."
)
ZERO_OR_ONE = "Bring the labels to 0 and 1, for example by `(targets > 0.5).float()`."
TWO_OUTPUTS = "Use a sigmoid for a single output, or a softmax of two."
TWO_CLASSES = "Give the last layer one output for each class, or use binary_cross_entropy_with_logits for a single one."
CHECK_LABELS = "Check the code that makes the labels, and shuffle the training set."
SMALLER = (
    "Start with smaller weights, for example PyTorch's defaults or `nn.init.orthogonal_`; if the network is trained, "
    "check the labels."
)


def wrong_input(evidence: Evidence) -> Found | None:
    """Nothing fails, but the network learns slowly, or the wrong thing."""
    latest = evidence.latest
    if found := _swapped(latest.comparisons):
        return found
    calls = [(latest.loss_function, latest.loss_reads), *((c.function, c.reads) for c in latest.comparisons)]
    ends = [i for i, x in enumerate(evidence.layers) if x.role != "attention" and not x.gate]
    ends = [i for i in ends if not evidence.feeds_weights[i]]
    calls += [(evidence.layers[i].read_by, i) for i in ends]
    for function, position in calls:
        found = None if position is None else _misread(function or "", evidence.layers[position])
        if found is not None:
            return found
    rules = _constant_term, _probabilities, _negative_divergence, _single_class, _softmax_of_classes
    return next((found for rule in rules if (found := rule(evidence)) is not None), None)


def _constant_term(evidence: Evidence) -> Found | None:
    """A term of the loss that has lost its graph, or reads no output, beside others that have one."""
    if not evidence.latest.constant_terms:
        return None
    name = evidence.latest.constant_terms[0]
    if name in LOSSES:
        text = _("{function} got no argument with a gradient: this term of the loss trains nothing.", function=name)
    else:
        text = _("A term of the loss is computed behind {function}(), without a gradient: it trains nothing.",
                 function=name)  # fmt: skip
    remedy = _(
        "Give it the outputs with their graph, without detach(), item() or another network in their place; nothing to "
        "do if the term is for information only."
    )
    return Found((), 1.0, 0.0, text, remedy)


def _probabilities(evidence: Evidence) -> Found | None:
    """Probabilities as logits of a cross-entropy, whoever has computed them."""
    for term in (term for term in evidence.latest.terms if term.adds_up):
        text = _(
            "{function} got numbers that add up to 1 for each sample: it expects logits, and has a softmax of its own.",
            function=term.function,
        )
        names = () if term.reads is None else (evidence.layers[term.reads].name,)
        return Found(names, 1.0, 0.0, text, _("Give it the logits, from which the probabilities are computed."))
    return None


def _negative_divergence(evidence: Evidence) -> Found | None:
    """A divergence of distributions, or a negative logarithm of a probability, that is below 0."""
    for term in evidence.latest.terms:
        if term.function in ("kl_div", "nll_loss") and term.value < -ROUNDING:
            text = _(
                "{function} is {value}, and can be negative only if it got something else than the logarithms of "
                "probabilities.",
                function=term.function, value=number(term.value),
            )  # fmt: skip
            names = () if term.reads is None else (evidence.layers[term.reads].name,)
            return Found(names, term.value, -ROUNDING, text, _("Give it `log_softmax(...)` or the log of its input."))
    return None


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


def _softmax_of_classes(evidence: Evidence) -> Found | None:
    """A softmax, or the one of a cross-entropy, that is compared with several classes of a sample."""
    for c in evidence.latest.comparisons:
        layer = None if c.reads is None else evidence.layers[c.reads]
        several = c.target_rms**2 * (c.shape[1] if len(c.shape) > 1 else 0)
        if c.function == "cross_entropy" and not c.classes and (c.low, c.high) == (0, 1) and several > SEVERAL_CLASSES:
            text = _(
                "cross_entropy expects targets that add up to 1, and a sample has {count} classes on average.",
                count=number(several),
            )  # fmt: skip
            return Found(_layers(evidence, c), several, SEVERAL_CLASSES, text, BINARY_EACH)
        if layer is None or layer.softmax_dim is None or (c.low, c.high) != (0, 1):
            continue
        several = c.target_rms**2 * layer.shape[layer.softmax_dim]
        if c.function in REGRESSION | {"binary_cross_entropy"} and several > SEVERAL_CLASSES:
            text = _(
                "The outputs of {name}, a softmax, add up to 1, and a sample has {count} classes on average.",
                name=named(layer.name), count=number(several),
            )  # fmt: skip
            return Found((layer.name,), several, SEVERAL_CLASSES, text, ONE_SIGMOID_EACH)
    return None


def broadcast(evidence: Evidence) -> Found | None:
    """The loss compares each output with the targets of all samples, and the network learns their mean."""
    for c in evidence.latest.comparisons:
        together = _together(c.shape, c.target_shape)
        grown = math.prod(together) > max(math.prod(c.shape), math.prod(c.target_shape))
        ranks = {len(c.shape), len(c.target_shape)}
        regression = c.function in REGRESSION_LOSSES  # a difference may pair all on purpose
        if regression and math.prod(c.shape) == 1 < math.prod(together) and evidence.latest.samples > 1:
            text = _(
                "{function} compares a single output with targets of shape {targets}: the outputs for all other "
                "samples are not in the loss.",
                function=c.function, targets=list(c.target_shape),
            )  # fmt: skip
            return Found(_layers(evidence, c), math.prod(together), 1.0, text)
        crossed = regression and ranks == {2} and 1 in c.shape
        if grown and (crossed or len(ranks) == 2) and c.function not in ("cross_entropy", "nll_loss"):
            text = _(
                "{function} compares outputs of shape {shape} with targets of shape {targets}: broadcasting pairs all "
                "of them, {together}, so that every output learns the mean.",
                function=_by(c), shape=list(c.shape), targets=list(c.target_shape), together=list(together),
            )  # fmt: skip
            return Found(_layers(evidence, c), math.prod(together), math.prod(c.shape), text)
    return None


def out_of_reach(evidence: Evidence) -> Found | None:
    """The last activation cannot return these targets, so the loss pushes it to its end and stays large."""
    for c in evidence.latest.comparisons:
        layer = None if c.reads is None else evidence.layers[c.reads]
        binary = c.function in BINARY_LOSSES and _missed(c, 0.0, 1.0)
        low, high = (0.0, 1.0) if binary or c.function in READS_LOGITS else range_of(layer)
        missed = max(low - c.low, c.high - high)
        if c.function in (*BINARY_LOSSES, *REGRESSION, OVERLAP) and _missed(c, low, high):
            values = {"low": number(c.low), "high": number(c.high)}
            if binary:
                text = _(
                    "{function} got targets from {low} to {high}, and labels must be in [0, 1]: outside, the loss has "
                    "no minimum.",
                    function=c.function, **values,
                )  # fmt: skip
                return Found(_layers(evidence, c), missed, 0.0, text, ZERO_OR_ONE, Severity.ERROR)
            assert layer is not None
            values |= {"name": named(layer.name), "kind": layer.kind.removesuffix("()")}
            text = _(
                "{name} ({kind}) returns numbers from {least} to {most}, but the loss compares it with targets from "
                "{low} to {high}.",
                least=number(low), most=number(high), **values,
            )  # fmt: skip
            return Found((layer.name,), missed, 0.0, text)
    return None


def far_targets(evidence: Evidence) -> Found | None:
    """The network first learns the size of the targets, with large errors and gradients, and slowly the rest."""
    for c in evidence.latest.comparisons:
        size = c.target_rms
        far = LARGE_TARGETS <= size < MASK and size > FAR_TARGETS * c.output_rms
        if far and c.function in REGRESSION and not c.classes:
            text = _(
                "{function} compares outputs of size {outputs} (root mean square) with targets of size {targets}.",
                function=_by(c), outputs=number(c.output_rms), targets=number(size),
            )  # fmt: skip
            return Found(_layers(evidence, c), size / c.output_rms if c.output_rms else math.inf, FAR_TARGETS, text)
    return None


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


def certain_and_wrong(evidence: Evidence) -> Found | None:
    """The outputs are large and wrong, so training must first shrink them."""
    latest = evidence.latest
    times = overshoots(latest)
    if times is None or (latest.input_rms or 0.0) > LARGE_INPUTS:
        return None
    loss, (comparison,) = latest.loss or 0.0, latest.comparisons
    text = _(
        "The loss is {loss}, and {guess} for equal outputs: the outputs are large (root mean square {size}) and wrong.",
        loss=number(loss), guess=number(loss / times), size=number(comparison.output_rms),
    )  # fmt: skip
    soon = times < FAR_OFF and _steps_to_shrink(evidence, comparison) < FEW_STEPS
    severity = Severity.NOTE if soon else None
    return Found(_layers(evidence, comparison), times, WORSE_THAN_EQUAL, text, severity=severity)


def _steps_to_shrink(evidence: Evidence, comparison: Comparison) -> float:
    """Steps of Adam, each of the usual rate in every weight, that move the outputs by their size; inf: not known."""
    names = () if comparison.reads is None else evidence.layers[comparison.reads].weights
    heads = [w for name in names if (w := evidence.weights.get(name)) is not None and len(w.shape) > 1]
    if len(heads) != 1 or 0 in heads[0].shape:
        return math.inf
    rows, inputs = heads[0].shape[0], math.prod(heads[0].shape[1:])
    return heads[0].size / math.sqrt(rows) / inputs / USUAL_RATE


def _misread(function: str, layer: Layer) -> Found | None:
    """What is wrong with a layer as the input of a loss function."""
    low, high = range_of(layer)
    weighted, never_negative = layer.role == "weights", low == 0 or layer.plain_kind == "sshaped"
    if layer.softmax_dim is not None and layer.shape[layer.softmax_dim] == 1:
        text = _("The loss reads {name}, a softmax of a single number: it is always 1.", name=named(layer.name))
        return Found((layer.name,), 1.0, 0.0, text, TWO_OUTPUTS)
    values = {"name": named(layer.name), "function": function}
    bounded = -math.inf < low < high < math.inf or layer.plain_kind.removesuffix("cell") in STATES
    again = function == "logsumexp" and layer.plain_kind in SOFTMAX
    if again or (function in READS_LOGITS and (never_negative or bounded)):
        expected, remedy = _("logits (any real number)"), _("Remove {name}: {function} has its own.", **values)
        if (low, high) == (0, math.inf):
            remedy = _("Remove {name}: logits may be negative.", **values)
        elif weighted:
            remedy = _("Put a linear layer behind {name}: its states are not logits.", **values)
        elif low < 0:
            remedy = _("Remove {name}: bounded logits are never certain.", **values)
    elif function in READS_PROBABILITIES and weighted:
        expected, remedy = _("probabilities"), _("Use a sigmoid or a softmax on the output of {name}.", **values)
        values["function"] = _("The product with the targets") if function == OVERLAP else function
    elif function in READS_LOGARITHMS and (never_negative or weighted):
        values |= {"right": "cross_entropy" if function == "nll_loss" else "log_softmax"}
        expected, remedy = _("log-probabilities"), _("Use {right} on the input of {name}.", **values)
        if weighted:
            remedy = _("Use {right} on the output of {name}.", **values)
    else:
        return None
    source = _("a recurrent layer") if weighted else _("a {kind}", kind=layer.kind.removesuffix("()"))
    if weighted and not bounded:
        source = (
            _("a layer without log_softmax") if function in READS_LOGARITHMS else _("a layer without an activation")
        )
    text = _("{function} expects {expected} but reads {name}, {source}.", expected=expected, source=source, **values)
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
    if comparison.function in (*MULTIPLICATIONS, OVERLAP):
        return _("The product in the loss")
    return _("The difference in the loss") if comparison.function in DIFFERENCES else comparison.function


def _layers(evidence: Evidence, comparison: Comparison) -> tuple[str, ...]:
    return () if comparison.reads is None else (evidence.layers[comparison.reads].name,)
