"""Arguments of a loss that a term cannot learn from: numbers without a gradient, and cosines without a scale."""

import math

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure.calls import LOSSES
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found
from unstuck.wording import number

ROUNDING = 1e-3
"""A divergence below 0 by less is one of 0."""
LEAST_SHARE = 0.25
"""Cosines are not taken for logits if the smallest cross-entropy is above this share of that of equal logits."""


def constant_term(evidence: Evidence) -> Found | None:
    """A term of the loss that has lost its graph, or reads no output, beside others that have one."""
    if not evidence.latest.constant_terms:
        return None
    name = evidence.latest.constant_terms[0]
    if name in LOSSES:
        text = _("{function} got no argument with a gradient: this term of the loss trains nothing.", function=name)
    else:
        text = _("A term of the loss is computed behind {function}(), without a gradient: it trains nothing.",
                 function=name)  # fmt: skip
    remedy = _(
        "Give it the outputs with their graph, without detach(), item() or another network in their place; nothing to "
        "do if the term is for information only."
    )
    return Found((), 1.0, 0.0, text, remedy)


def probabilities(evidence: Evidence) -> Found | None:
    """Probabilities as logits of a cross-entropy, whoever has computed them."""
    for term in (term for term in evidence.latest.terms if term.adds_up):
        text = _(
            "{function} got numbers that add up to 1 for each sample: it expects logits, and has a softmax of its own.",
            function=term.function,
        )
        names = () if term.reads is None else (evidence.layers[term.reads].name,)
        return Found(names, 1.0, 0.0, text, _("Give it the logits, from which the probabilities are computed."))
    return None


def no_distribution(evidence: Evidence) -> Found | None:
    """Targets of `kl_div` of either sign, which are neither probabilities nor logarithms."""
    for c in evidence.latest.comparisons:
        if c.function == "kl_div" and c.low < 0 < c.high:
            text = _(
                "kl_div expects probabilities as targets and got numbers from {low} to {high}.",
                low=number(c.low), high=number(c.high),
            )  # fmt: skip
            names = () if c.reads is None else (evidence.layers[c.reads].name,)
            remedy = _("Apply a softmax to the targets, or give log-probabilities and log_target=True.")
            return Found(names, 1.0, 0.0, text, remedy, Severity.ERROR)
    return None


def negative_divergence(evidence: Evidence) -> Found | None:
    """A divergence of distributions, or a negative logarithm of a probability, that is below 0."""
    for term in evidence.latest.terms:
        if term.function in ("kl_div", "nll_loss") and term.value < -ROUNDING:
            text = _(
                "{function} is {value}, and can be negative only if it got something else than the logarithms of "
                "probabilities.",
                function=term.function, value=number(term.value),
            )  # fmt: skip
            names = () if term.reads is None else (evidence.layers[term.reads].name,)
            return Found(names, term.value, -ROUNDING, text, _("Give it `log_softmax(...)` or the log of its input."))
    return None


def unscaled_cosines(evidence: Evidence) -> Found | None:
    """Cosines as logits of a cross-entropy, which are too close together for a certain answer."""
    for term in evidence.latest.terms:
        least = math.log1p((term.cosines - 1) * math.exp(-2)) if term.cosines > 1 else 0.0
        if term.cosines > 1 and least > LEAST_SHARE * math.log(term.cosines):
            text = _(
                "{function} takes {count} cosines for logits, which are from -1 to 1: it cannot fall below {least}.",
                function=term.function, count=term.cosines, least=number(least),
            )  # fmt: skip
            names = () if term.reads is None else (evidence.layers[term.reads].name,)
            remedy = _("Multiply the cosines by a scale of 10 to 30, or divide them by a temperature below 0.1.")
            return Found(names, least / math.log(term.cosines), LEAST_SHARE, text, remedy)
    return None
