"""What a softmax or a choice compares: positives and negatives, the scale of similarities, unused codes and experts."""

import math

from unstuck.language import _
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found, rule, shown
from unstuck.wording import named, number, percent

REPEATED = 0.25
FLAT, SHARP = 0.8, 300.0
"""Least loss of cosines over that of equal ones; the largest scale of cosines that trains, three times that of CLIP."""

OTHER_PAIRS = "Check the indices of the positives: views in two halves are `(i + N) % 2N`, side by side `i ^ 1`."
HIDE_ITSELF = "Mask the diagonal: `similarities.fill_diagonal_(-inf)` before the softmax."
EACH_ONCE = "Draw batches in which each occurs once, or mask its copies."
USE_ALL = (
    "Start codes among the encoder's outputs and draw unused ones anew; give a router small first weights, noise, and "
    "a loss that balances it."
)
TEMPERATURE = "Divide cosines by a temperature of 0.05 to 0.2; a learned scale begins at 1 / 0.07 and stays below 100."


@rule("US708", "wrong positives or negatives", remedy=OTHER_PAIRS, hidden_by=("US401", "US705"), mistake=True)
def wrong_pairs(evidence: Evidence) -> Found | None:
    """A loss of all pairs draws samples together that do not belong together, or pushes copies apart."""
    pairing = evidence.depends.pairing
    if pairing is None:
        return None
    if pairing.itself:
        text = _("Each sample is among its own candidates, is always the most similar, and counts as wrong.")
        return shown(text, HIDE_ITSELF)
    if pairing.order:
        where = _("in the other half of the batch") if pairing.order == "halves" else _("next to it")
        return Found((), 1.0, 0.0, _("The other view of a sample is {where}, and the targets are others.", where=where))
    if pairing.repeated > REPEATED:
        text = _(
            "{share} % of the samples occur several times in the batch, and each copy is a wrong answer for the "
            "others.",
            share=percent(pairing.repeated),
        )  # fmt: skip
        return shown(text, EACH_ONCE, value=pairing.repeated)
    return None


@rule("US709", "scale of similarities", remedy=TEMPERATURE, hidden_by=("US401",), mistake=True)
def wrong_scale(evidence: Evidence) -> Found | None:
    """A softmax of cosines that is flat, or picks one, whatever the features are."""
    pairing = evidence.depends.pairing
    if pairing is None or pairing.scale is None:
        return None
    least = math.log1p((pairing.columns - 1) * math.exp(-2 * pairing.scale)) / math.log(pairing.columns)
    if least > FLAT:
        text = _(
            "Cosines are multiplied by {scale} before the softmax: the loss cannot fall below {share} % of that of "
            "equal ones.",
            scale=number(pairing.scale), share=percent(least),
        )  # fmt: skip
        return Found((), least, FLAT, text)
    if pairing.scale > SHARP:
        text = _(
            "Cosines are multiplied by {scale} before the softmax: it picks one candidate, and few pairs have a "
            "gradient.",
            scale=number(pairing.scale),
        )  # fmt: skip
        return Found((), pairing.scale, SHARP, text)
    return None


@rule("US710", "options that are not used", remedy=USE_ALL, hidden_by=("US401", "US501"), mistake=True)
def unused_options(evidence: Evidence) -> Found | None:
    """A few codes, or one expert, answer for all samples: the others are not trained."""
    for choice in evidence.depends.choices:
        enough = math.sqrt(choice.options)  # half of the largest entropy
        if choice.used < enough:
            text = _(
                "{name} takes one or a few of its {options} options: as many as {used} that are used alike.",
                name=named(choice.module), options=choice.options, used=number(choice.used),
            )  # fmt: skip
            return Found((choice.module,), choice.used, enough, text)
    return None
