"""SC101, SC102: the gradient vanishes or explodes on its way from the loss to the inputs."""

import math
from statistics import median

from sigmoidcore.conversion.eligibility import UNCENTERED
from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.rules import units
from sigmoidcore.diagnosis.rules.evidence import GATED, Evidence
from sigmoidcore.diagnosis.rules.rule import Found, Rule
from sigmoidcore.diagnosis.rules.wording import listed, named, number

SMALL, VANISHED, GONE = 1e-3, 1e-4, 1e-6
EXPLODED, BURST = 1e3, 1e6
SMALLEST_HALF = 2.0**-24
"""The smallest number above 0 in float16."""
STEEP = 0.1
"""A segment whose gain is further from 1 than this factor, and than the others by it, is where it happens."""


def lost(evidence: Evidence) -> tuple[int, ...]:
    """Layers with a vanished gradient that saturated and dead neurons do not explain, in order."""
    kept = units.kept(evidence)
    return tuple(i for i in evidence.fallen(SMALL) if kept[i] > 0 and evidence.lowest[i] < SMALL * kept[i])


def fades(evidence: Evidence) -> bool:
    """Whether the lost gradient becomes small before it becomes 0, or less than its dtype can hold."""
    return any(evidence.gradient(i) > 0 and not underflows(evidence, i) for i in lost(evidence))


def underflows(evidence: Evidence, i: int) -> bool:
    """Whether the numbers of the gradient are below the smallest that float16 holds."""
    layer = evidence.layers[i]
    if layer.dtype != "float16":
        return False
    if evidence.now.step is not None and evidence.gradient(i) > 0:
        return False  # a GradScaler may have scaled the loss: what is measured is unscaled
    per_sample = math.prod(layer.shape) / (layer.shape[0] if layer.shape else 1)
    return evidence.gradient(i) < SMALLEST_HALF * math.sqrt(per_sample)


def underflown(evidence: Evidence) -> tuple[int, ...]:
    """Layers whose gradient became too small for float16; that of all layers, if nothing is left at the loss."""
    if not any(evidence.references) and evidence.now.loss != 0:
        return tuple(i for i in range(len(evidence.layers)) if evidence.live[i] and underflows(evidence, i))
    gone = set(lost(evidence))
    return tuple(i for i in evidence.lowest if underflows(evidence, i) and (i in gone or evidence.gradient(i) > 0))


def _vanishing(evidence: Evidence) -> Found | None:
    if not fades(evidence):
        return None
    worst = sorted(lost(evidence), key=lambda i: evidence.lowest[i])
    level = evidence.lowest[worst[0]]
    where, at = _where(evidence, worst, falls=True)
    names = _named_first(evidence, worst, at)
    severity = Severity.ERROR if level < GONE else None if level < VANISHED else Severity.NOTE
    much = "less than 1e-30" if level < 1e-30 else f"down to {number(level)}"
    return Found(
        names,
        level,
        SMALL if severity is Severity.NOTE else VANISHED,
        f"The gradient that reaches {listed(names, evidence.weighted)} is {much} of that at the layers that feed the "
        f"loss. {where}",
        severity,
        *_remedy(evidence),
    )


def _exploding(evidence: Evidence) -> Found | None:
    risen = evidence.risen(EXPLODED)
    if not risen or evidence.now.differentiated:
        return None
    worst = sorted(risen, key=lambda i: -evidence.highest[i])
    level = evidence.highest[worst[0]]
    where, at = _where(evidence, worst, falls=False)
    names = _named_first(evidence, worst, at)
    return Found(
        names,
        level,
        EXPLODED,
        f"The gradient that reaches {listed(names, evidence.weighted)} is up to {number(level)} times that at the "
        f"layers that feed the loss. {where}",
        Severity.ERROR if level > BURST else None,
        *_remedy(evidence),
    )


def _named_first(evidence: Evidence, worst: list[int], at: int | None) -> tuple[str, ...]:
    """Names, worst first; but where one segment does it, the layer before that segment comes first."""
    return tuple(evidence.layers[i].name for i in sorted(worst, key=lambda i: i != at))


def _where(evidence: Evidence, layers: list[int], falls: bool) -> tuple[str, int | None]:
    """The segment that changes the gradient most, and the layer before it; or that all do the same, and None."""
    gains = []
    for i in layers:
        after = [evidence.gradient(c) for c in evidence.next_live(i)]
        if after and max(after) > 0 and evidence.gradient(i) > 0:
            gains.append((evidence.gradient(i) / max(after), i))
    if not gains:
        return "", None
    usual = median(gain for gain, _ in gains)
    gain, before = min(gains) if falls else max(gains)
    verb = "lost" if falls else "gained"
    if len(gains) > 2 and STEEP < gain / usual < 1 / STEEP:
        return f"It is {verb} a little everywhere: a segment has a gain of {number(usual)} (median).", None
    following = max(evidence.next_live(before), key=evidence.gradient)
    first, second = evidence.layers[before].name, evidence.layers[following].name
    text = f"It is {verb} most between {named(first)} and {named(second)} (gain {number(gain)})."
    return text, before if len(gains) > 2 else None


