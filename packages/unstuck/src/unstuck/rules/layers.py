"""Layers that are frozen, linear after linear, normalised by too little, or dropped."""

import math

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure.measurement import BatchNorm, Layer, Measurement
from unstuck.measure.parameters import FEW_NUMBERS
from unstuck.rules.evidence import FEWEST_MEASUREMENTS, Evidence, by_name
from unstuck.rules.rule import Found
from unstuck.rules.standstill import falls
from unstuck.rules.structure import copies_of_trained, moved
from unstuck.wording import listed, named, number, percent, verb

STRONG_DROPOUT, LEAST_SIGNAL, REVERSED_DROPOUT = 0.5, 0.1, 0.9
LARGEST_DRIFT, LARGEST_DRIFT_OF_ONE, STEPS_TO_SETTLE = 1.0, 0.2, 20
LINEAR_ON_PURPOSE = 10

UNFREEZE = "Set requires_grad to True for these parameters, and give them to the optimizer."
AS_MEANT = "Nothing to do if that is meant, as for a pretrained part."
ACTIVATE = "Put an activation (ReLU, GELU, tanh) between them, or remove one of them."
NORMALISE = "Use GroupNorm or LayerNorm, which do not depend on the batch, or one normalisation for each place."
UPDATE = "Use PyTorch's default, 0.1: momentum is the share of the new batch, not of the old statistics."
TRAIN_MODE = "Call `model.train()` before the steps, also after each evaluation."
PASS_MODE = "Give the call the mode: `training=self.training`, or `dropout_p=p if self.training else 0.0`."
DROP_LESS = "Use 0.1 to 0.5: the argument is the share that is dropped, not the share that is kept."


def frozen(evidence: Evidence) -> Found | None:
    """Frozen weights do not learn. Those of a pretrained part need not; those of a new layer have to."""
    latest = evidence.latest
    fixed = [w for w in latest.weights if not w.trains and len(w.shape) > 1]
    if not fixed:
        return None
    history = by_name(evidence.measurements)
    held = [w for w in latest.weights if w.rate is not None]
    long = len(evidence.measurements) >= FEWEST_MEASUREMENTS
    still = not any(w.trains or w.gradient or w.update for name in {w.name for w in held} for w in history[name])
    if held and long and still:
        names = tuple(w.name for w in held)
        text = _("All parameters that the optimizer holds are frozen: {names}.", names=listed(names))
        return Found(names, len(names), 0, text, severity=Severity.ERROR)
    fed = {name for x in latest.layers if x.gradient is not None for name in x.weights}
    first = {name for i, x in enumerate(evidence.layers) if evidence.feeds_live[i] for name in x.weights}
    aside = _of_a_teacher(evidence, first) | moved(evidence)
    fresh = tuple(w.name for w in fixed if w.fresh and w.name not in fed and w.name not in aside)
    known = {w.fresh for w in fixed if w.fresh or math.prod(w.shape) >= FEW_NUMBERS}
    if fresh and len(known) > 1 and any(w.trains for w in latest.weights):
        verbs = {"verb": verb(fresh, "is", "are")}
        text = _("{names} {verb} frozen with random weights, as they were initialised.", names=listed(fresh), **verbs)
        return Found(fresh, len(fresh), 0, text)
    names = tuple(w.name for w in fixed)
    share = sum(math.prod(w.shape) for w in fixed) / sum(math.prod(w.shape) for w in latest.weights)
    values = {"share": percent(share), "names": listed(names, [w.name for w in latest.weights])}
    text = _("{share} % of the parameters are frozen: {names}.", **values)
    return Found(names, share, 0, text, AS_MEANT, Severity.NOTE)


def _of_a_teacher(evidence: Evidence, read: set[str]) -> set[str]:
    """Frozen weights that no trained layer reads: of a part built like one that trains, beside it, or copies of one."""
    start = evidence.measurements[0].weights
    trained = {(w.shape, f"{w.size:.6e}") for w in start if w.trains}
    frozen = {w.name for w in evidence.latest.weights if not w.trains}
    if copies_of_trained(evidence, list(frozen)) - read:
        return frozen - read
    return {w.name for w in start if w.name in frozen - read and (w.shape, f"{w.size:.6e}") in trained}


