"""Samples that become one point."""

import math

from unstuck.language import _
from unstuck.rules.evidence import Evidence, is_zero
from unstuck.rules.rule import Found, rule
from unstuck.rules.standstill import unlearned
from unstuck.wording import named, number

COLLAPSED_SPREAD, EQUAL_SPREAD, SHRUNK_SPREAD = 3.5e-4, 1e-6, 0.4
CHOSEN_SPREAD, FEWEST_COLLAPSED = 0.05, 3

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


@rule(
    "US203",
    "samples collapse to one point",
    remedy=SEPARATE,
    hidden_by=("US401", "US101", "US201", "US202", "US502", "US503"),
    signal=True,
)
def collapse(evidence: Evidence) -> Found | None:
    """The network answers the same to every input, however level its gradient is."""
    latest = evidence.latest
    found = _collapsed(evidence) if latest.samples > 1 else []
    if not found:
        return _drawn_together(evidence) or _single_code(evidence)
    if latest.input_spread == 0:
        text = _("All samples of the inputs are identical, so every layer returns the same for all.")
        return Found((), 0.0, COLLAPSED_SPREAD, text, CHECK_LOADING)
    first, inputs = evidence.layers[found[0]], latest.input_spread or 1.0
    spread = first.spread or 0.0
    text = _(
        "From {name} on, all samples are nearly the same point: they differ by {spread} of their size, and by {inputs} "
        "in the inputs.",
        name=named(first.name), spread=number(spread), inputs=number(inputs),
    )  # fmt: skip
    return Found(evidence.names(found), spread / inputs, COLLAPSED_SPREAD, text)


def _drawn_together(evidence: Evidence) -> Found | None:
    """Outputs that a loss without targets draws to one point, and that learn nothing else."""
    half = evidence.measurements[: len(evidence.measurements) // 2]
    if evidence.latest.comparisons or not (unlearned(evidence) or unlearned(Evidence(half))):
        return None
    first = {layer.name: layer for layer in evidence.measurements[0].layers if layer.spread}
    pairs = [(x, first[x.name]) for x in (evidence.layers[i] for i in evidence.sinks) if x.name in first]
    shares = {x.name: (x.spread or 0.0) / (a.spread or 1.0) for x, a in pairs}
    grown = any(shares[x.name] * x.rms > a.rms for x, a in pairs)  # beside a larger mean
    if not shares or grown or max(shares.values()) > SHRUNK_SPREAD:
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
    if not evidence.latest.input_spread:
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
    same, blank = [True] * len(evidence.layers), _blank(evidence)
    for i in reversed(range(len(same))):
        layer = evidence.layers[i]
        ends = all(same[c] for c in evidence.consumers[i])
        if layer.spread is None or not math.isfinite(layer.spread) or not layer.rms > 0:
            same[i] = ends and bool(evidence.consumers[i])
            continue
        scale = inputs * evidence.scales_before[i]
        threshold = COLLAPSED_SPREAD if evidence.feeds_weights[i] else EQUAL_SPREAD
        same[i] = ends and layer.spread < COLLAPSED_SPREAD * scale
        if ends and layer.spread < threshold * scale and not blank[i]:
            found.append(i)
    # An activation at the end may read the difference of layers that are not the same, as DPO's loss does.
    reads = [all(same[source] for source in layer.sources) for layer in evidence.layers]
    return [i for i in found[::-1] if reads[i] or evidence.layers[i].role != "activation"]


def _blank(evidence: Evidence) -> list[bool]:
    """For each layer: whether it may be a constant: of parameters alone, of zeros or equal rows, or what reads such."""
    found: list[bool] = []
    for layer in evidence.layers:
        own = [evidence.weights[name] for name in layer.weights if name in evidence.weights]
        constant = any(is_zero(w) or (w.alike and "embedding" in layer.plain_kind) for w in own)
        constant |= layer.role != "weights" and not layer.sources  # it reads inputs, or parameters
        found.append(constant or (layer.role != "weights" and any(found[source] for source in layer.sources)))
    return found
