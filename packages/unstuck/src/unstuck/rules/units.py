"""Neurons that pass nothing on or are equal, attention to one key, inputs that are not scaled."""

import math
from collections.abc import Sequence

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure.activations import activation_of
from unstuck.measure.measurement import SHUT, Layer, Weight
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found
from unstuck.rules.standstill import falls, fitted, learned, start_far_off
from unstuck.wording import listed, named, number, percent

FEWEST_ROWS = 32
"""With fewer rows neurons are not judged: one that is open for 10 % of the samples is shut for 32 of them in 3 %."""
SATURATED_SHARE = 0.5
OPEN = 0.9
"""Size of a gate from which on it passes everything."""
DEAD_SHARE_NOTE, DEAD_SHARE = 0.5, 0.9
ALL_HEADS = 1.0
LARGE_INPUTS, LARGE_OUTPUTS, LOW_SLOPE = 10.0, 3.0, 0.3

SHRINK = (
    "Use smaller weights and biases, scale the inputs, put a normalisation before the activation, or lower a learning "
    "rate that is the cause."
)
REVIVE = (
    "Start biases at 0 and weights at He's size; if it came during training, lower the learning rate; or use an "
    "activation without a flat part, such as LeakyReLU, GELU or SiLU."
)
SOFTEN = "Scale the scores by 1/sqrt(head size), normalise queries and keys, or lower the learning rate."
RANDOMISE = "Initialise weights at random; constants are for biases and the weights of normalisations."
RESCALE = "Scale the inputs: divide bytes by 255 once, standardise each feature over the training set."


def saturation(evidence: Evidence) -> Found | None:
    """A saturated neuron answers the same to nearly all samples, and passes almost no gradient back."""
    found = sorted(_saturated(evidence), key=lambda i: -_shut(evidence.layers[i])) or _wrong_ends(evidence)
    if not found:
        return None
    names, worst = evidence.names(found), evidence.layers[found[0]]
    slope, value, others = worst.relative_slope, _shut(worst), ""
    mean = "" if slope is None else _(" (mean relative slope {slope})", slope=number(slope))
    if names[1:]:
        others = _(", and most neurons of {names}", names=evidence.listed(names[1:], "activation", "activation"))
    values = {"share": percent(value), "name": named(worst.name), "mean": mean, "others": others}
    text = _(
        "{share} % of the neurons of {name} are saturated{mean}{others}: they pass almost no gradient back.", **values
    )
    first = Evidence(evidence.measurements[:1])
    if falls(evidence) and not fitted(evidence) and set(first.names(_saturated(first))).isdisjoint(names):
        return Found(names, value, SATURATED_SHARE, text + _(" The loss falls nevertheless."), severity=Severity.NOTE)
    return Found(names, value, SATURATED_SHARE, text)


def dead_units(evidence: Evidence) -> Found | None:
    """A unit that is off for all samples gets no gradient and cannot recover."""
    if evidence.latest.input_spread == 0:
        return None  # identical samples turn every unit on or off for all: US203
    found = sorted(_dead(evidence, DEAD_SHARE_NOTE), key=lambda i: -(evidence.layers[i].dead or 0))
    if not found:
        return None
    layers = [evidence.layers[i] for i in found]
    worst, value = layers[0], layers[0].dead or 0
    names = tuple(layer.name for layer in layers if value < DEAD_SHARE or (layer.dead or 0) >= DEAD_SHARE)
    others = ""
    if len(names) > 1:
        others = _(", and many units of {names}", names=evidence.listed(names[1:], "activation", "activation"))
    message = _(
        "{share} % of the units of {name} have derivative 0 for all {rows} rows{others}: they get no gradient and "
        "cannot recover.",
        share=percent(value), name=named(worst.name), rows=f"{worst.rows:,}", others=others,
    )  # fmt: skip
    severity = Severity.ERROR if value == 1 else Severity.WARNING if value >= DEAD_SHARE else Severity.NOTE
    return Found(names, value, DEAD_SHARE if value >= DEAD_SHARE else DEAD_SHARE_NOTE, message, severity=severity)


def sharp_attention(evidence: Evidence) -> Found | None:
    """A softmax that selects one key passes no gradient back to queries and keys, or a very steep one."""
    feeding = [x for i, x in enumerate(evidence.layers) if evidence.feeds_weights[i] and not x.gate]
    found = sorted((x for x in feeding if (x.sharp or 0) >= ALL_HEADS), key=lambda layer: layer.entropy or 0.0)
    if not found:
        return None
    names, value = tuple(layer.name for layer in found), found[0].entropy or 0.0
    text = _(
        "All heads of {names} attend to a single key (mean entropy {entropy} of the maximum): queries and keys get "
        "almost no gradient.",
        names=listed(names), entropy=number(value),
    )  # fmt: skip
    severity = Severity.NOTE if learned(evidence) else Severity.WARNING
    return Found(names, value, SHUT, text, severity=severity)


def unscaled_inputs(evidence: Evidence) -> Found | None:
    """Weights and biases are made for inputs of size 1: larger ones saturate the network."""
    size = evidence.latest.input_rms
    if size is None or not 0 < size < math.inf:
        return None
    sizes = {i: size if (own := evidence.layers[i].read_rms) is None else own for i in _first_layers(evidence)}
    large = [i for i in sizes if LARGE_INPUTS < sizes[i] < math.inf and _passes_size_on(evidence, i)]
    if large:
        size = max(sizes[i] for i in large)
        text = _("The inputs have a size of {size} (root mean square) instead of about 1.", size=number(size))
        return Found((), size, LARGE_INPUTS, text, severity=None if _harms(evidence, large) else Severity.NOTE)
    return None


