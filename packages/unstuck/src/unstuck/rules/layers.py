"""Layers that are frozen, linear after linear, or dropped."""

import math

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure.measurement import Layer
from unstuck.measure.parameters import FEW_NUMBERS
from unstuck.rules.copies import teacher_dropout
from unstuck.rules.evidence import Evidence, is_zero
from unstuck.rules.rule import Found, rule, shown
from unstuck.rules.standstill import falling, untaught
from unstuck.rules.tokens import Tokens, tokens
from unstuck.wording import listed, named, percent, verb

STRONG_DROPOUT, LEAST_SIGNAL, REVERSED_DROPOUT = 0.5, 0.1, 0.9
DRAWN = ("linear", "conv1d", "conv2d", "conv3d")
"""Layers whose default initialisation is known."""
FEW_FROZEN = 0.25
"""Frozen weights that are a smaller share of all are no base, and hardly on purpose as they were drawn."""
LINEAR_ON_PURPOSE = 10

UNFREEZE = "Set requires_grad to True for these parameters, and give them to the optimizer."
TRAIN_HEAD = (
    "Set requires_grad to True for the head and give it to the optimizer; with PEFT, name it in `modules_to_save`, so "
    "that it is trained and saved."
)
TRAIN_ROWS = (
    "Train the embedding: with PEFT, `modules_to_save=['embed_tokens', 'lm_head']` or `trainable_token_indices`."
)
AS_MEANT = "Nothing to do if that is meant, as for a pretrained part."
LOAD = "Load pretrained weights (`from_pretrained`, not `from_config`); nothing to do if a random base is meant."
UNFREEZE_ALL = "Set requires_grad to True before the optimizer is made; with PEFT, load with `is_trainable=True`."
ACTIVATE = "Put an activation (ReLU, GELU, tanh) between them, or remove one of them."
TEACHER_MODE = "Call `teacher.eval()` (or that of the reference) once, also after `student.train()`."
PASS_MODE = "Give the call the mode: `training=self.training`, or `dropout_p=p if self.training else 0.0`."
DROP_LESS = "Use 0.1 to 0.5: the argument is the share that is dropped, not the share that is kept."


@rule("US505", "frozen weights", remedy=UNFREEZE)
def frozen(evidence: Evidence) -> Found | None:
    """Frozen weights do not learn. Those of a pretrained part need not; those of a new layer have to."""
    latest = evidence.latest
    fixed = [w for w in latest.weights if not w.trains and len(w.shape) > 1]
    if not fixed:
        return None
    if not any(w.trains for w in latest.weights):
        text = _("All {count} parameters are frozen: nothing trains.", count=len(latest.weights))
        return Found(tuple(w.name for w in fixed), 1.0, 0, text, UNFREEZE_ALL)
    # Weights behind trained ones pass a gradient on; those of a teacher feed no layer that trains.
    behind = {name for x in latest.layers if x.gradient is not None for name in x.weights}
    before = {name for i, x in enumerate(evidence.layers) if evidence.feeds_live[i] for name in x.weights}
    fresh = tuple(w.name for w in fixed if w.fresh and w.name in before - behind)
    alike = {name for x in latest.layers if x.plain_kind in DRAWN for name in x.weights}  # those drawn in one way
    known = {w.fresh for w in fixed if w.name in alike and (w.fresh or math.prod(w.shape) >= FEW_NUMBERS)}
    if fresh and len(known) > 1:
        verbs = {"verb": verb(fresh, "is", "are")}
        text = _("{names} {verb} frozen with random weights, as they were initialised.", names=listed(fresh), **verbs)
        return Found(fresh, len(fresh), 0, text)
    if found := _new_rows(evidence) or _frozen_head(evidence):
        return found
    share = sum(math.prod(w.shape) for w in fixed) / sum(math.prod(w.shape) for w in latest.weights)
    drawn = tuple(w.name for w in fixed if (w.fresh or w.normal) and w.name in before - behind)
    if drawn and share < FEW_FROZEN:
        text = _(
            "{names} {verb} frozen as an initialisation draws them, and what follows trains.",
            names=listed(drawn), verb=verb(drawn, "is", "are"),
        )  # fmt: skip
        return Found(drawn, share, FEW_FROZEN, text)
    parts = {w.name.rpartition(".")[0].rpartition(".")[0] for w in fixed if w.fresh}  # of an adapter: one is drawn
    zero = tuple(w.name for w in fixed if is_zero(w) and w.name.rpartition(".")[0].rpartition(".")[0] in parts)
    if zero:
        text = _("{names} {verb} frozen at 0.", names=listed(zero), verb=verb(zero, "is", "are"))
        return Found(zero, len(zero), 0, text)
    names = tuple(w.name for w in fixed)
    values = {"share": percent(share), "names": listed(names, [w.name for w in latest.weights])}
    text = _("{share} % of the parameters are frozen: {names}.", **values)
    drawn_too = [w.fresh or w.normal for w in fixed if math.prod(w.shape) >= FEW_NUMBERS]
    if 2 * sum(drawn_too) > len(drawn_too):
        severity = None if untaught(evidence) else Severity.NOTE
        return Found(names, share, 0, text + _(" Their numbers are random, as drawn."), LOAD, severity)
    return Found(names, share, 0, text, AS_MEANT, Severity.NOTE)


