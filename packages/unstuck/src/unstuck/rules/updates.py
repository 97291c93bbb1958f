"""The optimizer's steps are too small or too large for the weights."""

import math
from collections.abc import Callable
from itertools import takewhile
from statistics import fmean, median

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure.measurement import Measurement, Weight
from unstuck.rules import numbers
from unstuck.rules.attention import attending_to_one
from unstuck.rules.evidence import FEWEST_MEASUREMENTS, SMALL_SCALE, Evidence, is_zero, usual_size
from unstuck.rules.rule import Found, rule
from unstuck.rules.standstill import PATIENT_STEPS, UNLEARNED_LOSS, falling, fitted, of_a_policy, unlearned
from unstuck.rules.units import DEAD_SHARE, DEAD_SHARE_NOTE, FEWEST_ROWS
from unstuck.wording import listed, named, number, percent, verb

ROUNDED_AWAY = 1.2e-7
"""The rounding of float32."""
LONG_WARM_UP, FEWEST_STAIRS = 4.0, 4
"""How much larger the rate has become, if it rises all the time; different rates, at least."""
ROUNDED_SHARE = 0.5
"""Of the numbers of a weight, in a typical step."""
FADED_RATE, FADED_UPDATE = 0.01, 0.01
LARGEST_UPDATE, REPLACES_WEIGHT, RUINS_WEIGHT = 0.1, 1.0, 10.0
BLOWN_UP, GROWN = 0.5, 3.0

SHORT_WAY, LONG_WAY, CLIPPED = 0.01, 0.1, 0.01
"""Sum of all steps over the size of a weight, and so if gradients are clipped; share of these that clipping leaves."""

FASTER = "Raise the learning rate, check the scheduler, and check that the optimizer has these parameters."
KEEP_WIDE = (
    "Keep the weights in float32 and compute in half precision under torch.autocast, or raise the learning rate."
)
UNCLIP = (
    "Clip to a norm of about 1, after `scaler.unscale_(optimizer)` if the loss is scaled; or raise the learning rate."
)
WARM_SHORTER = "Let the warm-up end after a twentieth of the steps; nothing to do if the training goes on."
SLOWER = "Lower the learning rate and warm it up."


@rule("US301", "updates too small", remedy=FASTER, hidden_by=("US101", "US303", "US306", "US401", "US502"))
def too_small(evidence: Evidence) -> Found | None:
    """The weights stand still: steps of this size are rounded away, or end before anything is learned."""
    if (rounded := _rounded(evidence)) is not None:
        return rounded
    updates = {n: values for n, values in _updates(evidence).items() if evidence.weights[n].gradient}
    largest = {name: max(values) for name, values in updates.items()}
    found = sorted((name for name, update in largest.items() if update < ROUNDED_AWAY), key=lambda name: largest[name])
    if not found:
        return _ended(evidence, updates) or _warming(evidence, updates) or _stands(evidence, updates)
    if not evidence.ends and not any(_largest_rates(evidence) or [1.0]):
        return None  # a warm-up that is moved once an epoch may begin with a rate of 0
    text = _(
        "No measured step changed {names} by more than {size} of its size, which is rounded away.",
        names=listed(found, tuple(largest), "weight"), size=number(largest[found[-1]]),
    )  # fmt: skip
    if not largest[found[-1]]:
        text = _("No measured step changed {names}.", names=listed(found, tuple(largest), "weight"))
    return Found(tuple(found), largest[found[0]], ROUNDED_AWAY, text)


def _rounded(evidence: Evidence) -> Found | None:
    """Steps that half precision takes away, of most numbers of most weights."""
    shares = {}
    for name, weights in _moved(evidence).items():
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


@rule("US302", "updates too large", remedy=SLOWER, hidden_by=("US206", "US102", "US305", "US307"), mistake=True)
def too_large(evidence: Evidence) -> Found | None:
    """Each step overwrites the result of earlier steps, or the first steps have ruined the network."""
    if numbers.nonfinite(evidence):
        return _diverged(evidence)
    updates = _updates(evidence)
    usual = _violence(evidence, updates)
    largest = LARGEST_UPDATE
    if not usual:
        usual, largest = _violence(evidence, _updates(evidence, fewest=1)), RUINS_WEIGHT
    found = sorted((name for name, update in usual.items() if update > largest), key=lambda name: -usual[name])
    if not found:
        return _ruined(evidence, updates) or _blown_up(evidence, updates) or _killed(evidence, updates)
    value = usual[found[0]]
    if value <= REPLACES_WEIGHT and (falling(evidence) or evidence.ask(of_a_policy)):
        return None
    text = _(
        "A typical step is up to {size} times as large as {names}: it overwrites the result of earlier steps.",
        names=listed(found, tuple(usual), "weight"), size=number(value),
    )  # fmt: skip
    severity = Severity.ERROR if value > REPLACES_WEIGHT else Severity.WARNING
    return Found(tuple(found), value, largest, text, severity=severity)


