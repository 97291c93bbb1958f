"""What the optimizer does with the gradients: nothing, too late, twice, or for other parameters."""

import math
from collections import Counter
from itertools import takewhile
from statistics import median

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure.measurement import Measurement, Weight
from unstuck.rules.evidence import FEWEST_MEASUREMENTS, PATIENT_MEASUREMENTS, Evidence
from unstuck.rules.rule import Found, rule
from unstuck.wording import counted, listed, number, verb

UNUSED_PASSES = 3
"""Backward passes without a step from which on the training is judged."""
DISCARDED_PASSES = 2
"""Discarded passes of each step; a single one may have looked ahead (SAM)."""
STRONG_DECAY, MODERATE_DECAY, FAST_DECAY = 2.0, 0.5, 0.01
FEW_PARAMETERS = 4
"""Parameters of a loss, at most, if they may be trained; a pretrained network that compares features has more."""
REPLACED_OPTIMIZERS, STEPS_OF_MEMORY = 3, 20
"""Steps that an optimizer makes at least: twice as many as its average of gradients spans, 1 / (1 - 0.9)."""

ADD = (
    "Make the optimizer from `model.parameters()` after all layers exist and call its `step()`, or set requires_grad "
    "to False."
)
STEP = "Call `optimizer.step()` after `loss.backward()`."
CLEAR = "Call `optimizer.zero_grad()` once for each step, before `loss.backward()`."
DETACH_OTHERS = (
    "Call `detach()` on what the other network reads (`critic(fake.detach())`), or empty the gradients before."
)
CLEAR_LATER = "Call `optimizer.zero_grad()` after `optimizer.step()`, not before the last of several backward passes."
LESS_DECAY = "Lower the weight decay: 1e-4 for SGD and 1e-2 for AdamW are usual."
ADD_LOSS = "Give the optimizer the parameters of the loss, too: `[*model.parameters(), *loss.parameters()]`."
KEEP = "Make the optimizer once, before the loop over the epochs."


@rule("US303", "parameters in no optimizer", remedy=ADD, mistake=True)
def unheld(evidence: Evidence) -> Found | None:
    """The gradient of these parameters is computed, and nobody uses it: they stay as they were initialised."""
    latest = evidence.latest
    if latest.unused >= UNUSED_PASSES and latest.foreign_steps:
        text = _(
            "An optimizer made {steps}, but it holds no parameter of this model: was the model built again, or copied, "
            "after the optimizer?",
            steps=counted(latest.foreign_steps, "step"),
        )
        return Found((), latest.foreign_steps, 0, text, severity=Severity.ERROR)
    history = _history(evidence)
    if not any(w.rate is not None for weights in history.values() for w in weights):
        return None
    names = [name for name, weights in history.items() if _unheld(weights, name in latest.renewed)]
    if not any(weight.gradient for name in names for weight in history[name]):
        return _unheld_in_loss(evidence)
    text = _(
        "{names} {verb} a gradient, but no optimizer that makes steps holds {pronoun}.",
        names=listed(names, tuple(history), "parameter"), verb=verb(names, "has", "have"),
        pronoun=verb(names, "it", "them"),
    )  # fmt: skip
    return Found(tuple(names), len(names), 0, text)


@rule("US304", "no optimizer step", severity=Severity.ERROR, remedy=STEP, hidden_by=("US401", "US501"), mistake=True)
def no_step(evidence: Evidence) -> Found | None:
    """Gradients are computed and no optimizer uses them: nothing is trained."""
    latest = evidence.latest
    if latest.unused < UNUSED_PASSES or latest.foreign_steps:
        return None
    text = _("{count} backward passes computed gradients, and no optimizer made a step.", count=f"{latest.unused:,}")
    return Found((), latest.unused, UNUSED_PASSES, text)


@rule("US305", "gradients are not cleared", remedy=CLEAR, mistake=True)
def uncleared(evidence: Evidence) -> Found | None:
    """Each step follows the sum of all gradients since the start: an endless momentum, which ends in oscillation."""
    if evidence.latest.mixed and sum(m.mixed for m in evidence.measurements) >= FEWEST_MEASUREMENTS:
        text = _("At the step, the gradients hold those of another loss, which another optimizer has used before.")
        return Found((), 1.0, 0.0, text, DETACH_OTHERS)
    every = [_uncleared(m) for m in evidence.measurements]
    if sum(map(bool, every)) < FEWEST_MEASUREMENTS or not every[-1]:
        return None
    text = _(
        "The gradients of {names} are not emptied between the steps: every step follows the sum of all earlier ones.",
        names=listed(every[-1], [w.name for w in evidence.latest.weights], "parameter"),
    )
    return Found(every[-1], len(every[-1]), 0, text)


@rule("US306", "gradients are cleared too early", remedy=CLEAR_LATER, mistake=True)
def discarded(evidence: Evidence) -> Found | None:
    """Backward passes are computed for nothing: their gradients are emptied before the step."""
    steps = evidence.measurements
    left = [[w.taken for w in m.weights if w.taken is not None] for m in steps]
    if len(steps) >= FEWEST_MEASUREMENTS and all(shares and not any(shares) for shares in left):
        text = _("The gradients of every backward pass are empty at the step of the optimizer: nothing moves.")
        return Found((), 1.0, 0.0, text, CLEAR, Severity.ERROR)
    wasted = min((m.discarded for m in steps[1:]), default=0)
    if len(steps) < FEWEST_MEASUREMENTS or wasted < DISCARDED_PASSES or any(m.foreign_steps for m in steps):
        return None
    text = _(
        "Before each step, the gradients of {count} forward passes were emptied: only the last ones count.",
        count=f"{wasted:,}",
    )
    return Found((), wasted, DISCARDED_PASSES, text)


