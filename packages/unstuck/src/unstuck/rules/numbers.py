"""Numbers that are inf or NaN."""

import math
from collections.abc import Iterator
from dataclasses import replace

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure.measurement import Layer, Measurement
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found, rule
from unstuck.rules.tokens import Tokens, tokens
from unstuck.wording import listed, named, number

OVERFLOWING_OUTPUT = 1e9
"""Outputs of this size are no answer of a network: the loss of such numbers overflows."""

FIND_CAUSE = (
    "If it came during training, lower the learning rate or clip the gradient; if it is there from the start, look for "
    "a logarithm or root of 0, a division by 0, or a softmax over masked entries only."
)
CLEAN_INPUTS = "Remove or impute these samples."
CHECK_LOSS = (
    "Check the targets and the loss: a mean over nothing (all targets masked, an empty batch), labels that are inf or "
    "NaN, a logarithm or root of 0, a division by 0."
)
HALF = "float16 ends at 65504: use bfloat16, keep this layer in float32, or scale the loss with torch.amp.GradScaler."
REPLACED = "Nothing to do if they are replaced on purpose, as for rows that are masked as a whole."
SKIPPED = "Nothing to do if it is one step now and then: GradScaler skips that step."


@rule("US401", "inf or NaN", severity=Severity.ERROR, remedy=FIND_CAUSE)
def nonfinite(evidence: Evidence) -> Found | None:
    """An inf or NaN in inputs, weights, outputs, the loss or a gradient spreads to everything after."""
    places = [next(_places(measurement), None) for measurement in reversed(evidence.measurements)]
    count = places.index(None) if None in places else len(places)
    place = places[count - 1] if count else None
    if place is None:
        return None
    if (evidence.ask(tokens) or Tokens()).ignored == 1:
        return None  # US701: the loss is a mean over nothing
    (found, backward), begin = place, evidence.measurements[-count]
    if _is_replaced(evidence.latest):
        return replace(found, message=found.message + _(" The loss and all gradients are finite."), remedy=REPLACED,
                       severity=Severity.NOTE)  # fmt: skip
    half = any(layer.dtype == "float16" for layer in begin.layers)
    if half and count == 1 and backward and begin.step is not None:
        return replace(found, remedy=SKIPPED, severity=Severity.NOTE)
    since = "" if begin.step is None else _(" It began at step {step}.", step=begin.step)
    if evidence.latest.origin:  # of a step that may lie before the first measurement
        since = " " + evidence.latest.origin
    return replace(found, message=found.message + since, remedy=found.remedy or (HALF if half else None))


def _is_replaced(measurement: Measurement) -> bool:
    """Whether no inf or NaN of a layer has reached the loss or a weight."""
    weights, loss = measurement.weights, measurement.loss
    bad = any(w.nonfinite or w.nonfinite_gradient for w in weights) or any(map(_bad_gradient, measurement.layers))
    learns = any(w.gradient is not None for w in weights) and not measurement.input_nonfinite
    return not bad and learns and loss is not None and math.isfinite(loss)


def _places(measurement: Measurement) -> Iterator[tuple[Found, bool]]:
    """The places with inf or NaN, in order, and whether they are in the backward pass."""
    if count := measurement.input_nonfinite:
        yield Found((), count, 0, _numbers(count, _("the inputs")), CLEAN_INPUTS), False
    if count := sum(w.nonfinite for w in measurement.weights):
        names = tuple(w.name for w in measurement.weights if w.nonfinite)
        yield Found(names, count, 0, _numbers(count, listed(names)) + _(" An earlier step wrote them.")), False
    for layer in [layer for layer in measurement.layers if layer.nonfinite][:1]:
        text = _(
            "{name} is the first layer whose output has inf or NaN ({count} numbers).",
            name=named(layer.name), count=layer.nonfinite,
        )  # fmt: skip
        yield Found((layer.name,), layer.nonfinite, 0, text), False
    backward = [layer for layer in reversed(measurement.layers) if _bad_gradient(layer)]
    if measurement.loss is not None and not math.isfinite(measurement.loss):
        names = tuple(layer.name for layer in backward[:1])
        text = _("The loss is {loss}, although all layers return finite numbers.", loss=measurement.loss)
        read = None if measurement.loss_reads is None else measurement.layers[measurement.loss_reads]
        if read is not None and read.rms > OVERFLOWING_OUTPUT:
            text = _("The loss is {loss}, because {name} returns numbers of {size}.", loss=measurement.loss,
                     name=named(read.name), size=number(read.rms))  # fmt: skip
            yield Found((read.name,), 1, 0, text), False
        yield Found(names, 1, 0, text, CHECK_LOSS), False
    for layer in backward[:1]:
        count = max(1, layer.nonfinite_gradient)
        text = _(
            "{name} is the first layer on the way back whose gradient has inf or NaN ({count} numbers).",
            name=named(layer.name), count=count,
        )  # fmt: skip
        yield Found((layer.name,), count, 0, text), True
    if count := sum(w.nonfinite_gradient for w in measurement.weights):
        names = tuple(w.name for w in measurement.weights if w.nonfinite_gradient)
        yield Found(names, count, 0, _numbers(count, _("the gradients of {names}", names=listed(names)))), True


def _numbers(count: int, of: str) -> str:
    """A sentence on the numbers of something that are inf or NaN."""
    return _("There are inf or NaN in {these} ({count} numbers).", count=count, these=of)


def _bad_gradient(layer: Layer) -> bool:
    return layer.gradient is not None and not math.isfinite(layer.gradient)