def _remedy(evidence: Evidence) -> tuple[str | None, str | None]:
    """For networks of sigmoids: what to do, and the call."""
    kinds = {layer.kind for layer in evidence.sigmoids}
    recurrent = any(layer.kind in GATED for layer in evidence.now.weighted)
    if not kinds and not recurrent:
        return None, None
    converts = recurrent or kinds != {"SigmoidCore"}
    if evidence.now.step:
        return (
            "Set the slopes of the sigmoids from a batch, which leaves the weights as they are; a lower learning rate "
            "keeps them there.",
            f"{'sc.convert(model); ' if converts else ''}sc.calibrate(model, inputs)",
        )
    centered = not kinds.isdisjoint(UNCENTERED)
    convert = f"sc.convert(model{', centered=True' if centered else ''}); " if converts else ""
    return (
        f"Before training, {'centre the sigmoids, ' if centered else ''}draw orthogonal weights and set the slopes of "
        "the sigmoids from a batch. To keep the weights that are there, use sc.calibrate in place of sc.prepare.",
        f"{convert}sc.prepare(model, inputs)",
    )


VANISHING = Rule(
    id="SC101",
    name="vanishing gradient",
    severity=Severity.WARNING,
    formula=(
        r"$g_l < \text{vanished} \cdot g_\text{sink}$, for layer $l$ and for all layers before it. $g_l$ is the "
        "gradient size at the output of a layer with weights, as it is or in the units of the signal that the "
        r"next layer gives ($g_l \cdot \mathrm{rms}_l / \mathrm{rms}_\text{next}$), whichever is larger; "
        r"$g_\text{sink}$ the smallest of the sinks that layer $l$ leads to"
    ),
    thresholds={"vanished": VANISHED, "error below": GONE, "note below": SMALL},
    source=(
        "Trainings. Plain networks of width 64 with PyTorch's default weights and ten classes, three seeds, Adam at "
        "1e-3, 1,000 steps at most, have 90 % right after\n\n"
        "| hidden layers | level of the first | steps |\n|---|---|---|\n"
        "| 7 ReLU | 2e-3 | 100 |\n| 9 ReLU | 3e-4 | 100 to 150 |\n| 10 ReLU | 1e-4 | 150 |\n"
        "| 12 ReLU | 2e-5 | 150 to 250 |\n| 16 ReLU | 5e-7 | 500 to 550 |\n| 3 sigmoid | 3e-3 | 200 |\n"
        "| 4 sigmoid | 4e-4 | 350 to 500 |\n| 5 sigmoid | 5e-5 | never |\n| 12 tanh | 1e-3 | 100 to 150 |\n"
        "| 16 tanh | 8e-5 | 100, 400, never |\n\n"
        "Above 1e-4 all learn; below it takes long, or does not happen. AUTOTRAINER (Xiaoyu Zhang et al., 2021) "
        "compares the first layer with the last by 1e-3, which is a note here. 1e-6 is a choice."
    ),
    why=(
        "Layers near the inputs get next to no gradient: they stay as they were drawn. Left alone are branches "
        "that start at 0 beside a skip connection (a last BatchNorm weight of 0, ReZero, Fixup, LoRA), layers "
        "before a normalisation, whose gradient has the inverse of their scale, and weights that are shared with "
        "a layer that is well."
    ),
    remedy=(
        "Draw weights that suit the activation (He for ReLU, orthogonal for tanh), put a normalisation before "
        "the activations, or add skip connections."
    ),
    check=_vanishing,
    example="""
model = nn.Sequential(*(m for _ in range(20) for m in (nn.Linear(64, 64), nn.Sigmoid())), nn.Linear(64, 10))
""",
    hidden_by=("SC401", "SC503"),
)

EXPLODING = Rule(
    id="SC102",
    name="exploding gradient",
    severity=Severity.WARNING,
    formula=(
        r"$g_l > \text{exploded} \cdot g_\text{sink}$, for layer $l$ and for all layers before it; as SC101, with "
        "the smaller of the two sizes and the largest sink. It rests where the loss contains derivatives of the "
        "outputs (physics-informed networks, gradient penalties): through these, gradients reach a layer past those "
        "behind it"
    ),
    thresholds={"exploded": EXPLODED, "error above": BURST},
    source=(
        "The inverse of SC101's. AUTOTRAINER has 70, which a plain network of twenty layers with BatchNorm comes "
        "near in good health; with fifty layers it is above 1e3."
    ),
    why=(
        "A step that suits the last layers throws the first ones off: training diverges, or stands still at a "
        "rate that is small enough."
    ),
    remedy=(
        "Draw smaller weights (He for ReLU, orthogonal for tanh), put a normalisation before the activations, or "
        "scale residual branches down. Clipping the gradient and a lower learning rate help against the effect, "
        "not the cause."
    ),
    check=_exploding,
    example="""
model = nn.Sequential(*(m for _ in range(20) for m in (nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 10))
with torch.no_grad():
    for p in model.parameters():
        p.mul_(6)
""",
    hidden_by=("SC104", "SC401", "SC503"),
)