def no_activation(evidence: Evidence) -> Found | None:
    """Two linear layers in a row are one linear layer."""
    found = []
    for i, layer in enumerate(evidence.layers):
        if layer.reads is None or evidence.consumers[layer.reads] != (i,):
            continue
        before = evidence.layers[layer.reads]
        shapes = [evidence.weights[x.weights[0]].shape for x in (before, layer) if x.weights]
        linear = all(x.plain_kind in ("linear", "addmm") for x in (before, layer))
        if len(shapes) == 2 and not before.in_loss and (linear or _convolved(before, layer, *shapes)):
            (between, first), (last, second) = shapes[0][:2], shapes[1][:2]
            narrower, ends = between < first, not evidence.feeds_weights[i]
            factors = narrower and (not _has_bias(evidence, before) or (ends and not _has_bias(evidence, layer)))
            if between == second >= min(first, last) and not (factors or before.disjoint):
                found += [before.name, layer.name]
    if not found:
        return None
    text = _(
        "Nothing is between {first} and {second}: two linear layers in a row are a single one.",
        first=named(found[0]), second=named(found[1]),
    )  # fmt: skip
    experiment = len(evidence.layers) >= LINEAR_ON_PURPOSE and all(x.role == "weights" for x in evidence.layers)
    severity = Severity.NOTE if experiment else None
    return Found(tuple(dict.fromkeys(found)), len(found) // 2, 0, text, severity=severity)


def _has_bias(evidence: Evidence, layer: Layer) -> bool:
    return layer.weights[0].removesuffix("weight") + "bias" in evidence.weights


def _convolved(before: Layer, layer: Layer, first: tuple[int, ...], second: tuple[int, ...]) -> bool:
    """Whether two convolutions in a row, whose weights have these shapes, do the same work twice.

    A parameter of fewer dimensions, from which a kernel is made, does not tell how wide the kernel is.
    """
    dimensions = {"conv1d": 3, "conv2d": 4, "conv3d": 5}.get(layer.plain_kind)
    if before.plain_kind != layer.plain_kind or not len(first) == len(second) == dimensions:
        return False
    return any(a > 1 and b > 1 for a, b in zip(first[2:], second[2:], strict=True))


def normalisation(evidence: Evidence) -> Found | None:
    """Training normalises by the batch, use by running statistics: the network is another one when it is used."""
    steps = [m for m in evidence.measurements if m.batch_norms]
    if found := _left_in_evaluation(evidence, {n.name for m in steps for n in m.batch_norms}):
        return found
    if len(steps) < FEWEST_MEASUREMENTS:
        return None
    norms = steps[-1].batch_norms
    asleep = tuple(dict.fromkeys(n.name for n in norms if n.fresh))
    if asleep and all(n.fresh for m in steps for n in m.batch_norms if n.name in asleep):
        text = _(
            "{names} {verb} in evaluation mode while the network trains: running statistics that have seen no data "
            "normalise nothing.",
            names=listed(asleep), verb=verb(asleep, "runs", "run"),
        )  # fmt: skip
        return Found(asleep, len(asleep), 0.0, text, TRAIN_MODE)
    norms = tuple(n for n in norms if not n.fresh)
    if not norms:
        return None
    fixed = tuple(dict.fromkeys(n.name for n in norms if n.momentum == 0))
    if fixed:
        text = _("The momentum of {names} is 0: running statistics stay as they were initialised.", names=listed(fixed))
        return Found(fixed, 0.0, 0.0, text, UPDATE)
    return _running_statistics(steps, norms)


def _running_statistics(steps: list[Measurement], norms: tuple[BatchNorm, ...]) -> Found | None:
    """Statistics that are not those of the batches."""
    if all(n.samples == 1 for m in steps for n in m.batch_norms):
        late = [m for m in steps[len(steps) // 2 :] if (m.step or 0) >= STEPS_TO_SETTLE]
        settled = [n.drift for m in late for n in m.batch_norms]
        severity = Severity.NOTE if settled and max(settled) < LARGEST_DRIFT_OF_ONE else None
        names = tuple(dict.fromkeys(n.name for n in norms))
        text = _(
            "{names} {verb} batches of a single sample: in use, running statistics of all samples replace its own.",
            names=listed(names), verb=verb(names, "normalises", "normalise"),
        )  # fmt: skip
        return Found(names, 1.0, 2.0, text, severity=severity)
    usual = max(n.samples for m in steps for n in m.batch_norms)
    far = [n for n in norms if n.drift > LARGEST_DRIFT and 2 * n.samples >= usual]  # the last batch may be small
    if not far or (steps[-1].step or 0) < STEPS_TO_SETTLE:
        return None
    worst = max(far, key=lambda n: n.drift)
    text = _(
        "The running mean of {name} is {count} standard deviations from that of the batch.",
        name=named(worst.name), count=number(math.sqrt(worst.drift)),
    )  # fmt: skip
    return Found(tuple(dict.fromkeys(n.name for n in far)), worst.drift, LARGEST_DRIFT, text)


def _left_in_evaluation(evidence: Evidence, trained: set[str]) -> Found | None:
    """The model was switched to evaluation mode, and the training went on."""
    last = evidence.measurements[-FEWEST_MEASUREMENTS:]
    resting = [name for name in evidence.latest.resting_norms if all(name in m.resting_norms for m in last)]
    names = [name for name in resting if name in trained]
    if len(last) < FEWEST_MEASUREMENTS or not names:
        return None
    since = next(m.step for m in evidence.measurements if names[0] in m.resting_norms)
    text = _(
        "The model has trained in evaluation mode since step {step}: {names} {verb} the running statistics of the "
        "steps before.",
        step=since, names=listed(names), verb=verb(names, "keeps", "keep"),
    )  # fmt: skip
    return Found(tuple(names), len(names), 0.0, text, TRAIN_MODE)


def dropout(evidence: Evidence) -> Found | None:
    """So little of the signal is left that the network cannot learn from it."""
    latest = evidence.latest
    if latest.evaluating and latest.dropouts:
        worst = max(latest.dropouts)
        text = _("A dropout of {share} % runs in evaluation mode, too: the network is used with a part of its signal.",
                 share=percent(worst))  # fmt: skip
        return Found((), worst, 0.0, text, PASS_MODE)
    strong = [share for share in evidence.latest.dropouts if share > STRONG_DROPOUT]
    left = math.prod(1 - share for share in strong)
    if not strong or left > LEAST_SIGNAL + 1e-9:
        return None
    worst = max(strong)
    text = _(
        "Dropout of up to {share} % runs {count} times and leaves {left} % of the paths.",
        share=percent(worst), count=len(strong), left=percent(left),
    )  # fmt: skip
    if worst < REVERSED_DROPOUT and falls(evidence):
        return Found((), worst, STRONG_DROPOUT, text + _(" The loss falls nevertheless."), severity=Severity.NOTE)
    return Found((), worst, STRONG_DROPOUT, text)
