"""Neurons that pass nothing on or are equal, inputs that are not scaled."""

import math
from collections.abc import Sequence

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.activations import activation_of
from unstuck.measure.again import Again
from unstuck.measure.measurement import Layer
from unstuck.rules.evidence import Evidence
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule
from unstuck.wording import listed, named, number, percent

FEWEST_ROWS = 32
"""With fewer rows neurons are not judged: one that is open for 10 % of the samples is shut for 32 of them in 3 %."""
SATURATED_SHARE = 0.5
OPEN = 0.9
"""Size of a gate from which on it passes everything."""
DEAD_SHARE_NOTE, DEAD_SHARE = 0.5, 0.9
LARGE_INPUTS, SMALL_INPUTS, LARGE_OUTPUTS, LOW_SLOPE, FAR_OFF = 10.0, 0.01, 3.0, 0.3, 10.0
DROWNED = 100.0
"""How much larger than an embedding of places the rest may be."""

SHRINK = (
    "Use smaller weights and biases, scale the inputs, put a normalisation before the activation, or lower a learning "
    "rate that is the cause."
)
REVIVE = (
    "Start biases at 0 and weights at He's size; if it came during training, lower the learning rate; or use an "
    "activation without a flat part, such as LeakyReLU, GELU or SiLU."
)
RANDOMISE = "Initialise weights at random; constants are for biases and the weights of normalisations."
RESCALE = "Scale the inputs: divide bytes by 255 once, standardise each feature over the training set."


@rule("US201", "saturated neurons", remedy=SHRINK, hidden_by=("US401",), signal=True)
def saturation(evidence: Evidence) -> Found | None:
    """A saturated neuron answers the same to nearly all samples, and passes almost no gradient back."""
    found = sorted(_saturated(evidence), key=lambda i: -_shut(evidence.layers[i])) or _wrong_ends(evidence)
    if not found:
        return None
    worst = evidence.layers[found[0]]
    text = _(
        "{share} % of the neurons of {name} are saturated: they pass almost no gradient back.",
        share=percent(_shut(worst)), name=named(worst.name),
    )  # fmt: skip
    return Found(evidence.names(found), _shut(worst), SATURATED_SHARE, text)


@rule("US202", "dead units", remedy=REVIVE, hidden_by=("US206", "US401", "US502"), signal=True)
def dead_units(evidence: Evidence) -> Found | None:
    """A unit that is off for all samples gets no gradient and cannot recover."""
    if evidence.latest.input_spread == 0:
        return None  # identical samples turn every unit on or off for all: US203
    found = sorted(_dead(evidence, DEAD_SHARE_NOTE), key=lambda i: -(evidence.layers[i].dead or 0))
    if not found:
        return None
    worst = evidence.layers[found[0]]
    value = worst.dead or 0
    text = _(
        "{share} % of the units of {name} have derivative 0 for all {rows} rows: they get no gradient and cannot "
        "recover.",
        share=percent(value), name=named(worst.name), rows=f"{worst.rows:,}",
    )  # fmt: skip
    severity = Severity.ERROR if value == 1 else Severity.WARNING if value >= DEAD_SHARE else Severity.NOTE
    return Found(evidence.names(found), value, DEAD_SHARE_NOTE, text, severity=severity)


@rule(
    "US206", "inputs not scaled", remedy=RESCALE, hidden_by=("US401",), mistake=True, stalls=True, explains=("US302",)
)
def unscaled_inputs(evidence: Evidence) -> Found | None:
    """Weights and biases are made for inputs of size 1: larger ones saturate the network."""
    layers, size = evidence.layers, evidence.latest.input_rms
    if size is None:
        return None
    # First layers that read the inputs, or embeddings of other inputs beside them.
    tokens = {i for i, x in enumerate(layers) if "embedding" in x.plain_kind}
    first = [
        i for i, x in enumerate(layers) if x.role == "weights" and tokens.issuperset(x.sources) and i not in tokens
    ]
    sizes = {i: layers[i].read_rms or size for i in first}
    times = evidence.ask(drowned_places)
    if times is not None and size > LARGE_INPUTS:
        text = _(
            "The inputs have a size of {size} (root mean square) instead of about 1, and are {times} times as large as "
            "the embeddings of places that are added.",
            size=number(size), times=number(times),
        )  # fmt: skip
        return Found((), size, LARGE_INPUTS, text)
    large = [i for i in first if LARGE_INPUTS < sizes[i] < math.inf and _passes_size_on(evidence, i)]
    small = 0 < size < SMALL_INPUTS and bool(first)
    if not (large or small):
        return None
    size = max(sizes[i] for i in large or first)
    text = _("The inputs have a size of {size} (root mean square) instead of about 1.", size=number(size))
    severity = None if large and _harms(evidence, large) else Severity.NOTE
    return Found((), size, LARGE_INPUTS if large else SMALL_INPUTS, text, severity=severity)


def _passes_size_on(evidence: Evidence, i: int) -> bool:
    """Whether a first layer and those after it return large numbers, or an activation in between squashes them."""
    squashed = [a for a in evidence.consumers[i] if _is_flat(evidence.layers[a])]
    after = set(evidence.next_live(i)).difference(*(evidence.next_live(a) for a in squashed))
    return min(evidence.layers[k].rms for k in (i, *after)) > LARGE_OUTPUTS