def _first_layers(evidence: Evidence) -> list[int]:
    """The first call of each weight that reads the inputs, or embeddings of other inputs beside them."""
    tokens = {i for i, x in enumerate(evidence.layers) if "embedding" in x.plain_kind}
    readers = [i for i, x in enumerate(evidence.layers) if x.role == "weights" and tokens.issuperset(x.sources)]
    readers = [i for i in readers if i not in tokens and not evidence.constant[i]]
    starts = [i for i in readers if not evidence.layers[i].sources] or readers
    return sorted({evidence.layers[i].weights or i: i for i in reversed(starts)}.values())


def _passes_size_on(evidence: Evidence, i: int) -> bool:
    """Whether a first layer and those after it return large numbers; the gates of a recurrent one saturate."""
    if _is_recurrent(evidence.layers[i]):
        return True
    squashed = [a for a in evidence.consumers[i] if _is_flat(evidence.layers[a])]
    after = set(evidence.next_live(i)).difference(*(evidence.next_live(a) for a in squashed))
    return min(evidence.layers[k].rms for k in (i, *after)) > LARGE_OUTPUTS


def _harms(evidence: Evidence, first: Sequence[int]) -> bool:
    """Whether an activation bends large numbers or lets no gradient back, or the first outputs are far off."""
    bends = any(found.s_shaped for x in evidence.layers if (found := activation_of(x)))
    layers = [evidence.layers[i] for i in first]
    start = Evidence(evidence.measurements[:1])
    off = any(start.layers[i].dead == 1 for i in start.hidden) and any(x.gradient == 0 for x in layers)
    return bends or off or bool(_saturated(start)) or start_far_off(evidence) or any(map(_is_recurrent, layers))


def _is_recurrent(layer: Layer) -> bool:
    return layer.plain_kind.removesuffix("cell") in ("lstm", "gru", "rnn", "rnntanh")


def neurons_explain(evidence: Evidence) -> bool:
    """Whether any activation has saturated or dead neurons."""
    return bool(_saturated(evidence) or _dead(evidence))


def gradient_left(evidence: Evidence) -> tuple[float, ...]:
    """For each layer: the share of the gradient that saturated and dead activations after it leave; 1 is all."""
    through = [1.0] * len(evidence.layers)
    for i in {*_saturated(evidence), *_dead(evidence)}:
        layer = evidence.layers[i]
        passed = 1.0 if layer.gain is None else min(1.0, layer.gain)
        through[i] = 0.0 if layer.dead == 1 else passed
        if layer.gate and layer.rms < SHUT:  # the signal that it multiplies gets no gradient either
            readers = set(evidence.consumers[i])
            for other, consumers in enumerate(evidence.consumers):
                if other != i and consumers and readers.issuperset(consumers):
                    through[other] = min(through[other], layer.rms)
    found = [1.0] * len(through)
    for i in reversed(range(len(found))):
        found[i] = max((found[c] * through[c] for c in evidence.consumers[i]), default=1.0)
    return tuple(found)


def _saturated(evidence: Evidence) -> tuple[int, ...]:
    """Hidden activations with saturated neurons, in order; gates only if every neuron is. Those in a loss are not."""
    judged = [(i, x, _shut(x)) for i, x in enumerate(evidence.layers) if x.rows >= FEWEST_ROWS]
    judged = [(i, x, shut) for i, x, shut in judged if x.role == "activation" and evidence.feeds_weights[i]]
    return tuple(i for i, x, shut in judged if ((shut == 1 and x.rms < OPEN) if x.gate else shut > SATURATED_SHARE))


def _wrong_ends(evidence: Evidence) -> list[int]:
    """The saturated outputs that a loss reads, if it is the only one and larger than without any answer."""
    comparisons, loss = evidence.latest.comparisons, evidence.latest.loss
    if len(comparisons) != 1 or comparisons[0].reads is None or loss is None:
        return []
    (comparison,) = comparisons
    ignorant = {"mse_loss": comparison.target_rms**2 / 2, "binary_cross_entropy": math.log(2)}
    layer = evidence.layers[comparisons[0].reads]
    shut = layer.rows >= FEWEST_ROWS and _shut(layer) > SATURATED_SHARE
    return [comparisons[0].reads] if shut and loss > ignorant.get(comparison.function, math.inf) else []


def _shut(layer: Layer) -> float:
    """Share of the neurons that are saturated but not dead."""
    return (layer.saturated or 0.0) - (layer.dead or 0.0)


def _is_flat(layer: Layer) -> bool:
    """Whether a bounded activation makes large inputs small: most neurons are saturated, or the mean slope is low."""
    found, slope = activation_of(layer), layer.relative_slope
    bounded = found is not None and found.s_shaped
    return _shut(layer) > SATURATED_SHARE or (bounded and slope is not None and slope < LOW_SLOPE)


def _dead(evidence: Evidence, least: float = DEAD_SHARE) -> tuple[int, ...]:
    """Hidden activations with dead units, in order."""
    layers = evidence.layers
    return tuple(i for i in evidence.hidden if (layers[i].dead or 0) >= least and layers[i].rows >= FEWEST_ROWS)


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
    if not names:
        return None
    text = _(
        "All rows of {names} are identical: these neurons compute the same and stay the same.", names=listed(names)
    )
    return Found(tuple(names), len(names), 0, text)


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
