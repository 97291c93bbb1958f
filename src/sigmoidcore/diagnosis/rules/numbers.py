"""SC401 to SC403: numbers that are not finite, or about to be, or too small for their dtype."""

import math
from collections.abc import Sequence

from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement
from sigmoidcore.diagnosis.rules import gradient
from sigmoidcore.diagnosis.rules.evidence import Evidence
from sigmoidcore.diagnosis.rules.rule import Found, Rule
from sigmoidcore.diagnosis.rules.wording import listed, named, number

LARGEST = {"float16": 65504.0, "bfloat16": 3.3895e38}
NEAR = 0.5


def _bad_gradient(layer: Layer) -> bool:
    return layer.nonfinite_gradient > 0 or (layer.gradient is not None and not math.isfinite(layer.gradient))


def _forward(measurement: Measurement) -> tuple[tuple[str, ...], int, str] | None:
    """Names, count and sentence of what is not finite before the backward pass; the first place only."""
    if measurement.input_nonfinite:
        count = measurement.input_nonfinite
        return (), count, f"{count} numbers of the inputs are not finite."
    weights = [w for w in measurement.weights if w.nonfinite]
    if weights:
        names, count = tuple(w.name for w in weights), sum(w.nonfinite for w in weights)
        return names, count, f"{count} numbers of {listed(names)} are not finite: an earlier step wrote them."
    first = next((layer for layer in measurement.layers if layer.nonfinite), None)
    if first is not None:
        after = sum(layer.nonfinite > 0 for layer in measurement.layers) - 1
        tail = f" {after} layers after it have such numbers, too." if after else ""
        text = f"{first.nonfinite} numbers that {named(first.name)} gives are not finite, and it is the first.{tail}"
        return (first.name,), first.nonfinite, text
    if measurement.loss is not None and not math.isfinite(measurement.loss):
        names = tuple(layer.name for layer in reversed(measurement.layers) if _bad_gradient(layer))[:1]
        of = f" of {measurement.loss_function}" if measurement.loss_function else ""
        reads = f" The first gradient that is not is that at {named(names[0])}." if names else ""
        return names, 1, f"The loss{of} is {measurement.loss}, and all layers give finite numbers.{reads}"
    return None


def _backward(measurement: Measurement) -> tuple[tuple[str, ...], int, str] | None:
    """The same of the backward pass, which begins at the last layer."""
    last = next((layer for layer in reversed(measurement.layers) if _bad_gradient(layer)), None)
    if last is not None:
        count = max(1, last.nonfinite_gradient)
        text = (
            f"{count} numbers of the gradient at {named(last.name)} are not finite, and it is the first on the way"
            " back."
        )
        return (last.name,), count, text
    weights = [w for w in measurement.weights if w.nonfinite_gradient]
    if weights:
        names, count = tuple(w.name for w in weights), sum(w.nonfinite_gradient for w in weights)
        return names, count, f"{count} numbers of the gradients of {listed(names)} are not finite."
    return None


def _begun(measurements: Sequence[Measurement]) -> tuple[Measurement, int]:
    """The measurement since which every one has numbers that are not finite, and how many there are."""
    run = 0
    for measurement in reversed(measurements):
        if _forward(measurement) is None and _backward(measurement) is None:
            break
        run += 1
    return measurements[len(measurements) - max(1, run)], run


def _nonfinite(evidence: Evidence) -> Found | None:
    begun, run = _begun(evidence.measurements)
    if not run:
        return None
    where = _forward(begun) or _backward(begun)
    assert where is not None
    names, count, text = where
    half = any(layer.dtype == "float16" for layer in begun.layers)
    since = f" Seen first at step {begun.step}." if run > 1 and begun.step is not None else ""
    if half and run == 1 and begun.step is not None and _forward(begun) is None:
        return Found(
            names,
            count,
            0,
            text,
            Severity.NOTE,
            "If it is one step now and then, GradScaler has left it out: all is well.",
        )
    remedy = None
    if begun.input_nonfinite:
        remedy = "Remove or impute these samples."
    elif text.startswith("The loss"):
        remedy = (
            "Look at the targets and the loss: a mean over nothing (all targets ignored or masked, an empty batch), "
            "labels that are not finite, a logarithm or root of 0, a division by 0."
        )
    elif half:
        remedy = "float16 ends at 65504: use bfloat16, or keep this layer in float32; scale the loss with GradScaler."
    return Found(names, count, 0, text + since, remedy=remedy)


