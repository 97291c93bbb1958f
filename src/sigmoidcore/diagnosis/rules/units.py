"""SC201 to SC204: neurons that pass nothing on, samples that become one point, attention that sees one key."""

import math

from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.measure.measurement import SHUT
from sigmoidcore.diagnosis.rules.evidence import SIGMOIDS, Evidence, is_zero
from sigmoidcore.diagnosis.rules.rule import Found, Rule
from sigmoidcore.diagnosis.rules.wording import listed, named, number, share

ROWS = 32
"""With fewer rows nothing is said: a neuron that is open for a tenth of the samples is shut for 32 of them with 3 %."""
SATURATED = 0.5
HALF_DEAD, DEAD = 0.5, 0.9
COLLAPSED, SAME = 3.5e-4, 1e-6
ALL_SHARP = 1.0
LEARNED = 0.1
IN_NATS = {"cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"}
"""Losses of which 0.1 says that nine tenths are right."""
OFFSET, STILL_OFFSET = 0.02, 0.1


ONE_SIDED = {"softplus", "logsigmoid", "elu", "celu", "selu"}
"""Their flat end is a range to work in: the output says little there, or its logarithm does, and they come back."""
TWO_SIDED = {"hardtanh", "hardsigmoid"}
"""Dead units of these are what saturated ones are of smooth activations."""


def plain(kind: str) -> str:
    """The kind of an activation, whether a module or a function makes it."""
    return kind.removesuffix("()").replace("_", "").lower()


def saturated(evidence: Evidence) -> tuple[int, ...]:
    """Hidden activations with saturated neurons, in order; gates only if every neuron of theirs is."""
    return tuple(
        i
        for i, layer in enumerate(evidence.layers)
        if _seen(evidence, i)
        and (_shut(evidence, i) > SATURATED if i in evidence.hidden else layer.gate and _shut(evidence, i) == 1)
    )


def _shut(evidence: Evidence, i: int) -> float:
    """Share of the neurons that are saturated without being dead, which is another rule."""
    layer = evidence.layers[i]
    if plain(layer.kind) in ONE_SIDED:
        return 0.0
    return (layer.saturated or 0.0) - (layer.dead or 0.0)


def dead(evidence: Evidence, above: float = DEAD) -> tuple[int, ...]:
    """Hidden activations with dead units, in order."""
    return tuple(i for i in evidence.hidden if (evidence.layers[i].dead or 0) >= above and _seen(evidence, i))


def _seen(evidence: Evidence, i: int) -> bool:
    return evidence.layers[i].rows >= ROWS


def kept(evidence: Evidence) -> tuple[float, ...]:
    """Of each layer: what the saturated and the dead activations after it leave of the gradient; 1: all of it."""
    through = [1.0] * len(evidence.layers)
    for i in {*saturated(evidence), *dead(evidence)}:
        layer = evidence.layers[i]
        through[i] = 0.0 if layer.dead == 1 else min(1.0, layer.gain) if layer.gain is not None else 1.0
        if layer.gate and layer.rms < SHUT:  # what it multiplies gets nothing back either
            readers = set(evidence.consumers[i])
            for other, consumers in enumerate(evidence.consumers):
                if other != i and consumers and readers.issuperset(consumers):
                    through[other] = min(through[other], layer.rms)
    found = [1.0] * len(through)
    for i in reversed(range(len(found))):
        found[i] = max((found[c] * through[c] for c in evidence.consumers[i]), default=1.0)
    return tuple(found)


def _saturated(evidence: Evidence) -> Found | None:
    found = sorted(saturated(evidence), key=lambda i: -_shut(evidence, i))
    if not found:
        return None
    layers = [evidence.layers[i] for i in found]
    names, worst = tuple(layer.name for layer in layers), layers[0]
    others = [layer.name for layer in evidence.layers if layer.role == "activation"]
    slope = "" if worst.relative_slope is None else f" (mean relative slope {number(worst.relative_slope)})"
    value = _shut(evidence, found[0])
    most = f"{share(value)} of the neurons of {named(worst.name)} are saturated{slope}"
    message = (
        f"{most}."
        if len(names) == 1
        else f"Most neurons of {listed(names, others, 'activations')} are saturated; {most}."
    )
    can = any(layer.kind in SIGMOIDS and not layer.gate for layer in layers)
    return Found(
        names,
        value,
        SATURATED,
        message,
        call=_mend(evidence) if can else None,
        remedy=None if can else SATURATION.without_cores,
    )


