"""The optimizer's steps are too small or too large for the weights."""

from collections.abc import Callable
from itertools import pairwise
from statistics import fmean, median

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure.measurement import Layer
from unstuck.rules import gradient, numbers
from unstuck.rules.evidence import FEWEST_MEASUREMENTS, Evidence, is_zero, usual_size
from unstuck.rules.rule import Found
from unstuck.rules.standstill import PATIENT_MEASUREMENTS, UNLEARNED_LOSS, fitted, unlearned
from unstuck.rules.units import DEAD_SHARE, DEAD_SHARE_NOTE, FEWEST_ROWS
from unstuck.wording import listed, named, number, percent, verb

ROUNDED_AWAY = 1.2e-7
"""The rounding of float32."""
LONG_WARM_UP = 4.0
"""How much larger the rate has become, if it rises all the time."""
ROUNDED_SHARE = 0.5
"""Of the numbers of a weight, in a typical step."""
FADED_RATE, FELT_RATE = 0.01, 1e-5
LARGEST_UPDATE, REPLACES_WEIGHT, RUINS_WEIGHT = 0.1, 1.0, 10.0
FADED_UPDATE = 0.01
BLOWN_UP, GROWN = 0.5, 3.0
SPOILED_SPREAD, SPOILED_SHARE = 0.1, 0.5

FASTER = "Raise the learning rate, check the scheduler, and check that the optimizer has these parameters."
KEEP_GRADIENTS = (
    "Call `optimizer.zero_grad()` before `loss.backward()`, not between it and `optimizer.step()`: with these rates "
    "and gradients, a step changes something."
)
KEEP_WIDE = (
    "Keep the weights in float32 and compute in half precision under torch.autocast, or raise the learning rate."
)
WARM_SHORTER = "Let the warm-up end after a twentieth of the steps; nothing to do if the training goes on."
SLOWER = "Lower the learning rate and warm it up."


def too_small(evidence: Evidence) -> Found | None:
    """The weights stand still: steps of this size are rounded away, or end before anything is learned."""
    if (rounded := _rounded(evidence)) is not None:
        return rounded
    updates = {n: values for n, values in _updates(evidence).items() if evidence.weights[n].gradient}
    largest = {name: max(values) for name, values in updates.items()}
    found = sorted((name for name, update in largest.items() if update < ROUNDED_AWAY), key=lambda name: largest[name])
    if len(found) < len(largest):
        vanished = {w for i in gradient.lost(evidence) for w in evidence.layers[i].weights}
        found = [name for name in found if name not in vanished]
    if not found:
        return _ended(evidence, updates) or _too_slow(evidence, updates) or _warming(evidence, updates)
    value = max(largest[name] for name in found)
    values = {"names": listed(found, tuple(largest), "weight"), "verb": verb(found, "stands", "stand")}
    text = _(
        "No measured step changed {names} by more than {size} of its size: rounding removes it.",
        names=values["names"], size=number(value),
    )  # fmt: skip
    if value == 0:
        text = _("No measured step changed these weights: {names} {verb} still.", **values)
        if len(found) == len(largest):
            text = _("No measured step changed any weight: {names} {verb} still.", **values)
            if min(_largest_rates(evidence)) > FELT_RATE:
                return Found(tuple(found), 0.0, ROUNDED_AWAY, text, KEEP_GRADIENTS)
    return Found(tuple(found), largest[found[0]], ROUNDED_AWAY, text)


def _rounded(evidence: Evidence) -> Found | None:
    """Steps that half precision takes away, of most numbers of most weights."""
    shares = {}
    for name, weights in evidence.moved_weights.items():
        still = [w.still for w in weights if w.still is not None]
        if len(still) >= FEWEST_MEASUREMENTS and len(weights[-1].shape) > 1:
            shares[name] = median(still)
    found = sorted((name for name, share in shares.items() if share > ROUNDED_SHARE), key=lambda name: -shares[name])
    if not found or 2 * len(found) < len(shares):
        return None
    text = _(
        "A step leaves {share} % of the numbers of {names} as they are: half precision rounds it away.",
        share=percent(shares[found[0]]), names=listed(found, tuple(shares), "weight"),
    )  # fmt: skip
    return Found(tuple(found), shares[found[0]], ROUNDED_SHARE, text, KEEP_WIDE)


