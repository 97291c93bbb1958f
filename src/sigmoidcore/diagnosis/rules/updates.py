"""SC301, SC302: the optimizer's steps are too small or too large for the weights."""

import math
from statistics import median

from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.measure.measurement import Weight
from sigmoidcore.diagnosis.rules import gradient
from sigmoidcore.diagnosis.rules.evidence import Evidence, is_zero
from sigmoidcore.diagnosis.rules.rule import Found
from sigmoidcore.diagnosis.wording import listed, number, verb

STILL = 1.2e-7
"""The rounding of float32."""
VIOLENT, REPLACED = 0.1, 1.0
USUAL = 0.5
"""Root mean square of the norms of a weight's rows, just below that of PyTorch's default for a Linear, 0.58."""
MEASUREMENTS = 3
"""With fewer measurements of a weight, its updates are not judged."""

_RATES = "for networks of sigmoids with Adam, sc.depth_scaled_lr(model) gives the rates."
FASTER = f"Raise the learning rate, check the scheduler, and check that the optimizer has these parameters; {_RATES}"
SLOWER = f"Lower the learning rate and warm it up; {_RATES}"


def too_small(evidence: Evidence) -> Found | None:
    r"""The weights stand still: steps of this size are rounded away.

    A weight is named if $\max_t \lVert \Delta W_t \rVert / \lVert W_t \rVert$ is below `STILL`, over at least
    `MEASUREMENTS` steps that a `Monitor` measured. The largest step counts, so warm-up and decay to 0 are healthy.
    Judged are trainable weights with two dimensions or more that have a gradient and did not start at 0. Weights that
    SC101 names are left out, unless all others stand still, too.

    *Source.* Arithmetic: the rounding of float32; ten thousand such steps in one direction change a weight by a
    thousandth. SageMaker Debugger has 1e-8 (WeightUpdateRatio).
    """
    updates = _updates(evidence)
    largest = {name: max(values) for name, values in updates.items() if evidence.weights[name].gradient}
    found = sorted((name for name, update in largest.items() if update < STILL), key=lambda name: largest[name])
    if len(found) < len(largest):
        vanished = {w for i in gradient.lost(evidence) for w in evidence.layers[i].weights}
        found = [name for name in found if name not in vanished]
    if not found:
        return None
    value = max(largest[name] for name in found)
    names = listed(found, tuple(largest), "weights")
    text = f"No measured step changed {names} by more than {number(value)} of its size: rounding removes it."
    if value == 0:
        every = "any weight" if len(found) == len(largest) else "these weights"
        text = f"No measured step changed {every}: {names} {verb(found, 'stands', 'stand')} still."
    return Found(tuple(found), largest[found[0]], STILL, text)


def too_large(evidence: Evidence) -> Found | None:
    r"""Each step overwrites the result of earlier steps.

    A weight is named if the median over $t$ of $\lVert \Delta W_t \rVert / \lVert W_t \rVert$ is above `VIOLENT`, over
    at least `MEASUREMENTS` steps that a `Monitor` measured; above `REPLACED` it is an error. A weight that is smaller
    than usual initial ones, `USUAL` $\sqrt{\text{rows}}$, is compared with these: a head that starts near 0 grows.
    Only weights of layers are judged, not parameters that are added or multiply: positions, scales.

    *Source.* A rule of thumb: about 1e-3 is usual in healthy trainings (Karpathy, CS231n notes); a hundred times as
    much replaces the weights within ten steps. SageMaker Debugger has 10 (WeightUpdateRatio).
    """
    usual = _violence(evidence)
    found = sorted((name for name, update in usual.items() if update > VIOLENT), key=lambda name: -usual[name])
    if not found:
        return None
    value = usual[found[0]]
    text = f"A typical step changes {listed(found, tuple(usual), 'weights')} by up to {number(value)} of its size: it "
    text += "overwrites the result of earlier steps."
    severity = Severity.ERROR if value > REPLACED else Severity.WARNING
    return Found(tuple(found), value, VIOLENT, text, severity=severity)


def _violence(evidence: Evidence) -> dict[str, float]:
    """Median update of each weight of a layer, relative to its size or, if that is larger, to a usual size."""
    of_layers = {name for layer in evidence.latest.weighted for name in layer.weights}
    found: dict[str, list[float]] = {name: [] for name in _updates(evidence) if name in of_layers}
    for weight in (w for m in evidence.measurements for w in m.weights if w.name in found):
        if weight.update is not None:
            floor = USUAL * math.sqrt(weight.shape[0])
            found[weight.name].append(weight.update * min(1.0, weight.size / floor))
    return {name: median(updates or [0.0]) for name, updates in found.items()}


def _updates(evidence: Evidence) -> dict[str, list[float]]:
    """Relative updates, in all measurements, of each trainable matrix that did not start at 0."""
    history: dict[str, list[Weight]] = {}
    for measurement in evidence.measurements:
        if any(w.update is not None for w in measurement.weights):
            for weight in measurement.weights:
                history.setdefault(weight.name, []).append(weight)
    found = {}
    for name, weights in history.items():
        if weights[-1].trains and len(weights[-1].shape) > 1 and not any(map(is_zero, weights)):
            fixed = len({w.size for w in weights}) == 1  # else another optimizer moves it where no update is known
            found[name] = [w.update or 0.0 for w in weights if w.update is not None or fixed]
    return {name: updates for name, updates in found.items() if len(updates) >= MEASUREMENTS}
