"""The gradient vanishes or explodes between the loss and the inputs."""

from collections.abc import Sequence
from statistics import median

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.rules import units
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found
from unstuck.wording import named, number, verb

SMALL_LEVEL, VANISHED_LEVEL, GONE_LEVEL = 1e-3, 1e-4, 1e-6
"""Levels below which a vanishing gradient is a note, a warning, an error."""
EXPLODED_LEVEL, BURST_LEVEL = 1e3, 1e6
"""Levels above which an exploding gradient is a warning, an error."""
STEEP = 0.1
"""One segment is to blame if its gain is further from the median than this factor."""

INITIALISE = (
    "Use weights that suit the activation (He for ReLU, orthogonal for tanh), put a normalisation before the "
    "activations, or add skip connections."
)
SHRINK = (
    "Use smaller weights (He for ReLU, orthogonal for tanh), put a normalisation before the activations, or scale "
    "residual branches down; clipping hides the cause."
)


def vanishing(evidence: Evidence) -> Found | None:
    """Layers near the inputs get almost no gradient: they stay as they were initialised."""
    if not fades(evidence):
        return None
    best, own = evidence.best_level, evidence.upper_level
    worst = sorted(lost(evidence), key=lambda i: own[i])
    # A branch beside a skip connection may have less than what reaches the inputs.
    first = next((i for i in worst if own[i] >= STEEP * best[i]), worst[0])
    level = own[first]
    share = level / (_scales(evidence)[first] or 1.0)
    place, names = _place(evidence, worst, shrinks=True)
    size = _("Less than 1e-30") if level < 1e-30 else _("Only {share}", share=number(level))
    values = {"size": size, "names": evidence.listed(names), "verb": verb(names, "it learns", "they learn")}
    if share >= VANISHED_LEVEL:
        text = _("{size} of the gradient reaches {names}: {verb} slowly.", **values) + place
    else:
        text = _("{size} of the gradient reaches {names}: {verb} almost nothing.", **values) + place
    severity = Severity.NOTE if share >= VANISHED_LEVEL else Severity.WARNING if share >= GONE_LEVEL else Severity.ERROR
    return Found(names, level, SMALL_LEVEL if share >= VANISHED_LEVEL else VANISHED_LEVEL, text, severity=severity)


def exploding(evidence: Evidence) -> Found | None:
    """A step that suits the last layers is far too large for the first: training diverges or hardly moves."""
    risen = evidence.from_inputs_on(lambda i: evidence.lower_level[i] > EXPLODED_LEVEL * evidence.head_scales[i][1])
    if evidence.latest.differentiated or not risen:
        return None
    worst = sorted(risen, key=lambda i: -evidence.lower_level[i])
    level = evidence.lower_level[worst[0]]
    place, names = _place(evidence, worst, shrinks=False)
    text = _(
        "The gradient at {names} is up to {times} times larger than at the last layers: a step that suits those is too "
        "large here.",
        names=evidence.listed(names), times=number(level),
    )  # fmt: skip
    few = any(norm.samples < units.FEWEST_ROWS for norm in evidence.latest.batch_norms)
    severity = Severity.ERROR if level > BURST_LEVEL else Severity.NOTE if few else Severity.WARNING
    return Found(names, level, EXPLODED_LEVEL, text + place, severity=severity)


def _gain(evidence: Evidence, i: int) -> float | None:
    """The gradient of a layer over the largest of the next layers; None for a last layer."""
    after = max((evidence.gradient(c) for c in evidence.next_live(i)), default=0.0)
    return evidence.gradient(i) / after if after > 0 else None


def lost(evidence: Evidence) -> tuple[int, ...]:
    """Layers with a vanished gradient that saturated and dead neurons do not explain, in order."""
    left, scales = units.gradient_left(evidence), _scales(evidence)
    fallen = evidence.from_inputs_on(lambda i: evidence.upper_level[i] < SMALL_LEVEL * scales[i])
    fallen = tuple(i for i in fallen if not _only_scores(evidence, i, scales))
    return tuple(i for i in fallen if left[i] > 0 and evidence.upper_level[i] < SMALL_LEVEL * left[i] * scales[i])


def _only_scores(evidence: Evidence, i: int, scales: Sequence[float]) -> bool:
    """Whether only attentions read a layer, and each has values beside it with a sound gradient."""
    readers = evidence.consumers[i] if evidence.gradient(i) > 0 else ()
    for reader in readers:
        # The values are read by the attention, or by what reads the softmax.
        beside = {reader, *evidence.consumers[reader]}
        values = {source for layer in beside for source in evidence.layers[layer].sources} - {i}
        sound = any(evidence.upper_level.get(v, 0.0) >= SMALL_LEVEL * scales[v] for v in values)
        if evidence.layers[reader].role != "attention" or not sound:
            return False
    return bool(readers)


def _scales(evidence: Evidence) -> tuple[float, ...]:
    """For each layer: how much smaller its gradient is for a small scale of a branch and a small head, which grow."""
    return tuple(branch * head for branch, (head, _) in zip(evidence.branch_scales, evidence.head_scales, strict=True))


def fades(evidence: Evidence) -> bool:
    """Whether the lost gradient shrinks step by step, before it becomes 0."""
    return any(evidence.gradient(i) > 0 for i in lost(evidence))


def _place(evidence: Evidence, layers: Sequence[int], shrinks: bool) -> tuple[str, tuple[str, ...]]:
    """A sentence on where the gradient changes, and the names; the layer before a single bad segment comes first."""
    names = evidence.names(layers)
    gains = [(gain, i) for i in layers if (gain := _gain(evidence, i))]
    if not gains:
        return "", names
    usual = median(gain for gain, _ in gains)
    gain, before = min(gains) if shrinks else max(gains)
    if len(gains) > 2 and STEEP < gain / usual < 1 / STEEP:
        shrinking = _(" It shrinks everywhere: the median gain of a layer is {gain}.", gain=number(usual))
        growing = _(" It grows everywhere: the median gain of a layer is {gain}.", gain=number(usual))
        return shrinking if shrinks else growing, names
    first = evidence.layers[before].name
    following = evidence.layers[max(evidence.next_live(before), key=evidence.gradient)].name
    if len(gains) > 2:
        names = (first, *(name for name in names if name != first))
    values = {"first": named(first), "second": named(following), "gain": number(gain)}
    if shrinks:
        return _(" Most is lost between {first} and {second} (gain {gain}).", **values), names
    return _(" It grows most between {first} and {second} (gain {gain}).", **values), names