def _mend(evidence: Evidence) -> str:
    """A `Monitor` keeps no batch."""
    return "diagnosis.mend()" if evidence.now.step is None else "diagnosis.mend(inputs=inputs)"


def _dead(evidence: Evidence) -> Found | None:
    found = sorted(dead(evidence, HALF_DEAD), key=lambda i: -(evidence.layers[i].dead or 0))
    if not found:
        return None
    worst = evidence.layers[found[0]]
    value = worst.dead or 0
    names = tuple(evidence.layers[i].name for i in found if value < DEAD or (evidence.layers[i].dead or 0) >= DEAD)
    message = f"{share(value)} of the units of {named(worst.name)} let no gradient through for any of {worst.rows} rows"
    if len(names) > 1:
        others = [layer.name for layer in evidence.layers if layer.role == "activation"]
        message += f"; in all it is about {listed(names, others, 'activations')}"
    both = any(
        plain(evidence.layers[i].kind) in TWO_SIDED and (evidence.layers[i].dead or 0) > SATURATED for i in found
    )
    severity = Severity.ERROR if value == 1 else Severity.WARNING if value >= DEAD or both else Severity.NOTE
    zero = [w.name for w in evidence.now.weights if w.trains and len(w.shape) == 1 and is_zero(w) and w.gradient == 0]
    if zero and value == 1:
        message += f". {listed(zero)} {'is' if len(zero) == 1 else 'are'} 0, as that of a normalisation before it"
    remedy = "Start the weight of a normalisation at 1, or put what starts at 0 last in a block." if zero else None
    return Found(
        names, value, DEAD if value >= DEAD else HALF_DEAD, f"{message}.", severity, remedy if value == 1 else None
    )


def _collapse(evidence: Evidence) -> Found | None:
    if evidence.now.samples < 2:
        return None
    reads = evidence.now.input_spread or 1.0
    found: list[int] = []
    state = [True] * len(evidence.layers)
    for i in reversed(range(len(state))):
        layer = evidence.layers[i]
        ends = all(state[c] for c in evidence.consumers[i])
        if layer.spread is None or not math.isfinite(layer.spread) or not layer.rms > 0:
            state[i] = ends and bool(evidence.consumers[i])
            continue
        least = COLLAPSED if evidence.feeds_weights[i] else SAME
        state[i] = ends and layer.spread < COLLAPSED * reads
        if ends and layer.spread < least * reads and not _starts_at_zero(evidence, i):
            found.append(i)
    if not found:
        return None
    if evidence.now.input_spread == 0:
        text = "All samples of the inputs are the same, and so are those of every layer."
        return Found((), 0.0, COLLAPSED, text, remedy="Look at what loads the data.")
    found.reverse()
    first = evidence.layers[found[0]]
    names = tuple(evidence.layers[i].name for i in found)
    spread = first.spread or 0
    same = "all samples are the same point" if spread < SAME else "all samples are nearly the same point"
    return Found(
        names,
        spread / reads,
        COLLAPSED,
        f"From {named(first.name)} on, {same}: there they differ by {number(spread)} of their size, and by "
        f"{number(reads)} in the inputs.",
    )


def _starts_at_zero(evidence: Evidence, i: int) -> bool:
    """Whether it gives its bias because its weight is 0 still."""
    return any(is_zero(evidence.weights[w]) for w in evidence.layers[i].weights if w in evidence.weights)


def _offset(evidence: Evidence) -> Found | None:
    spread = evidence.now.input_spread
    if evidence.now.samples < ROWS or spread is None or not 0 < spread < OFFSET:
        return None
    readers = [layer.spread for layer in evidence.now.weighted if not layer.sources and layer.spread is not None]
    if not readers or not max(readers) < STILL_OFFSET:
        return None  # a normalisation comes first, as a layer or by hand; or the first weights have learned to
    return Found(
        (),
        spread,
        OFFSET,
        f"The inputs differ by {number(spread)} of their size: all samples have the same large part, and no "
        "normalisation takes it away.",
    )


