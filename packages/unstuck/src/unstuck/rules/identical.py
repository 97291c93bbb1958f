"""Neurons and modules that are equal, and stay so."""

import math

from unstuck.language import _
from unstuck.measure.measurement import Layer, Weight
from unstuck.rules.evidence import Evidence, is_zero
from unstuck.rules.rule import Found
from unstuck.wording import listed

RANDOMISE = "Initialise weights at random; constants are for biases and the weights of normalisations."
DRAW_EACH = "Initialise each of them anew: `copy.deepcopy` copies the random numbers, too."


def identical_neurons(evidence: Evidence) -> Found | None:
    """The layer is worth one neuron, because equal neurons with equal gradients stay equal."""
    alike = {
        i: names
        for i, x in enumerate(evidence.layers)
        if x.role == "weights" and evidence.feeds_weights[i] and not x.kind.lower().startswith("embedding")
        if (names := [n for n in x.weights if _identical(evidence, x, evidence.weights.get(n))])
    }
    # What is added to the neurons may make them differ.
    alone = (i for i in alike if any(alike.keys() >= set(evidence.layers[k].sources) for k in evidence.consumers[i]))
    names = list(dict.fromkeys(name for i in alone for name in alike[i]))
    names = names or _zeros_in_series(evidence)
    text = _(
        "All rows of {names} are identical: these neurons compute the same and stay the same.", names=listed(names)
    )
    return Found(tuple(names), len(names), 0, text) if names else _identical_modules(evidence)


def _zeros_in_series(evidence: Evidence) -> list[str]:
    """Weights of 0 whose neurons, through one activation, feed weights of 0 only, which read nothing else."""
    layers = evidence.layers
    zero = [bool(x.weights) and all(_starts_at_zero(evidence, name) for name in x.weights) for x in layers]
    alone = {
        i
        for i, x in enumerate(layers)
        if x.role != "weights"
        and len(x.sources) == 1
        and zero[x.sources[0]]
        and evidence.consumers[x.sources[0]] == (i,)
    }
    found: list[str] = []
    for i in sorted(alone):
        after = evidence.consumers[i]
        if after and all(zero[k] and alone.issuperset(layers[k].sources) for k in after):
            found += layers[layers[i].sources[0]].weights
    return list(dict.fromkeys(found))


def _starts_at_zero(evidence: Evidence, name: str) -> bool:
    weight = evidence.weights.get(name)
    return weight is not None and weight.trains and min(weight.shape, default=0) > 1 and is_zero(weight)


def _identical_modules(evidence: Evidence) -> Found | None:
    """Modules of several parameters that read the same, and whose sizes and gradients are all the same."""
    read = {name: x.sources for x in evidence.layers for name in x.weights}
    owned: dict[str, list[Weight]] = {}
    for weight in evidence.latest.weights:
        owned.setdefault(weight.name.rpartition(".")[0], []).append(weight)
    alike: dict[tuple[object, ...], list[str]] = {}
    for module, weights in owned.items():
        sizes = [
            (w.shape, f"{w.size:.6e}", f"{w.gradient:.5e}")  # equal up to rounding
            for w in weights
            if w.trains and 0 < (w.gradient or 0.0) < math.inf
        ]
        source = next((read[w.name] for w in weights if w.name in read), None)
        if len(sizes) > 1 and source is not None:
            alike.setdefault((source, *sizes), []).append(module)
    copies = max(alike.values(), key=len, default=[])
    if len(copies) < 2:
        return None
    text = _("{names} have the same weights and get the same gradient: they stay equal.", names=listed(copies))
    return Found(tuple(copies), len(copies), 0, text, DRAW_EACH)


def _identical(evidence: Evidence, layer: Layer, weight: Weight | None) -> bool:
    """Whether the rows are the same and read the same, so that the neurons are identical."""
    if weight is None or not weight.trains or not weight.alike or len(weight.shape) < 2 or weight.shape[0] < 2:
        return False
    if len(weight.shape) > 2 and weight.shape[1] == 1 and layer.sources:
        return False  # depthwise: each row reads another channel
    others = [evidence.weights[name] for name in layer.weights if name in evidence.weights]
    # Deviations of a Bayesian layer and gains may start identical: another matrix distinguishes the neurons.
    matrices = (other for other in others if len(other.shape) > 1 and other.shape[0] == weight.shape[0])
    return not any(not other.alike and other.size > 0 for other in matrices)