def too_large(evidence: Evidence) -> Found | None:
    """Each step overwrites the result of earlier steps, or the first steps have ruined the network."""
    if numbers.nonfinite(evidence):
        return None
    usual, largest = _violence(evidence, _updates(evidence)), LARGEST_UPDATE
    if not usual:
        usual, largest = _violence(evidence, _updates(evidence, fewest=1)), RUINS_WEIGHT
    found = sorted((name for name, update in usual.items() if update > largest), key=lambda name: -usual[name])
    if not found:
        history = _updates(evidence, fewest=4)
        return _ruined(evidence, _updates(evidence)) or _blown_up(evidence, history) or _killed(evidence, history)
    value = usual[found[0]]
    if value <= REPLACES_WEIGHT and _falling(evidence):
        return None
    text = _(
        "A typical step is up to {size} times as large as {names}: it overwrites the result of earlier steps.",
        names=listed(found, tuple(usual), "weight"), size=number(value),
    )  # fmt: skip
    fatal = value > REPLACES_WEIGHT or _killed(evidence, _updates(evidence)) is not None
    severity = Severity.ERROR if fatal else Severity.WARNING
    return Found(tuple(found), value, largest, text, severity=severity)


def _ruined(evidence: Evidence, updates: dict[str, list[float]]) -> Found | None:
    """The first steps were too large for the network, which learns nothing since then."""
    rates = {w.rate for m in (evidence.measurements[0], evidence.latest) for w in m.weights if w.rate is not None}
    if not updates or len(rates) > 1 or not unlearned(evidence) or fitted(evidence):
        return None
    early = {name: max(values[: max(1, len(values) // 4)]) for name, values in updates.items()}
    found = sorted((name for name, update in early.items() if update > LARGEST_UPDATE), key=lambda name: -early[name])
    shrunk = median(updates[name][-1] / early[name] for name in found) if found else 1.0
    if 2 * len(found) <= len(early) or shrunk > FADED_UPDATE or not _is_spoiled(evidence):
        return None
    value = early[found[0]]
    text = _(
        "The first steps were up to {size} times as large as {names}, and nothing was learned since then.",
        names=listed(found, tuple(early), "weight"), size=number(value),
    )  # fmt: skip
    return Found(tuple(found), value, LARGEST_UPDATE, text, severity=Severity.ERROR)


def _is_spoiled(evidence: Evidence) -> bool:
    """Whether neurons or outputs are of no use: a loss that cannot fall below a number stands still, too."""
    layers = [evidence.layers[i] for i in (*evidence.sinks, *evidence.hidden)]
    alike = any(x.spread is not None and x.spread < SPOILED_SPREAD for x in layers)
    flat = any(max(x.dead or 0.0, x.saturated or 0.0) >= SPOILED_SHARE or x.gradient == 0 for x in layers)
    return alike or flat


def _blown_up(evidence: Evidence, updates: dict[str, list[float]]) -> Found | None:
    """The first steps have made the weights much larger, and the loss does not recover."""
    losses = [m.loss for m in evidence.measurements if m.loss is not None]
    early = _violence(evidence, updates, lambda values: max(values[: max(1, len(values) // 4)]))
    high = bool(losses) and fmean(losses[-max(1, len(losses) // 4) :]) > UNLEARNED_LOSS * losses[0] > 0
    unknown = min(losses, default=0.0) < 0  # the loss of a policy says little
    if not early or not (high or unknown):
        return None
    start = {w.name: w.size for w in evidence.measurements[0].weights}
    grown = {name: evidence.weights[name].size / start[name] for name in early if start.get(name)}
    found = sorted((n for n, times in grown.items() if times > GROWN and early[n] > BLOWN_UP), key=lambda n: -early[n])
    if 2 * len(found) <= len(early):
        return None
    values = {"size": number(early[found[0]]), "times": number(grown[found[0]])}
    values["names"] = listed(found, tuple(early), "weight")
    text = _(
        "The first steps were up to {size} times as large as {names}, and weights grew to {times} times their size.",
        **values,
    )
    if not unknown:
        text = _(
            "The first steps were up to {size} times as large as {names}, weights grew to {times} times their size, "
            "and the loss has hardly fallen.",
            **values,
        )
    return Found(tuple(found), early[found[0]], BLOWN_UP, text)


def _killed(evidence: Evidence, updates: dict[str, list[float]]) -> Found | None:
    """Units died in the training, after steps that overwrote most weights."""
    alive = {x.name for x in evidence.measurements[0].layers if (x.dead or 0.0) < DEAD_SHARE_NOTE}
    dead = tuple(x.name for i in evidence.hidden if (x := evidence.layers[i]).name in alive and _is_dead(x))
    largest = _violence(evidence, updates, max) if dead else {}
    found = [name for name, update in largest.items() if update > LARGEST_UPDATE]
    if not found or 2 * len(found) <= len(largest):
        return None
    worst = max(found, key=lambda name: largest[name])
    text = _(
        "A step was {size} times as large as {name}, and the units of {dead} have died since the start.",
        name=named(worst), size=number(largest[worst]), dead=listed(dead),
    )  # fmt: skip
    return Found(tuple(found), largest[worst], LARGEST_UPDATE, text, severity=Severity.ERROR)


def _is_dead(layer: Layer) -> bool:
    return (layer.dead or 0.0) >= DEAD_SHARE and layer.rows >= FEWEST_ROWS


def _ended(evidence: Evidence, updates: dict[str, list[float]]) -> Found | None:
    """The rate has fallen to 0, and the training goes on."""
    rates = _largest_rates(evidence)
    known = all(any(w.rate is not None for w in m.weights) for m in evidence.measurements[-2:])
    if not updates or not known or max(rates) == 0:
        return None
    if any(rates[-2:]):
        return None
    last = max(i for i, rate in enumerate(rates) if rate > 0)
    text = _(
        "The learning rate is 0 at least since step {step}: the training goes on, and changes nothing.",
        step=evidence.measurements[last + 1].step,
    )
    return Found(tuple(updates), 0.0, ROUNDED_AWAY, text)


def _largest_rates(evidence: Evidence) -> list[float]:
    """The largest learning rate in each measurement."""
    return [max((w.rate or 0.0 for w in m.weights), default=0.0) for m in evidence.measurements]


def _too_slow(evidence: Evidence, updates: dict[str, list[float]]) -> Found | None:
    """A schedule that ends before anything is learned."""
    if not updates or not unlearned(evidence):
        return None
    rates = _largest_rates(evidence)
    faded = [rate for rate in rates if rate < FADED_RATE * max(rates)]
    if 3 * len(faded) < len(rates) or rates[-1] not in faded:
        return None
    share = rates[-1] / max(rates)
    text = _(
        "The learning rate has shrunk to {share} of its largest while the loss was still where it started: the "
        "schedule ends the training too early.",
        share=number(share),
    )
    return Found(tuple(updates), share, FADED_RATE, text)


def _warming(evidence: Evidence, updates: dict[str, list[float]]) -> Found | None:
    """A warm-up that takes the whole training."""
    rates, (loss, first) = _largest_rates(evidence), (evidence.latest.loss, evidence.measurements[0].loss)
    rises = len(rates) >= PATIENT_MEASUREMENTS and all(a < b for a, b in pairwise(rates))
    if not updates or not rises or rates[-1] < LONG_WARM_UP * rates[0]:
        return None
    text = _(
        "The learning rate still rises, from {first} to {last}: the warm-up has taken all steps so far.",
        first=number(rates[0]), last=number(rates[-1]),
    )  # fmt: skip
    slow = loss is not None and first is not None and loss > UNLEARNED_LOSS * first
    severity = None if slow else Severity.NOTE
    return Found(tuple(updates), rates[-1] / rates[0], LONG_WARM_UP, text, WARM_SHORTER, severity)


def _falling(evidence: Evidence) -> bool:
    """Whether the loss is positive, and now less than half of what it was at first."""
    losses = [m.loss for m in evidence.measurements if m.loss is not None]
    return len(losses) > 1 and 0 < losses[-1] < UNLEARNED_LOSS * losses[0]


def _violence(
    evidence: Evidence, updates: dict[str, list[float]], typical: Callable[[list[float]], float] = median
) -> dict[str, float]:
    """A typical update of each weight of a layer, relative to its size or, if that is larger, to a usual size."""
    of_layers = {name for layer in evidence.latest.weighted for name in layer.weights}
    found = {}
    for name in (name for name in updates if name in of_layers):
        moved, usual = evidence.moved_weights[name], usual_size(evidence.weights[name])
        sizes = [w.update * min(1.0, w.size / usual) for w in moved if w.update is not None]
        found[name] = typical(sizes or [0.0])
    return found


def _updates(evidence: Evidence, fewest: int = FEWEST_MEASUREMENTS) -> dict[str, list[float]]:
    """Relative updates, in all measurements, of each trainable matrix that did not start at 0; at least so many."""
    matrices = any(w.trains and len(w.shape) > 1 for w in evidence.latest.weights)
    found = {}
    for name, weights in evidence.moved_weights.items():
        judged = len(weights[-1].shape) > 1 or not matrices
        if weights[-1].trains and judged and not any(map(is_zero, weights)):
            fixed = len({w.size for w in weights}) == 1  # else another optimizer moves it where no update is known
            found[name] = [w.update or 0.0 for w in weights if w.update is not None or fixed]
    return {name: updates for name, updates in found.items() if len(updates) >= fewest}