def _sharp(evidence: Evidence) -> Found | None:
    found = [
        layer
        for i, layer in enumerate(evidence.layers)
        if (layer.sharp or 0) >= ALL_SHARP and not layer.gate and evidence.feeds_weights[i]
    ]
    if not found:
        return None
    found.sort(key=lambda layer: 0 if layer.entropy is None else layer.entropy)
    names = tuple(layer.name for layer in found)
    value = found[0].entropy or 0.0
    return Found(
        names,
        value,
        SHUT,
        f"All heads of {listed(names)} look at one key only: their mean entropy is {number(value)} of its largest.",
        Severity.NOTE if _learned(evidence) else None,
    )


def _learned(evidence: Evidence) -> bool:
    """Whether the loss is small: as a number, of those that are in nats, or beside the first that was measured."""
    now, first = evidence.now.loss, evidence.measurements[0].loss
    if now is None or first is None or not now >= 0:
        return False
    return (evidence.now.loss_function in IN_NATS and now < LEARNED) or now < LEARNED * first


SATURATION = Rule(
    id="SC201",
    name="saturated neurons",
    severity=Severity.WARNING,
    formula=(
        r"the share of neurons with $\overline{s} < \text{shut}$ is above $\text{share}$, where $\overline{s}$ is "
        r"a neuron's mean relative slope over the batch ($s = 4\sigma'(z)$ for a sigmoid)"
    ),
    thresholds={"shut": SHUT, "share": SATURATED, "rows at least": ROWS},
    source=(
        "The floor 0.05 is that of the `Equalizer`; a share of a half is SageMaker Debugger's "
        "(SaturatedActivation), whose bounds for the input, -23 and 17, are where nothing is left at all."
    ),
    why=(
        "A saturated neuron says the same to nearly all samples and passes next to no gradient on. It explains a "
        "gradient that vanishes there, which is then not reported as well. Outputs may be saturated, and gates, "
        "unless every neuron of a gate is; softplus, log-sigmoid and the ELU family work at "
        "their flat end, too. Neurons in the flat part of a hard activation are dead: SC202."
    ),
    remedy=(
        "Shift and scale what the activation reads: `Diagnosis.mend` makes cores of these activations and does it. Or "
        "draw smaller weights, scale the inputs, or put a normalisation before it; and lower a learning rate that "
        "brought it there."
    ),
    without_cores=(
        "Draw smaller weights and biases, scale the inputs, or put a normalisation before it; and lower a learning "
        "rate that brought it there."
    ),
    check=_saturated,
    example="""
model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
with torch.no_grad():
    model[2].bias.add_(20)
""",
    hidden_by=("SC401",),
)

DEAD_UNITS = Rule(
    id="SC202",
    name="dead units",
    severity=Severity.WARNING,
    formula=r"the share of units whose derivative is 0 for every row of the batch is at least $\text{dead}$",
    thresholds={"dead": DEAD, "error at": 1.0, "note from": HALF_DEAD, "rows at least": ROWS},
    source=(
        "SageMaker Debugger (DeadRelu) names layers from a half on. Deep plain ReLU networks with weights as He "
        "et al. draw them come close to a half by themselves, for there a unit is on for all samples or off for "
        "all: from a half to nine tenths it is a note, but for hardtanh and hardsigmoid, which are flat at both ends "
        "as the tanh and the sigmoid of SC201."
    ),
    why=(
        "A unit that is off for all samples gets no gradient and cannot come back. If all are, nothing before "
        "the layer learns."
    ),
    remedy=(
        "Lower the learning rate, which is what usually kills units; start biases at 0; or use an activation "
        "that is never flat, such as LeakyReLU, GELU or SiLU."
    ),
    check=_dead,
    example="""
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
with torch.no_grad():
    model[2].bias.sub_(20)
""",
    hidden_by=("SC401", "SC502"),
)

