"""The terms of a loss: drowned, with reversed weights of classes, with a gradient in the target."""

from collections.abc import Sequence
from statistics import fmean

from unstuck.language import _
from unstuck.measure.measurement import LossTerm, Measurement
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found, rule
from unstuck.rules.standstill import PATIENT_MEASUREMENTS, PATIENT_STEPS, UNLEARNED_LOSS
from unstuck.wording import number, percent

EQUAL_OUTPUTS, FADED_REST, SLIGHT, OUTWEIGHED, SMALL_PART = 0.2, 0.1, 1e-3, 0.02, 0.1
REVERSED, DISTINCT, FEWEST_OF_CLASSES = 1.2, 2.0, 64

BALANCE = "Give the terms similar sizes: one reduction for all (sum or mean), or a factor for each."
BATCH_MEAN = 'Use `reduction="batchmean"`.'
INVERT_WEIGHTS = "Weigh each class by the number of all samples over its own; pos_weight is negatives over positives."
STOP = "Call `detach()` on the targets, or compute them under `torch.no_grad()`."
DETACH = "Call detach() on what multiplies the log-probabilities; a loss for regression trains the value."


@rule("US609", "a term of the loss is drowned", remedy=BALANCE, hidden_by=("US303", "US401", "US501"))
def drowned(evidence: Evidence) -> Found | None:
    """Outputs that should be the inputs, and are nearly the same for all samples, because of a penalty."""
    divided = evidence.depends.divided
    parts = [t.part / m.loss for m in evidence.measurements for t in m.terms if t.function == "kl_div" and m.loss]
    if divided is not None and len(parts) > 1 and max(parts) < SMALL_PART:
        text = _("kl_div with `mean` divides by the {classes} classes, too, and other terms drown it.", classes=divided)
        return Found((), divided, 1.0, text, BATCH_MEAN)
    steps = [m for m in evidence.measurements if m.step is not None and m.loss is not None]
    if len(steps) < PATIENT_MEASUREMENTS or (evidence.latest.step or 0) < PATIENT_STEPS - 1:
        return None
    late = len(steps) // 4
    for term in (t for t in steps[-1].terms if t.reconstructs):
        rest = [(m.loss or 0.0) - t.part for m in steps for t in m.terms if _alike(t, term)]
        if rest[0] < SLIGHT * (steps[0].loss or 0.0):
            continue
        shares = [share for m in steps[-late:] if (share := _varied(m, term)) is not None]
        if not shares or fmean(shares) > EQUAL_OUTPUTS or max(rest[-late:]) > FADED_REST * rest[0]:
            continue
        text = _(
            "The outputs vary by {share} of what their targets, the inputs, do, and the rest of the loss has fallen to "
            "{rest} of its first value: it drowns {function}.",
            share=number(fmean(shares)), rest=number(rest[-1] / rest[0]), function=term.function,
        )  # fmt: skip
        return Found((), fmean(shares), EQUAL_OUTPUTS, text)
    return _outweighed(steps)


def _outweighed(steps: Sequence[Measurement]) -> Found | None:
    """The only loss function of a loss whose other terms are large from the first step to the last, and do not fall."""
    shares = [m.terms[0].part / m.loss for m in steps if len(m.terms) == 1 and m.loss]
    rest = [(m.loss or 0.0) - m.terms[0].part for m in steps if len(m.terms) == 1]
    if len(shares) < len(steps) or not 0 < max(shares) < OUTWEIGHED or rest[-1] < UNLEARNED_LOSS * rest[0]:
        return None
    text = _(
        "{function} is never more than {share} % of the loss: the other terms drown it.",
        function=steps[-1].terms[0].function, share=percent(max(shares)),
    )  # fmt: skip
    return Found((), max(shares), OUTWEIGHED, text)


def _varied(measurement: Measurement, term: LossTerm) -> float | None:
    """The deviation of the outputs over the samples, over that of the targets."""
    pairs = (c for c in measurement.comparisons if (c.function, c.reads) == (term.function, term.reads))
    target = next((c.target_deviation for c in pairs), 0.0)
    spread = None if term.reads is None else measurement.layers[term.reads].spread
    return None if spread is None or not target > 0 else spread * measurement.layers[term.reads or 0].rms / target


@rule("US610", "class weights reversed", remedy=INVERT_WEIGHTS, mistake=True)
def reversed_weights(evidence: Evidence) -> Found | None:
    """The loss counts frequent classes even more: the network answers them always."""
    for term in evidence.latest.terms:
        if not term.class_weights:
            continue
        calls = [t for m in evidence.measurements for t in m.terms if _alike(t, term)]
        counts = [sum(of) for of in zip(*(t.class_counts for t in calls), strict=True)]
        known = sorted((n, w) for n, w in zip(counts, term.class_weights, strict=True) if n > 0 and w > 0)
        total = sum(n for n, _weight in known)
        if len(known) < 2 or total < FEWEST_OF_CLASSES:
            continue
        (fewest, least), (most, largest) = known[0], known[-1]
        weights = [w for _n, w in known]
        emphasis = sum(n * w for n, w in known) / total / fmean(weights)
        apart = most >= DISTINCT * fewest and largest >= DISTINCT * least
        if apart and (min(weights), max(weights)) == (least, largest) and emphasis > REVERSED:
            text = _(
                "The class with {most} % of the labels has the weight {large}, and the one with {fewest} % has "
                "{small}: rare classes count even less.",
                most=percent(most / total), large=number(largest), fewest=percent(fewest / total), small=number(least),
            )  # fmt: skip
            return Found((), emphasis, REVERSED, text)
    return None


def _alike(term: LossTerm, other: LossTerm) -> bool:
    """Whether two terms are of one kind and have as many classes."""
    return (term.function, len(term.class_counts)) == (other.function, len(other.class_counts))


@rule("US309", "gradient of the target", remedy=DETACH, hidden_by=("US401",), mistake=True)
def not_stopped(evidence: Evidence) -> Found | None:
    """A loss moves its target, too: what an advantage is computed from, or what a prediction is compared with."""
    found = evidence.depends
    if found.predicted:
        text = _(
            "{function} compares outputs with targets that the network computes, and both have gradients: the targets "
            "move towards the outputs, or all become one.",
            function=found.predicted,
        )  # fmt: skip
        return Found((), 1.0, 0.0, text, STOP)
    if not evidence.latest.moves_value:
        return None
    text = _(
        "The loss multiplies log-probabilities by data minus outputs of the network, which have a gradient: it "
        "moves these outputs, too, away from what they estimate."
    )
    return Found((), 1.0, 0.0, text)
