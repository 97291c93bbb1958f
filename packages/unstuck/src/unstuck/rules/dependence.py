"""Outputs depend on other samples, or on the tokens that they have to predict."""

from collections.abc import Iterable

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure.calls import CLASS_LOSSES
from unstuck.measure.measurement import Layer
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found
from unstuck.wording import named

SEPARATE = (
    "Check dimensions: `batch_first=True` in attention and recurrent layers, positions added along the sequence, "
    "transpose instead of view, a softmax over the last dimension. Nothing to do if the samples are the steps of one "
    "sequence, or one set."
)
TRANSPOSE = "Use `transpose` or `permute`, which move the numbers, in place of `view` or `reshape`."
OVER_FEATURES = "Use `dim=-1`."
OVER_CLASSES = "Normalise over the dimension of the classes, or give the logits to cross_entropy."
OVER_SEVERAL = "Normalise over the dimension from which it chooses, such as the time steps."
TIME_FIRST = "Nothing to do if dimension 0 of the inputs counts time steps; else set `batch_first=True`."
MASK = "Give the attention a causal mask (`is_causal=True`); a choice among all tokens (top-k) sees later ones, too."
SHIFT = "Let the target at each position be the next token: `inputs[:, :-1]` and `inputs[:, 1:]`."


def mixed_samples(evidence: Evidence) -> Found | None:
    """The answer for a sample changes with the company that it is in: training and use are not the same."""
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
    if found := _over_queries(latest.layers) or _over_one(evidence) or _over_positions(evidence):
        return found
    if latest.swaps:
        first = latest.swaps[0]
        text = _(
            "{name} reads a view of {before} as {after}: the numbers stay in their order, so that the axes are mixed.",
            name=named(first.layer), before=list(first.before), after=list(first.after),
        )  # fmt: skip
        return Found(tuple(swap.layer for swap in latest.swaps), len(latest.swaps), 0.0, text, TRANSPOSE)
    if latest.quantized:
        return None  # their scale is that of the batch
    depends = latest.dependence
    if depends is None or not depends.samples:
        return None
    text = _("The output for a sample changes when the other samples of the batch change, in evaluation mode, too.")
    if depends.place:
        text = _("The output for a sample depends on its place in the batch, in evaluation mode, too.")
    if depends.positions is False:
        return Found((), 1.0, 0.0, text, TIME_FIRST, Severity.NOTE)
    return Found((), 1.0, 0.0, text)


def _over_queries(layers: Iterable[Layer]) -> Found | None:
    found = [x for x in layers if x.role == "attention" and x.softmax_dim is not None]
    if not found:
        return None
    values = {"name": named(found[0].name)}
    if found[0].softmax_dim == len(found[0].shape) - 3:
        text = _("{name} normalises over the heads: the weights of the keys of a query do not add up to 1.", **values)
    else:
        text = _("{name} normalises over the queries: the weights of the keys of a query do not add up to 1.", **values)
    return Found(tuple(x.name for x in found), 1.0, 0.0, text, OVER_FEATURES)


def _over_one(evidence: Evidence) -> Found | None:
    """A softmax of single numbers, which is always 1, inside the network: what it reads learns nothing."""
    for layer in (x for i, x in enumerate(evidence.layers) if evidence.feeds_weights[i] or x.gate):
        alone = layer.softmax_dim is not None and layer.shape[layer.softmax_dim] == 1
        sources = [evidence.layers[i] for i in layer.sources] if alone else []
        several = any(size > 1 for dim, size in enumerate(layer.shape) if dim not in (0, layer.softmax_dim))
        chosen = several or not layer.gate  # a single expert has nothing to choose
        if chosen and any(source.role == "weights" and source.gradient == 0 for source in sources):
            text = _("{name} normalises over a dimension of size 1: it is always 1, and {source} learns nothing.",
                     name=named(layer.name), source=named(sources[0].name))  # fmt: skip
            return Found((layer.name,), 1.0, 0.0, text, OVER_SEVERAL, Severity.ERROR)
    return None


def _over_positions(evidence: Evidence) -> Found | None:
    """The softmax of a classification that normalises over samples or positions: the classes do not compete."""
    if evidence.latest.loss_function not in (*CLASS_LOSSES, "ctc_loss"):
        return None
    if (over := evidence.latest.classes_over) is not None:
        text = _("The log_softmax before nll_loss normalises over dimension {dim}, which does not count the classes.",
                 dim=over)  # fmt: skip
        return Found((), 1.0, 0.0, text, OVER_CLASSES)
    ends = (x for i, x in enumerate(evidence.layers) if x.role == "weights" and not evidence.feeds_weights[i])
    for layer in ends:
        if layer.read_over is not None:
            text = _(
                "The {kind} of {name} normalises over dimension {dim}, which does not count the classes.",
                kind=layer.read_by, name=named(layer.name), dim=layer.read_over,
            )  # fmt: skip
            return Found((layer.name,), 1.0, 0.0, text, OVER_CLASSES)
    return None


def visible_targets(evidence: Evidence) -> Found | None:
    """The network copies what it should predict: the loss falls to 0, and the generated text is useless."""
    found = evidence.latest.dependence
    if found is None or found.later is None:
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