COLLAPSE = Rule(
    id="SC203",
    name="inputs collapse to one point",
    severity=Severity.WARNING,
    formula=(
        r"$\mathrm{spread}_l < \text{collapsed} \cdot \mathrm{spread}_\text{inputs}$ for layer $l$ and all that "
        "follows it; the spread is the standard deviation across samples over the root mean square"
    ),
    thresholds={"collapsed": COLLAPSED, "for outputs": SAME},
    source=(
        "Arithmetic: the Hessian of the next layer's weights has the square of it as the inverse of its condition "
        "number, and that is then below the rounding of float32, 1.2e-7. Four hidden layers of sigmoids with PyTorch's "
        "default weights, which train, come near it."
    ),
    why=(
        "The network says the same to every input, however level its gradient is. If the inputs are all the "
        "same, no layer is named. Paths that are the same for all samples by design (embeddings of positions, "
        "learned queries) join others and are left alone. Outputs may lie close together beside their mean: the "
        "threshold is 1e-6 for them."
    ),
    remedy=(
        "Put a normalisation (BatchNorm) before the activations, draw larger weights and smaller biases, or "
        "centre what the layers read: centered cores do, see `convert` and `calibrate`."
    ),
    check=_collapse,
    example="""
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
with torch.no_grad():
    model[0].bias.add_(10_000)
""",
    hidden_by=("SC401", "SC101", "SC201", "SC202", "SC502", "SC503"),
)

SHARP_ATTENTION = Rule(
    id="SC204",
    name="attention collapsed to one key",
    severity=Severity.WARNING,
    formula=(
        r"for every head of a layer, $H / H_\text{max} < \text{shut}$, with the mean entropy $H$ of its attention "
        "over the queries"
    ),
    thresholds={"shut": SHUT, "note if the loss is below": LEARNED},
    source=(
        "Zhai et al. (2023, arXiv 2303.06296) saw training diverge where the entropy of attention collapses. The "
        "number is the floor of the relative slope, and a choice. Single heads that look at one key are common "
        "in trained transformers: all heads of the layer must be so. Of a network that has learned "
        "(cross-entropy below 0.1, or a loss below a tenth of the first that a `Monitor` saw) it is a note."
    ),
    why=(
        "A softmax that gives everything to one key passes no gradient on to queries and keys, or a very steep one. "
        "A layer with a single head that has learned which key is the right one looks the same, and is well."
    ),
    remedy="Scale the scores by 1/sqrt(head size), normalise queries and keys, or lower the learning rate.",
    check=_sharp,
    example="""
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        scores = 1000 * self.query(x) @ self.key(x).mT
        return self.head((scores.softmax(-1) @ self.value(x)).mean(1))

model, inputs = Attention(), torch.randn(128, 24, 16)
""",
    hidden_by=("SC401",),
)

OFFSET_INPUTS = Rule(
    id="SC205",
    name="inputs far from 0",
    severity=Severity.WARNING,
    formula=(
        r"$0 < \mathrm{spread}_\text{inputs} < \text{offset}$, and the spread of what the first layers give is below "
        r"$\text{still}$"
    ),
    thresholds={"offset": OFFSET, "still": STILL_OFFSET, "samples at least": ROWS},
    source=(
        "Trainings of two hidden layers of 64 ReLU or tanh, 400 steps of Adam at 1e-3 and 1e-2. Unit features + 10 "
        "(spread 0.1) give 87 and 90 % right, + 100 (0.01) 56 and 48 %, + 1,000 39 %, and 100 % once they are "
        "normalised. Unscaled sets of scikit-learn are above the threshold: iris 0.27, wine 0.4, breast cancer 0.47, "
        "digits 0.55, diabetes 0.19, linnerud 0.44, patches of a photograph 0.07 (0 to 1, and 0 to 255), Friedman's "
        "0.44 to 0.5."
    ),
    why=(
        "What tells samples apart is small beside what they share: the first layer's weights learn the shared part "
        "first, and slowly the rest. Only floating-point inputs are judged, and only where the first layers give what "
        "is as close together: a normalisation at the start, also one by hand, keeps the rule silent."
    ),
    remedy="Subtract the mean of each feature over the training set, and divide by the standard deviation.",
    check=_offset,
    example="""
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
inputs = inputs + 1000
""",
    hidden_by=("SC401",),
)
