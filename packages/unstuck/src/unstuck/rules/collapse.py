"""Samples that become one point."""

import math
from collections.abc import Sequence

from unstuck.language import _
from unstuck.measure.measurement import Layer
from unstuck.rules.evidence import Evidence, is_zero
from unstuck.rules.rule import Found
from unstuck.rules.standstill import stalled
from unstuck.rules.units import FEWEST_ROWS
from unstuck.wording import named, number

COLLAPSED_SPREAD, EQUAL_SPREAD, SHRUNK_SPREAD = 3.5e-4, 1e-6, 0.4
CHOSEN_SPREAD, FEWEST_COLLAPSED, FEW_OUTPUTS = 0.05, 3, 4
AT_ZERO = {"sigmoid": 0.5, "specialexpit": 0.5, "hardsigmoid": 0.5, "logsigmoid": math.log(2), "softplus": math.log(2)}
"""Absolute values of activations at 0, of those that have one."""

SEPARATE = (
    "Put a normalisation (BatchNorm) before the activations, use larger weights and smaller biases, or centered "
    "activations (tanh, centered cores)."
)
LESS_PULL = (
    "Lower the learning rate, or let the loss keep different samples apart: another choice of negatives, a larger "
    "margin, or a term that keeps the outputs' variance."
)
CODES_NEAR = (
    "Start the codes where the encoder's outputs are: small uniform numbers, or outputs of a first batch; move them by "
    "a running mean, and draw unused ones anew."
)
CHECK_LOADING = "Check the code that loads the data."


def collapse(evidence: Evidence) -> Found | None:
    """The network answers the same to every input, however level its gradient is."""
    latest = evidence.latest
    if not any(latest.weighted):
        return None
    found = _collapsed(evidence) if latest.samples > 1 else []
    if not found:
        return _drawn_together(evidence) or _single_code(evidence)
    if latest.input_spread == 0:
        if any(m.input_spread for m in evidence.measurements):
            return None  # a small batch may have one sample twice
        text = _("All samples of the inputs are identical, so every layer returns the same for all.")
        return Found((), 0.0, COLLAPSED_SPREAD, text, CHECK_LOADING)
    first, inputs = evidence.layers[found[0]], latest.input_spread or 1.0
    spread = first.spread or 0.0
    same = _("the same point") if spread < EQUAL_SPREAD else _("nearly the same point")
    text = _(
        "From {name} on, all samples are {same}: they differ by {spread} of their size, and by {inputs} in the inputs.",
        name=named(first.name), same=same, spread=number(spread), inputs=number(inputs),
    )  # fmt: skip
    return Found(evidence.names(found), spread / inputs, COLLAPSED_SPREAD, text)


def _drawn_together(evidence: Evidence) -> Found | None:
    """Outputs that a loss without targets draws to one point, and that learn nothing else."""
    first = {layer.name: layer for layer in evidence.measurements[0].layers if layer.spread and layer.rms > 0}
    ends = [evidence.layers[i] for i in evidence.sinks]
    pairs = [(x, first[x.name]) for x in ends if x.spread is not None and x.name in first]
    # An offset that a few outputs learn, as of a distribution, makes their spread smaller, too.
    growths = {x.name: max(1.0, x.rms / a.rms) if math.prod(x.shape[1:]) <= FEW_OUTPUTS else 1.0 for x, a in pairs}
    shares = {x.name: growths[x.name] * (x.spread or 0.0) / (a.spread or 1.0) for x, a in pairs}
    grown = any((x.spread or 0.0) * x.rms > (a.spread or 0.0) * a.rms for x, a in pairs)  # beside a larger mean
    still = not evidence.latest.comparisons and stalled(evidence)
    if not shares or grown or not still or max(shares.values()) > SHRUNK_SPREAD:
        return None
    worst = min(shares, key=lambda name: shares[name])
    text = _(
        "The outputs of {name} move to one point: they differ by {share} of what they did at first, and the loss "
        "stands still.",
        name=named(worst), share=number(shares[worst]),
    )  # fmt: skip
    return Found((worst, *(name for name in shares if name != worst)), shares[worst], SHRUNK_SPREAD, text, LESS_PULL)