def _near_the_end(evidence: Evidence) -> Found | None:
    found = [
        (layer.largest / LARGEST[layer.dtype], layer)
        for layer in evidence.layers
        if layer.largest is not None
        and layer.dtype in LARGEST
        and NEAR < layer.largest / LARGEST[layer.dtype] < math.inf
    ]
    if not found:
        return None
    found.sort(key=lambda pair: -pair[0])
    value, worst = found[0]
    names = tuple(layer.name for _, layer in found)
    return Found(
        names,
        value,
        NEAR,
        f"{named(worst.name)} gives {number(worst.largest or 0)}; {worst.dtype} ends at"
        f" {number(LARGEST[worst.dtype])}." + (f" It is so in {listed(names)}." if len(names) > 1 else ""),
    )


def _underflow(evidence: Evidence) -> Found | None:
    if gradient.fades(evidence):
        return None
    found = sorted(gradient.underflown(evidence), key=evidence.gradient)
    if not found:
        return None
    names = tuple(evidence.layers[i].name for i in found)
    return Found(
        names,
        evidence.gradient(found[0]),
        gradient.SMALLEST_HALF,
        f"The numbers of the gradient at {listed(names, evidence.weighted)} are below 6e-8, the smallest that float16 "
        "holds: most of them have become 0.",
    )


NONFINITE = Rule(
    id="SC401",
    name="numbers that are not finite",
    severity=Severity.ERROR,
    formula="any number of the inputs, the weights, a layer's output, the loss, or a gradient is inf or nan",
    thresholds={},
    source="Arithmetic. As SageMaker Debugger's ExplodingTensor.",
    why=(
        "The first place is named: in the order of the forward pass, or, where that is finite, in the order of "
        "the backward pass; with a `Monitor`, in the first of the latest measurements that all have such "
        "numbers. Nothing that depends on these numbers is reported beside it. A single overflow of gradients in "
        "float16 during a training is a note: GradScaler leaves such a step out."
    ),
    remedy=(
        "Lower the learning rate or clip the gradient if it came with the steps; look for a logarithm or root of "
        "0, a division by 0, or a softmax over masked entries only if it is there from the start."
    ),
    check=_nonfinite,
    example="""
class Root(nn.Module):
    def forward(self, x):
        return x.sqrt()

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), Root(), nn.Linear(64, 10))
""",
)

NEAR_THE_END = Rule(
    id="SC402",
    name="close to the largest number of half precision",
    severity=Severity.WARNING,
    formula=r"$\max |y| > \text{near} \cdot \max(\text{dtype})$ for a layer's output in float16 or bfloat16",
    thresholds={"near": NEAR},
    source="Arithmetic: twice as much is inf.",
    why="Another batch, or some more training, and the layer gives inf.",
    remedy=(
        "Use bfloat16, or keep this layer in float32 (`torch.autocast(..., enabled=False)` around it); scale its "
        "inputs or its weights down."
    ),
    check=_near_the_end,
    example="""
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).half()
with torch.no_grad():
    model[0].bias[0] = 50_000
    model[2].weight[:, 0] = 0
inputs = inputs.half()
""",
)

UNDERFLOW = Rule(
    id="SC403",
    name="gradient underflows in float16",
    severity=Severity.WARNING,
    formula=(
        r"$g_l / \sqrt{n_l} < \text{smallest}$, where $n_l$ is the count of numbers that layer $l$ gives for a "
        "sample"
    ),
    thresholds={"smallest": gradient.SMALLEST_HALF},
    source="Micikevicius et al. (2018, arXiv 1710.03740): what is below $2^{-24}$ becomes 0 in float16.",
    why=(
        "The gradient is lost in the number format, not in the network. If it fades over several layers before "
        "it underflows, SC101 says so instead."
    ),
    remedy="Scale the loss (`torch.amp.GradScaler`), or use bfloat16.",
    check=_underflow,
    example="""
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).half()
inputs = inputs.half()

def loss_fn(outputs, targets):
    return 1e-4 * nn.functional.cross_entropy(outputs, targets)
""",
    hidden_by=("SC401", "SC101", "SC502"),
)
