"""Outputs depend on other samples, on no order, or on the tokens that they have to predict."""

from sigmoidcore._language import _
from sigmoidcore.diagnosis.findings import Severity
from sigmoidcore.diagnosis.rules.evidence import Evidence
from sigmoidcore.diagnosis.rules.rule import Found
from sigmoidcore.diagnosis.wording import named

SEPARATE = (
    "Check dimensions: `batch_first=True` in attention and recurrent layers, transpose instead of view, a softmax over "
    "the last dimension."
)
TRANSPOSE = "Use `transpose` or `permute`, which move the numbers, in place of `view` or `reshape`."
OVER_FEATURES = "Use `dim=-1`."
TIME_FIRST = "Nothing to do if dimension 0 of the inputs counts time steps; else set `batch_first=True`."
ADD_POSITIONS = "Add an encoding or embedding of the positions to the inputs of the first attention."
MASK = "Give the attention a causal mask (`is_causal=True`)."
SHIFT = "Let the target at each position be the next token: `inputs[:, :-1]` and `inputs[:, 1:]`."


def mixed_samples(evidence: Evidence) -> Found | None:
    """The answer for a sample changes with the company that it is in: training and use are not the same.

    `diagnose` runs the model in evaluation mode on a sample beside two different sets of others, with the same random
    numbers. The rule applies if the output of the sample changes. It is a note if outputs have positions that do not
    depend on each other: the model may have time in dimension 0 on purpose. A softmax over the samples, which is not
    attention and not a gate, is named in a `Monitor`, too, and so is a layer that reads a view or reshape to the same
    sizes in another order: samples, steps or features are mixed with each other.

    *Source.* Arithmetic. Karpathy's "A recipe for training neural networks" (2019) recommends the same test by
    gradients.
    """
    latest = evidence.latest
    over_samples = [
        x.name
        for x in latest.layers
        if x.softmax_dim == 0 and not x.gate and len(x.shape) > 1 and x.shape[0] == latest.samples > 1
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
    if latest.quantized:
        return None  # their scale is that of the batch
    found = latest.dependence
    if found is None or not found.samples:
        return None
    text = _("The output for a sample changes when the other samples of the batch change, in evaluation mode, too.")
    if found.positions is False:
        return Found((), 1.0, 0.0, text, TIME_FIRST, Severity.NOTE)
    return Found((), 1.0, 0.0, text)


def no_order(evidence: Evidence) -> Found | None:
    """The network sees a set, not a sequence: attention by itself does not know the order of what it reads.

    `diagnose` reorders the positions of the inputs, but for the first and the last. The rule applies to models with
    attention whose outputs stay the same, or are reordered in the same way, up to rounding. It is a note:
    sets, such as points, objects or the words of a text, may do without an order.

    *Source.* Vaswani et al. (2017, arXiv 1706.03762), section 3.5.
    """
    found = evidence.latest.dependence
    if found is None or found.ordered is not False:
        return None
    text = _("The order of the positions has no effect on the outputs: attention does not know positions.")
    return Found((), 0.0, 0.0, text)


def visible_targets(evidence: Evidence) -> Found | None:
    """The network copies what it should predict: the loss falls to 0, and the generated text is useless.

    The rule compares tokens of the inputs with targets that are whole numbers. It applies if the target at a position
    is the next token, and outputs depend on later positions; or if it is the token at the position itself, and outputs
    do not depend on later positions, as in a model that has to predict the next one.

    *Source.* Arithmetic: the answer is a part of the input.
    """
    found = evidence.latest.dependence
    if found is None or found.later is None:
        return None
    if found.shift == 1 and found.later:
        text = _(
            "The targets are the next tokens of the inputs, and outputs depend on later tokens: the model sees what it "
            "has to predict."
        )
        return Found((), 1.0, 0.0, text)
    if found.shift == 0 and not found.later:
        text = _(
            "The targets are the tokens of the inputs at the same positions, and outputs depend on earlier tokens "
            "only: the model copies its input."
        )
        return Found((), 1.0, 0.0, text, SHIFT)
    return None
