"""Trials in words, and as two small curves."""

import math
from collections.abc import Iterator, Sequence

from unstuck.findings import LEARNS, STANDS, STEPS, Judgement, Trial
from unstuck.language import _
from unstuck.rules.evidence import Evidence
from unstuck.rules.standstill import NEAR_CHANCE, at_chance, chance
from unstuck.wording import short_number

WIDTH, HEIGHT = 120, 36
"""Of the curves, in pixels."""
TINY, MOST = 1e-30, 1.25
"""Smallest and largest loss, over the first, that is drawn as it is."""


def trial_text(trial: Trial) -> str:
    """What a trial gave, in a sentence."""
    (first, last), (before, end) = ends(trial.after), ends(trial.before)
    told = _(
        "{edit}, {steps} steps bring the loss from {first} to {last}; unchanged, from {before} to {end}.",
        edit=trial.edit, steps=trial.steps, first=first, last=last, before=before, end=end,
    )  # fmt: skip
    if trial.proved:
        return _("Proved by a trial: {told}", told=told)
    if trial.steps < STEPS:
        return _("Not decided in the time for trials: {told}", told=told)
    return _("Not proved: in a trial {told}", told=told)


def trials_lines(judgement: Judgement) -> Iterator[str]:
    """What the trials tell beside the findings; the smallest loss of one that compares nothing may be large."""
    trials, compared = judgement.trials, judgement.measurement.comparisons
    if trials.missing:
        yield _("not tried: {reason}", reason=trials.missing)
    if not trials.steps or not math.isfinite(trials.losses[0]):
        return
    results = {
        LEARNS: _("it learns the recorded batches"),
        STANDS: _("it learns the recorded batches slowly"),
        math.inf: _("it does not learn the recorded batches") if compared else _("on the recorded batches"),
    }
    end = trials.losses[0] * trials.left
    left = max(trials.left, STANDS * (end >= NEAR_CHANCE * chance(Evidence([judgement.measurement]))))
    result = next((text for limit, text in results.items() if left <= limit), _("on the recorded batches"))
    first, last = ends((trials.losses[0], end if trials.left >= 0 else trials.losses[-1]))
    values = {"result": result, "steps": trials.steps, "first": first, "last": last}
    yield _("{result}: {steps} steps bring the loss from {first} to {last}", **values)
    if by_heart(judgement):
        yield _("the training itself stands at chance: batches are learned by heart, and no more")
    if trials.cause is not None:
        edit, last = trials.cause.edit, ends(trials.cause.after)[1]
        yield _("no rule names a cause, but {edit} it learns: the loss falls to {last}", edit=edit, last=last)


def by_heart(judgement: Judgement) -> bool:
    """Whether the recorded batches are learned, and in the training nothing is."""
    learns = judgement.trials.left <= LEARNS and judgement.steps >= STEPS
    return learns and at_chance(Evidence(judgement.history))


def ends(losses: Sequence[float]) -> tuple[str, str]:
    """The first and the last loss."""
    return (short_number(losses[0]), short_number(losses[-1])) if losses else ("", "")


def curves(trial: Trial) -> tuple[str, str]:
    """The losses as they were and with the edit, each over its first: paths of SVG, `WIDTH` by `HEIGHT`."""
    drawn = []
    for losses in (trial.before, trial.after):
        scale = max(losses[0], TINY) if losses else TINY
        points = [min(max(loss / scale, 0.0), MOST) if loss == loss else MOST for loss in losses]
        step = WIDTH / max(1, len(points) - 1)
        drawn.append("M" + "L".join(f"{i * step:.1f} {HEIGHT * (1 - y / MOST):.1f}" for i, y in enumerate(points)))
    return drawn[0], drawn[1]