def _ruined(evidence: Evidence, updates: dict[str, list[float]]) -> Found | None:
    """The first steps were too large for the network, which learns nothing since then."""
    rates = {w.rate for m in (evidence.measurements[0], evidence.latest) for w in m.weights}
    if not updates or len(rates - {None}) > 1 or not unlearned(evidence) or fitted(evidence):
        return None
    early = {name: max(values[: max(1, len(values) // 4)]) for name, values in updates.items()}
    found = sorted((name for name, update in early.items() if update > LARGEST_UPDATE), key=lambda name: -early[name])
    shrunk = median(updates[name][-1] / early[name] for name in found) if found else 1.0
    if 2 * len(found) <= len(early) or shrunk > FADED_UPDATE:
        return None
    text = _(
        "The first steps were up to {size} times as large as {names}, and nothing was learned since then.",
        names=listed(found, tuple(early), "weight"), size=number(early[found[0]]),
    )  # fmt: skip
    return Found(tuple(found), early[found[0]], LARGEST_UPDATE, text, severity=Severity.ERROR)


def _blown_up(evidence: Evidence, updates: dict[str, list[float]]) -> Found | None:
    """The first steps have made the weights much larger, and the loss does not recover."""
    start = {w.name: w.size for w in evidence.measurements[0].weights}
    early = _violence(evidence, updates, lambda values: max(values[: max(1, len(values) // 4)]))
    grown = {name: evidence.weights[name].size / start[name] for name in early if start.get(name)}
    found = sorted((n for n, times in grown.items() if times > GROWN and early[n] > BLOWN_UP), key=lambda n: -early[n])
    if falling(evidence) or 2 * len(found) <= len(early):
        return None
    text = _(
        "The first steps were up to {size} times as large as {names}, and weights grew to {times} times their size.",
        size=number(early[found[0]]), names=listed(found, tuple(early), "weight"), times=number(grown[found[0]]),
    )  # fmt: skip
    return Found(tuple(found), early[found[0]], BLOWN_UP, text)


def _killed(evidence: Evidence, updates: dict[str, list[float]]) -> Found | None:
    """Units died or attentions collapsed in the training, after steps that overwrote most weights."""
    first = {x.name: x for x in evidence.measurements[0].layers}
    hidden = (evidence.layers[i] for i in evidence.hidden)
    dead = [x for x in hidden if (x.dead or 0.0) >= DEAD_SHARE and x.rows >= FEWEST_ROWS]
    lost = [x.name for x in dead if x.name in first and (first[x.name].dead or 0.0) < DEAD_SHARE_NOTE]
    lost += attending_to_one(evidence, newly=True)
    largest = _violence(evidence, updates, max)
    found = [name for name, update in largest.items() if update > LARGEST_UPDATE]
    if not lost or 2 * len(found) <= len(largest):
        return None
    worst = max(found, key=lambda name: largest[name])
    text = _(
        "A step was {size} times as large as {name}, and {lost} {verb} no gradient back since then.",
        name=named(worst), size=number(largest[worst]), lost=listed(lost), verb=verb(lost, "passes", "pass"),
    )  # fmt: skip
    return Found(tuple(found), largest[worst], LARGEST_UPDATE, text, severity=Severity.ERROR)


def _ended(evidence: Evidence, updates: dict[str, list[float]]) -> Found | None:
    """A schedule that ends before anything is learned, or whose rate stays 0 while the training goes on."""
    rates = _largest_rates(evidence)
    faded = [rate for rate in rates if rate < FADED_RATE * max(rates)]
    if not updates or not faded or rates[-1] not in faded:
        return None
    if any(rates[-2:]) and (3 * len(faded) < len(rates) or not unlearned(evidence)):
        return None
    share = rates[-1] / max(rates)
    text = _(
        "The learning rate has shrunk to {share} of its largest, and the training goes on: the schedule ends it too "
        "early.",
        share=number(share),
    )
    return Found(tuple(updates), share, FADED_RATE, text)


def _stands(evidence: Evidence, updates: dict[str, list[float]]) -> Found | None:
    """Steps that all together are too small to learn anything, and have not."""
    steps = (evidence.latest.step or 0) + 1
    sizes = {name: evidence.weights[name].size / usual_size(evidence.weights[name]) for name in updates}
    ways = {name: steps * fmean(values) for name, values in updates.items() if sizes[name] > SMALL_SCALE}
    clipped = median([w.taken for m in evidence.measurements for w in m.weights if w.taken is not None] or [1.0])
    longest = LONG_WAY if clipped < CLIPPED else SHORT_WAY
    if steps < PATIENT_STEPS / 2 or not ways or max(ways.values()) > longest:
        return None
    if not unlearned(evidence) or fitted(evidence):
        return None
    farthest = max(ways, key=lambda name: ways[name])
    text = _(
        "All {steps} steps together change {name} by at most {share} of its size, and no weight by more: the loss "
        "stands still.",
        steps=steps, name=named(farthest), share=number(ways[farthest]),
    )  # fmt: skip
    return Found(tuple(ways), ways[farthest], longest, text, UNCLIP if clipped < CLIPPED else None)


def _diverged(evidence: Evidence) -> Found | None:
    """Steps that grew, or made the loss grow, until numbers were not finite any more."""
    sound = list(takewhile(_is_sound, evidence.measurements))
    first, last = (sound[0].loss, sound[-1].loss) if sound else (None, None)
    if not sound or len(sound) == len(evidence.measurements) or evidence.latest.origin is not None:
        return None
    before = Evidence(sound)
    largest = _violence(before, _updates(before, fewest=1), max)
    worst = max(largest, key=lambda name: largest[name], default="")
    grown = first is not None and last is not None and 0 < GROWN * first < last
    if not worst or not (grown or sorted(largest.values())[len(largest) // 2] > LARGEST_UPDATE):
        return None
    text = _(
        "Before numbers became inf or NaN, the loss went from {first} to {last}, and a step was {size} times as large "
        "as {name}: the training diverged.",
        first=number(first or 0.0), last=number(last or 0.0), size=number(largest[worst]), name=named(worst),
    )  # fmt: skip
    return Found((worst,), largest[worst], LARGEST_UPDATE, text, severity=Severity.ERROR)


def _is_sound(measurement: Measurement) -> bool:
    """Whether loss and weights are finite."""
    finite = measurement.loss is not None and math.isfinite(measurement.loss)
    return finite and not any(w.nonfinite or w.nonfinite_gradient for w in measurement.weights)


def _largest_rates(evidence: Evidence) -> list[float]:
    """The largest learning rate of each measurement that knows one."""
    every = [[w.rate for w in m.weights if w.rate is not None] for m in evidence.measurements]
    return [max(known) for known in every if known]


def _warming(evidence: Evidence, updates: dict[str, list[float]]) -> Found | None:
    """A warm-up that takes the whole training."""
    rates, (loss, first) = _largest_rates(evidence), (evidence.latest.loss, evidence.measurements[0].loss)
    stairs = [rates.count(rate) for rate in dict.fromkeys(rates)]  # how often each was measured: an epoch, or a step
    rises = len(stairs) >= FEWEST_STAIRS and rates == sorted(rates) and stairs[-1] <= max(stairs[1:-1])
    if not (updates and evidence.ends and evidence.lasts and rises) or rates[-1] < LONG_WARM_UP * rates[0]:
        return None
    text = _(
        "The learning rate still rises, from {first} to {last}: the warm-up has taken all steps so far.",
        first=number(rates[0]), last=number(rates[-1]),
    )  # fmt: skip
    slow = loss is not None and first is not None and loss > UNLEARNED_LOSS * first
    severity = None if slow else Severity.NOTE
    return Found(tuple(updates), rates[0] / rates[-1], 1 / LONG_WARM_UP, text, WARM_SHORTER, severity)


def _violence(
    evidence: Evidence, updates: dict[str, list[float]], typical: Callable[[list[float]], float] = median
) -> dict[str, float]:
    """A typical update of each weight of a layer, relative to its size or, if that is larger, to a usual size."""
    of_layers = {name for layer in evidence.latest.weighted for name in layer.weights}
    found, moved = {}, _moved(evidence)
    for name in (name for name in updates if name in of_layers):
        usual = usual_size(evidence.weights[name])
        moves = [w for w in moved[name] if w.update is not None]
        found[name] = typical([(w.update or 0.0) * min(1.0, w.size / usual) for w in moves] or [0.0])
    return found


def _updates(evidence: Evidence, fewest: int = FEWEST_MEASUREMENTS) -> dict[str, list[float]]:
    """Relative updates, in so many measurements or more, of each trainable matrix that did not start at 0."""
    matrices = any(w.trains and len(w.shape) > 1 for w in evidence.latest.weights)
    found = {}
    for name, weights in _moved(evidence).items():
        judged = len(weights[-1].shape) > 1 or not matrices
        if weights[-1].trains and judged and not any(map(is_zero, weights)):
            fixed = len({w.size for w in weights}) == 1  # else another optimizer moves it where no update is known
            found[name] = [w.update or 0.0 for w in weights if w.update is not None or fixed]
    return {name: updates for name, updates in found.items() if len(updates) >= fewest}


def _moved(evidence: Evidence) -> dict[str, list[Weight]]:
    """Those of the weights that are still there, by name, in all measurements whose step moved any."""
    steps = [m for m in evidence.measurements if any(w.update is not None for w in m.weights)]
    found: dict[str, list[Weight]] = {name: [] for name in evidence.weights}
    for weight in (weight for m in steps for weight in m.weights if weight.name in found):
        found[weight.name].append(weight)
    return {name: weights for name, weights in found.items() if weights}