def _single_code(evidence: Evidence) -> Found | None:
    """A codebook whose codes depend on the samples at first, and of which all samples get the same later."""
    if evidence.latest.samples < FEWEST_ROWS or not evidence.latest.input_spread:
        return None
    for layer in (x for x in evidence.latest.weighted if not x.sources):
        own = [x for m in evidence.measurements for x in m.weighted if x.name == layer.name]
        spreads = [x.spread for x in own if x.spread is not None]
        equal = sum(spread < EQUAL_SPREAD for spread in spreads)
        if spreads and spreads[0] > CHOSEN_SPREAD and equal >= max(FEWEST_COLLAPSED, len(spreads) / 4):
            text = _(
                "All samples get the same code of {name} in {count} of {all} measurements: the other codes are not "
                "used.",
                name=named(layer.name), count=equal, all=len(spreads),
            )  # fmt: skip
            return Found((layer.name,), equal / len(spreads), 0.25, text, CODES_NEAR)
    return None


def _collapsed(evidence: Evidence) -> list[int]:
    """Layers from which on all samples are nearly the same, in order."""
    inputs = evidence.latest.input_spread or 1.0
    found: list[int] = []
    state, blank = [True] * len(evidence.layers), _blank(evidence)
    for i in reversed(range(len(state))):
        layer = evidence.layers[i]
        ends = all(state[c] for c in evidence.consumers[i])
        if layer.spread is None or not math.isfinite(layer.spread) or not layer.rms > 0:
            state[i] = ends and bool(evidence.consumers[i])
            continue
        scale = inputs * evidence.scales_before[i]
        threshold = COLLAPSED_SPREAD if evidence.feeds_weights[i] else EQUAL_SPREAD
        state[i] = ends and layer.spread < COLLAPSED_SPREAD * scale
        if ends and layer.spread < threshold * scale and not blank[i]:
            found.append(i)
    first_calls = _first_calls(evidence, state)
    return [i for i in found[::-1] if i not in first_calls and not _reads_zeros(evidence, i, state)]


def _reads_zeros(evidence: Evidence, i: int, same: Sequence[bool]) -> bool:
    """Whether an activation returns its value at 0, and what it reads is computed from layers that differ."""
    layer = evidence.layers[i]
    at_zero = AT_ZERO.get(layer.plain_kind, math.inf)
    return math.isclose(layer.rms, at_zero, rel_tol=0.01) and not all(same[source] for source in layer.sources)


def _first_calls(evidence: Evidence, same: Sequence[bool]) -> set[int]:
    """Layers that are the same for all samples in one call and not in another: a recurrent cell's first reads 0."""
    alive = {_own_module(x) for x, collapsed in zip(evidence.layers, same, strict=True) if not collapsed}
    found: set[int] = set()
    for i, layer in enumerate(evidence.layers):
        behind = layer.role != "weights" and layer.sources and found.issuperset(layer.sources)
        if behind or (same[i] and _own_module(layer) in alive - {""}):
            found.add(i)
    return found


def _own_module(layer: Layer) -> str:
    """The module that a layer is the whole of; "" if it is a function in another one."""
    return layer.module if layer.name.partition("@")[0] == layer.module else ""


def _blank(evidence: Evidence) -> list[bool]:
    """For each layer: whether it starts as a constant, or is an activation of such a one.

    The weights are 0, so that it returns its bias, or the rows of an embedding are all the same.
    """
    found: list[bool] = []
    for layer in evidence.layers:
        own = [evidence.weights[name] for name in layer.weights if name in evidence.weights]
        constant = any(is_zero(w) or (w.alike and "embedding" in layer.plain_kind) for w in own)
        behind = layer.role != "weights" and any(found[source] for source in layer.sources)
        found.append(constant or behind)
    return found