def _new_rows(evidence: Evidence) -> Found | None:
    """Rows of a frozen embedding that were added for new tokens."""
    new = (evidence.ask(tokens) or Tokens()).new_rows
    if not new:
        return None
    text = _(
        "The rows of the tokens {tokens} are nearly equal and frozen: the network cannot tell these tokens apart.",
        tokens=listed([str(token) for token in new]),
    )
    return shown(text, TRAIN_ROWS, value=len(new))


def _frozen_head(evidence: Evidence) -> Found | None:
    """A last layer as an initialisation draws it that is frozen, behind layers that train; not that of words."""
    words = {
        evidence.weights[name].shape[0] for x in evidence.layers if x.plain_kind == "embedding" for name in x.weights
    }
    own = [evidence.weights[name] for i in evidence.sinks for name in evidence.layers[i].weights]
    drawn = [w for w in own if len(w.shape) > 1 and (w.fresh or w.normal or is_zero(w)) and w.shape[0] not in words]
    if not drawn or any(w.trains for w in own) or not any(w.trains and w.gradient for w in evidence.latest.weights):
        return None
    names = tuple(w.name for w in drawn)
    text = _(
        "The last layer, {names}, is frozen as an initialisation draws it, and layers before it train.",
        names=listed(names),
    )
    return Found(names, len(names), 0, text, TRAIN_HEAD)


@rule("US507", "no activation in between", remedy=ACTIVATE, mistake=True, signal=True)
def no_activation(evidence: Evidence) -> Found | None:
    """Two linear layers in a row are one linear layer."""
    found = []
    for i, layer in enumerate(evidence.layers):
        if layer.reads is None or layer.gradient is None or evidence.consumers[layer.reads] != (i,):
            continue  # one without a gradient follows another network, as an average
        before = evidence.layers[layer.reads]
        shapes = [evidence.weights[x.weights[0]].shape for x in (before, layer) if x.weights]
        linear = before.plain_kind == layer.plain_kind == "linear" and [*map(len, shapes)] == [2, 2]
        if linear and not before.in_loss:
            (between, first), (last, second) = shapes
            factors = between < first and not (_has_bias(evidence, before) and _has_bias(evidence, layer))
            if between == second >= min(first, last) and not factors:
                found += [before.name, layer.name]
    if not found:
        return None
    text = _(
        "Nothing is between {first} and {second}: two linear layers in a row are a single one.",
        first=named(found[0]), second=named(found[1]),
    )  # fmt: skip
    experiment = all(x.role == "weights" for x in evidence.layers) and len(evidence.layers) >= LINEAR_ON_PURPOSE
    names = dict.fromkeys(name.partition("@")[0] for name in found)  # the same in each pass
    parents = [name.split(".")[:-1] for name in names]
    # What is between an encoder and a head is used by itself.
    heads = len(names) == 2 and any(one != other for one, other in zip(*parents, strict=False))
    severity = Severity.NOTE if experiment or heads else None
    return Found(tuple(dict.fromkeys(found)), len(found) // 2, 0, text, severity=severity)


def _has_bias(evidence: Evidence, layer: Layer) -> bool:
    return layer.weights[0].removesuffix("weight") + "bias" in evidence.weights


@rule("US510", "dropout too strong", remedy=DROP_LESS)
def dropout(evidence: Evidence) -> Found | None:
    """So little of the signal is left that the network cannot learn from it."""
    latest = evidence.latest
    if share := evidence.ask(teacher_dropout):
        text = _(
            "A dropout of {share} % is on in a network that does not train, and whose outputs are targets of the loss.",
            share=percent(share),
        )
        return Found((), share, 0.0, text, TEACHER_MODE)
    if latest.evaluating and latest.dropouts:
        worst = max(latest.dropouts)
        text = _("A dropout of {share} % runs in evaluation mode, too: the network is used with a part of its signal.",
                 share=percent(worst))  # fmt: skip
        return Found((), worst, 0.0, text, PASS_MODE)
    strong = [share for share in latest.dropouts if share > STRONG_DROPOUT]
    left = math.prod(1 - share for share in strong)
    if left > LEAST_SIGNAL + 1e-9:
        return None
    text = _(
        "Dropout of up to {share} % runs {count} times and leaves {left} % of the paths.",
        share=percent(max(strong)), count=len(strong), left=percent(left),
    )  # fmt: skip
    meant = max(strong) < REVERSED_DROPOUT and falling(evidence)  # networks of graphs learn with 0.6 in each layer
    return Found((), max(strong), STRONG_DROPOUT, text, severity=Severity.NOTE if meant else None)