@rule("US307", "weight decay too strong", remedy=LESS_DECAY, hidden_by=("US401", "US502", "US609"), signal=True)
def strong_decay(evidence: Evidence) -> Found | None:
    """The weights shrink towards 0 faster than the gradient can build them up."""
    history = {name: w for name, w in _history(evidence).items() if len(w[0].shape) > 1 and w[-1].trains}
    pulls = {name: median(w.decay or 0.0 for w in weights) for name, weights in history.items()}
    fast = {n for n in pulls if pulls[n] > MODERATE_DECAY and median(map(_decayed, history[n])) > FAST_DECAY}
    strong = (n for n in pulls if pulls[n] > STRONG_DECAY or n in fast)
    found = sorted((n for n in strong if history[n][-1].size <= history[n][0].size), key=lambda n: -pulls[n])
    if not found or 2 * len(found) < len(pulls) or len(evidence.measurements) < PATIENT_MEASUREMENTS:
        return None
    text = _(
        "The weight decay of {names} is up to {times} times as strong as the gradient: the weights shrink to 0.",
        names=listed(found, tuple(pulls), "weight"), times=number(pulls[found[0]]),
    )  # fmt: skip
    limit = STRONG_DECAY if pulls[found[0]] > STRONG_DECAY else MODERATE_DECAY
    return Found(tuple(found), pulls[found[0]], limit, text)


def _decayed(weight: Weight) -> float:
    """The share of a weight that the decay takes in a step, from its part of the update."""
    pull = weight.decay or 0.0
    return (weight.update or 0.0) * pull / math.hypot(1.0, pull)


@rule("US308", "optimizer made again", remedy=KEEP)
def replaced(evidence: Evidence) -> Found | None:
    """A new optimizer has no averages of gradients yet: its first steps are large and noisy, again and again."""
    gone, step = evidence.latest.replaced, evidence.latest.step or 0
    if gone < REPLACED_OPTIMIZERS or step > STEPS_OF_MEMORY * gone:
        return None
    text = _(
        "{count} optimizers were made and dropped in {steps} steps: each one starts without averages of gradients.",
        count=gone, steps=step,
    )  # fmt: skip
    return Found((), gone, REPLACED_OPTIMIZERS, text)


def _history(evidence: Evidence) -> dict[str, list[Weight]]:
    """The weights in all measurements of steps, by name; empty with fewer than `FEWEST_MEASUREMENTS`."""
    steps = [m for m in evidence.measurements if m.step is not None]
    found: dict[str, list[Weight]] = {}
    for weight in (weight for m in steps for weight in m.weights if len(steps) >= FEWEST_MEASUREMENTS):
        found.setdefault(weight.name, []).append(weight)
    return found


def _unheld(weights: list[Weight], renewed: bool) -> bool:
    """Whether a parameter has a gradient and nothing moves it; or nothing does any more, since it is another one."""
    last = list(takewhile(lambda w: w.rate is None, reversed(weights))) if renewed else weights
    fixed = len({w.size for w in last}) == 1 and all(w.rate is None for w in last)
    enough = not renewed or len(last) >= FEWEST_MEASUREMENTS
    return fixed and enough and weights[-1].trains and any(w.gradient is not None for w in last)


def _unheld_in_loss(evidence: Evidence) -> Found | None:
    """Parameters of the loss that nobody moves."""
    history = [{w.name: w.size for w in m.loss_weights} for m in evidence.measurements]
    fixed = [w for w in evidence.latest.loss_weights if all(own.get(w.name, w.size) == w.size for own in history)]
    names = tuple(w.name for w in fixed if w.gradient)
    own = Counter(w.shape for w in evidence.latest.weights)
    copied = len(names) > FEW_PARAMETERS and Counter(w.shape for w in fixed) <= own  # a reference that is a copy
    if not names or copied or (len(names) > FEW_PARAMETERS and not any(w.fresh for w in fixed)):
        return None
    text = _(
        "The loss has parameters that get a gradient, and no optimizer holds them ({names}): they stay as they were "
        "initialised.",
        names=listed(names),
    )  # fmt: skip
    return Found(names, len(names), 0, text, ADD_LOSS)


def _uncleared(measurement: Measurement) -> tuple[str, ...]:
    """Names of the parameters whose gradients were not emptied, if they are most of those that move."""
    moving = [w for w in measurement.weights if w.update is not None or w.uncleared]  # a move by hand has no update
    # Parameters outside of layers, and what a custom function hides, may get their gradients before the first layer.
    seen = {name for layer in measurement.weighted if layer.gradient is not None for name in layer.weights}
    judged = [w.uncleared for w in moving if w.name in seen]
    return tuple(w.name for w in moving if w.uncleared) if 2 * sum(judged) >= max(1, len(judged)) else ()
