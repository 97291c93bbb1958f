"""Outputs depend on other samples, or on the tokens that they have to predict."""

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found, rule
from unstuck.wording import named

SEPARATE = (
    "Check dimensions: `batch_first=True` in attention and recurrent layers, positions added along the sequence, "
    "transpose instead of view, a softmax over the last dimension. Nothing to do if the samples are the steps of one "
    "sequence, or one set."
)
TRANSPOSE = "Use `transpose` or `permute`, which move the numbers, in place of `view` or `reshape`."
OVER_FEATURES = "Use `dim=-1`."
TIME_FIRST = "Nothing to do if dimension 0 of the inputs counts time steps; else set `batch_first=True`."
MASK = "Give the attention a causal mask (`is_causal=True`); a choice among all tokens (top-k) sees later ones, too."
SHIFT = "Let the target at each position be the next token: `inputs[:, :-1]` and `inputs[:, 1:]`."


@rule("US506", "samples are mixed", remedy=SEPARATE, mistake=True)
def mixed_samples(evidence: Evidence) -> Found | None:
    """The answer for a sample changes with the company that it is in: training and use are not the same."""
    latest = evidence.latest
    over_samples = [
        x.name for x in latest.layers if x.softmax_dim == 0 and len(x.shape) > 1 and x.shape[0] == latest.samples > 1
    ]
    if over_samples:
        text = _(
            "{name} is a softmax over dimension 0, which counts the samples: its outputs for one sample depend on all "
            "others.",
            name=named(over_samples[0]),
        )
        return Found(tuple(over_samples), 1.0, 0.0, text, OVER_FEATURES)
    if latest.swaps:
        first = latest.swaps[0]
        text = _(
            "{name} reads a view of {before} as {after}: the numbers stay in their order, so that the axes are mixed.",
            name=named(first.layer), before=list(first.before), after=list(first.after),
        )  # fmt: skip
        return Found(tuple(swap.layer for swap in latest.swaps), len(latest.swaps), 0.0, text, TRANSPOSE)
    if latest.dependence is None or not latest.dependence.samples:
        return None
    text = _(
        "The output for a sample changes with the other samples of the batch or its place among them, in evaluation "
        "mode, too."
    )
    if latest.dependence.positions is False:
        return Found((), 1.0, 0.0, text, TIME_FIRST, Severity.NOTE)
    return Found((), 1.0, 0.0, text)


@rule("US606", "targets are visible", severity=Severity.ERROR, remedy=MASK, hidden_by=("US506",), mistake=True)
def visible_targets(evidence: Evidence) -> Found | None:
    """The network copies what it should predict: the loss falls to 0, and the generated text is useless."""
    found = evidence.latest.dependence
    if found is None:
        return None
    if found.shift == 1 and found.later:
        text = _(
            "The targets are the next tokens of the inputs, and outputs depend on later tokens: the model sees what it "
            "has to predict."
        )
        return Found((), 1.0, 0.0, text)
    if found.copies:
        text = _(
            "The targets are the tokens of the inputs at the same positions, and outputs depend on earlier tokens "
            "only: the model copies its input."
        )
        return Found((), 1.0, 0.0, text, SHIFT)
    return None
