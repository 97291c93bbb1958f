"""The gaps: parts and numbers that the rules could not judge."""

from collections.abc import Iterator, Sequence

from unstuck.findings import Gap
from unstuck.language import _
from unstuck.measure.measurement import Measurement
from unstuck.rules.evidence import FEWEST_MEASUREMENTS, Evidence
from unstuck.rules.question import LATE
from unstuck.rules.units import FEWEST_ROWS
from unstuck.wording import counted


def gaps(measurements: Sequence[Measurement], missing: str = "") -> tuple[Gap, ...]:
    """What was not judged in measurements, latest last, decisive gaps first; `missing`: why no step is recorded."""
    evidence = Evidence(measurements)
    return tuple(sorted((*_parts(evidence), *_numbers(evidence, missing)), key=lambda gap: not gap.decisive))


def _parts(evidence: Evidence) -> Iterator[Gap]:
    """Parts of the model without a gradient, or whose layers cannot be measured."""
    latest = evidence.latest
    trained = {weight.name for m in evidence.measurements for weight in m.weights if weight.trains}  # in turn, perhaps
    frozen = [weight.name for weight in latest.weights if weight.name not in trained]
    if frozen and len(frozen) == len(latest.weights):
        why = _("all {parameters} are frozen", parameters=counted(len(frozen), "parameter"))
        yield Gap(_("the training"), why, decisive=True)
    elif latest.layers and not any(evidence.live):
        yield Gap(_("the gradient"), _("none reached a layer with weights"), decisive=True)
    if 0 < len(frozen) < len(latest.weights):
        parameters = counted(len(latest.weights), "parameter")
        yield Gap(_("{count} of {parameters}", count=len(frozen), parameters=parameters), _("frozen"))


def _numbers(evidence: Evidence, missing: str) -> Iterator[Gap]:
    """Rules that need more steps, more samples or the loss."""
    latest, steps = evidence.latest, len(evidence.measurements)
    if latest.samples == 1:
        yield Gap(_("differences between samples"), counted(1, "sample"), decisive=True)
    if latest.step is None:
        yield Gap(_("step sizes"), _("no step was seen"))
    elif all(weight.update is None for weight in latest.weights):
        yield Gap(_("step sizes"), _("no optimizer made the last step"), decisive=True)
    elif steps < FEWEST_MEASUREMENTS:
        why = _("{found}, {count} are needed", found=counted(steps, "measured step"), count=FEWEST_MEASUREMENTS)
        yield Gap(_("step sizes"), why, decisive=True)
    few = [evidence.layers[i] for i in evidence.hidden if evidence.layers[i].rows < FEWEST_ROWS]
    if few:
        rows = max(layer.rows for layer in few)
        why = _("{found}, {count} are needed", found=counted(rows, "row"), count=FEWEST_ROWS)
        yield Gap(_("neurons of {activations}", activations=counted(len(few), "activation")), why)
    if latest.loss_function is None:
        yield Gap(_("the loss and the targets"), _("no loss function was seen"))
    if latest.answers is None and latest.layers:
        none = _("no step of three samples or more was recorded that can run again")
        yield Gap(_("what the outputs depend on"), missing or none)
    elif LATE in (latest.answers or {}):
        yield Gap(_("a part of what the outputs depend on"), _("running the step again takes too long"))
