"""Numbers that are inf or NaN."""

import math
from collections.abc import Iterator
from dataclasses import replace

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure.measurement import Layer, Measurement
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found
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


def nonfinite(evidence: Evidence) -> Found | None:
    """An inf or NaN in inputs, weights, outputs, the loss or a gradient spreads to everything after."""
    places = [next(_places(measurement), None) for measurement in reversed(evidence.measurements)]
    count = places.index(None) if None in places else len(places)
    place = places[count - 1] if count else None
    if place is None:
        return None
    (found, backward), begin = place, evidence.measurements[-count]
    if _is_replaced(evidence.latest):
        return replace(found, message=found.message + _(" The loss and all gradients are finite."), remedy=REPLACED,
                       severity=Severity.NOTE)  # fmt: skip
    half = any(layer.dtype == "float16" for layer in begin.layers)
    if half and count == 1 and backward and begin.step is not None:
        return replace(found, remedy=SKIPPED, severity=Severity.NOTE)
    since = "" if count == 1 or begin.step is None else _(" It began at step {step}.", step=begin.step)
    if evidence.latest.origin:  # of a step that may lie before the first measurement
        since = " " + evidence.latest.origin
    return replace(found, message=found.message + since, remedy=found.remedy or (HALF if half else None))


def _is_replaced(measurement: Measurement) -> bool:
    """Whether no inf or NaN of a layer has reached the loss or a weight."""
    weights, loss = measurement.weights, measurement.loss
    bad = measurement.input_nonfinite or any(w.nonfinite or w.nonfinite_gradient for w in weights)
    learns = any(w.gradient is not None for w in weights)
    bad = bad or any(map(_bad_gradient, measurement.layers))
    return not bad and learns and loss is not None and math.isfinite(loss)


def _places(measurement: Measurement) -> Iterator[tuple[Found, bool]]:
    """The places with inf or NaN, in order, and whether they are in the backward pass."""
    if count := measurement.input_nonfinite:
        yield Found((), count, 0, _numbers(count, _("the inputs")), CLEAN_INPUTS), False
    names = tuple(w.name for w in measurement.weights if w.nonfinite)
    if count := sum(w.nonfinite for w in measurement.weights):
        text = _numbers(count, listed(names)) + _(" An earlier step wrote them.")
        yield Found(names, count, 0, text), False
    layers = [layer for layer in measurement.layers if layer.nonfinite]
    if layers:
        name, count = layers[0].name, layers[0].nonfinite
        values = {"name": named(name), "count": count}
        text = _("{name} is the first layer whose output has inf or NaN ({count} numbers).", **values)
        if layers[1:]:
            text += _(" {count} layers after it have inf or NaN, too.", count=len(layers) - 1)
        yield Found((name,), count, 0, text), False
    backward = [layer for layer in reversed(measurement.layers) if _bad_gradient(layer)]
    names = tuple(layer.name for layer in backward[:1])
    if measurement.loss is not None and not math.isfinite(measurement.loss):
        yield _loss(measurement, names), False
    if names:
        values = {"name": named(names[0]), "count": max(1, backward[0].nonfinite_gradient)}
        text = _("{name} is the first layer on the way back whose gradient has inf or NaN ({count} numbers).", **values)
        yield Found(names, max(1, backward[0].nonfinite_gradient), 0, text), True
    names = tuple(w.name for w in measurement.weights if w.nonfinite_gradient)
    if count := sum(w.nonfinite_gradient for w in measurement.weights):
        yield Found(names, count, 0, _numbers(count, _("the gradients of {names}", names=listed(names)))), True


def _loss(measurement: Measurement, names: tuple[str, ...]) -> Found:
    """A loss that is inf or NaN, and the first layer on the way back with such a gradient, if there is one."""
    function = f" ({measurement.loss_function})" if measurement.loss_function else ""
    values = {"function": function, "loss": measurement.loss}
    read = None if measurement.loss_reads is None else measurement.layers[measurement.loss_reads]
    if read is not None and read.rms > OVERFLOWING_OUTPUT:
        values |= {"name": named(read.name), "size": number(read.rms)}
        text = _("The loss{function} is {loss}, because {name} returns numbers of {size}.", **values)
        return Found((read.name,), 1, 0, text)
    text = _("The loss{function} is {loss}, although all layers return finite numbers.", **values)
    if names:
        text += _(" The first gradient with inf or NaN is at {name}.", name=named(names[0]))
    return Found(names, 1, 0, text, CHECK_LOSS)


def _numbers(count: int, of: str) -> str:
    """A sentence on the numbers of something that are inf or NaN."""
    if count == 1:
        return _("1 number of {these} is inf or NaN.", these=of)
    return _("{count} numbers of {these} are inf or NaN.", count=count, these=of)


def _bad_gradient(layer: Layer) -> bool:
    return layer.nonfinite_gradient > 0 or (layer.gradient is not None and not math.isfinite(layer.gradient))