def _is_flat(layer: Layer) -> bool:
    """Whether a bounded activation makes large inputs small: its mean slope is low."""
    found, slope = activation_of(layer), layer.relative_slope
    return found is not None and found.s_shaped and slope is not None and slope < LOW_SLOPE


def _harms(evidence: Evidence, first: Sequence[int]) -> bool:
    """Whether an activation bends large numbers or lets no gradient back, or the first outputs are far off."""
    start = Evidence(evidence.measurements[:1])
    bends = any(found.s_shaped for x in evidence.layers if (found := activation_of(x)))
    blocked = any(evidence.layers[i].gradient == 0 for i in first)
    off = blocked and any(start.layers[i].dead == 1 for i in start.hidden)
    numbers = (c for c in start.latest.comparisons if c.function in calls.COMPARISONS and not c.classes)
    return bends or off or any(c.output_rms > FAR_OFF * c.target_rms for c in numbers)


def neurons_explain(evidence: Evidence) -> bool:
    """Whether any activation has saturated or dead neurons."""
    return bool(_saturated(evidence) or _dead(evidence))


def gradient_left(evidence: Evidence) -> tuple[float, ...]:
    """For each layer: the share of the gradient that saturated and dead activations after it leave; 1 is all."""
    through = [1.0] * len(evidence.layers)
    for i in {*_saturated(evidence), *_dead(evidence)}:
        gain = evidence.layers[i].gain
        through[i] = 0.0 if evidence.layers[i].dead == 1 else min(1.0, 1.0 if gain is None else gain)
    found = [1.0] * len(through)
    for i in reversed(range(len(found))):
        found[i] = max((found[c] * through[c] for c in evidence.consumers[i]), default=1.0)
    return tuple(found)


def _saturated(evidence: Evidence) -> tuple[int, ...]:
    """Hidden activations with saturated neurons, in order; gates only if every neuron is."""
    judged = [(i, x) for i, x in enumerate(evidence.layers) if x.role == "activation" and evidence.feeds_weights[i]]
    judged = [(i, x) for i, x in judged if x.rows >= FEWEST_ROWS]
    return tuple(i for i, x in judged if ((_shut(x) == 1 and x.rms < OPEN) if x.gate else _shut(x) > SATURATED_SHARE))


def _wrong_ends(evidence: Evidence) -> list[int]:
    """The saturated outputs that a loss reads, if it is the only one and larger than without any answer."""
    if len(evidence.latest.comparisons) != 1:
        return []
    (comparison,) = evidence.latest.comparisons
    ignorant = {"mse_loss": comparison.target_rms**2 / 2, "binary_cross_entropy": math.log(2)}
    if comparison.reads is None or not (evidence.latest.loss or 0.0) > ignorant.get(comparison.function, math.inf):
        return []
    layer = evidence.layers[comparison.reads]
    return [comparison.reads] if layer.rows >= FEWEST_ROWS and _shut(layer) > SATURATED_SHARE else []


def _shut(layer: Layer) -> float:
    """Share of the neurons that are saturated but not dead."""
    return (layer.saturated or 0.0) - (layer.dead or 0.0)


def _dead(evidence: Evidence, least: float = DEAD_SHARE) -> tuple[int, ...]:
    """Hidden activations with dead units, in order."""
    layers = evidence.layers
    return tuple(i for i in evidence.hidden if (layers[i].dead or 0) >= least and layers[i].rows >= FEWEST_ROWS)


@rule("US503", "identical neurons", remedy=RANDOMISE, hidden_by=("US502",), stalls=True)
def identical_neurons(evidence: Evidence) -> Found | None:
    """The layer is worth one neuron, because equal neurons with equal gradients stay equal."""
    alike = {
        i: names
        for i, x in enumerate(evidence.layers)
        if x.role == "weights" and evidence.feeds_weights[i] and not x.kind.lower().startswith("embedding")
        if (names := [name for name in x.weights if name in evidence.weights and _identical(evidence, x, name)])
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


def _identical(evidence: Evidence, layer: Layer, name: str) -> bool:
    """Whether the rows are the same and read the same, so that the neurons are identical."""
    weight = evidence.weights[name]
    if not weight.trains or not weight.alike or len(weight.shape) < 2 or weight.shape[0] < 2:
        return False
    if len(weight.shape) > 2 and weight.shape[1] == 1 and layer.sources:
        return False  # depthwise: each row reads another channel
    # Deviations of a Bayesian layer and gains may start identical: another matrix distinguishes the neurons.
    others = [evidence.weights[other] for other in layer.weights if other in evidence.weights]
    return all(w.alike or w.size == 0 or len(w.shape) < 2 or w.shape[0] != weight.shape[0] for w in others)


@question
def drowned_places(again: Again) -> float | None:
    """How many times as large what is added to an embedding of places is, if that is far larger."""
    for node in (n for n in again.step.calls("add", "radd") if n.module is not None and len(n.reads) == 2):
        places = [n for n in node.reads if n.op == "parameter" and len(n.shape) > 1]
        if len(places) == 1:
            sizes = [float(x.float().square().mean().sqrt()) for x in again.run(list(node.reads))]
            sizes = sizes if node.reads[1] is places[0] else sizes[::-1]
            if sizes[0] > DROWNED * sizes[1] > 0:
                return sizes[0] / sizes[1]
    return None
