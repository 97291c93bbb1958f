"""The calls that findings suggest: only those that work for the measured model. Otherwise the finding says why."""

from collections.abc import Sequence
from dataclasses import replace

from sigmoidcore._language import _
from sigmoidcore.conversion import planned
from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement, Subject
from sigmoidcore.diagnosis.repair.candidates import GATED, SIGMOIDS, candidates
from sigmoidcore.diagnosis.repair.untrained import can_be_redrawn, may_be_redrawn
from sigmoidcore.diagnosis.rules import Evidence, find
from sigmoidcore.diagnosis.rules.norm_places import USUAL_LEVEL


def findings_of(measurements: Sequence[Measurement], subject: Subject | None) -> tuple[Finding, ...]:
    """The findings of the rules, with calls that work for this model, if there is one; it is not changed or run."""
    findings = find(measurements)
    return findings if subject is None else tuple(_with_call(f, measurements[-1], subject) for f in findings)


def has_sigmoids(measurement: Measurement) -> bool:
    """Whether there are hidden sigmoids or recurrent layers, which `convert` makes cores of."""
    hidden = {measurement.layers[i].kind for i in Evidence((measurement,)).hidden}
    return not hidden.isdisjoint(SIGMOIDS) or any(layer.kind in GATED for layer in measurement.weighted)


def _with_call(finding: Finding, measurement: Measurement, subject: Subject) -> Finding:
    suggest = _SUGGESTIONS.get(finding.rule) if finding.severity is not Severity.NOTE else None
    try:
        suggestion = suggest(finding, measurement, subject) if suggest else None
    except Exception as error:  # a model may raise anything while it is traced, and a diagnosis does not fail for that
        why = str(error).strip().partition("\n")[0].rstrip(".")
        return replace(finding, remedy=finding.remedy + _(" Sigmoid Core has no call for this model ({why}).", why=why))
    return finding if suggestion is None else replace(finding, remedy=suggestion[0], call=suggestion[1])


def _open(finding: Finding, measurement: Measurement, subject: Subject) -> tuple[str, str] | None:
    """Remedy and call for saturated neurons; None if no sigmoid or tanh is saturated."""
    affected = _affected(finding, measurement)
    if not any(layer.kind in SIGMOIDS and not layer.gate for layer in affected):
        return None
    if all(layer.norm_gain is not None for layer in affected):
        return _calibrate_places(affected, subject)
    candidates(subject.model, measurement, finding.layers).check()
    return _("Shift and rescale the saturated neurons, then train on."), _mend(subject)


def _calibrate_places(places: Sequence[Layer], subject: Subject) -> tuple[str, str]:
    """Remedy and call for places of norms with too large an alpha."""
    model, wanted = subject.name("model"), {place.module for place in places if place.kind != "SigmoidCore"}
    calls = []
    if wanted:
        choices = planned(subject.model, norms=True).choices
        left = next((choice.why for choice in choices if choice.site.name in wanted and not choice.cores), None)
        if left is not None:
            raise ValueError(left)
        others = [choice.site.name for choice in choices if choice.cores and choice.site.name not in wanted]
        calls.append(f"sc.convert({model}, norms=True{f', exclude={others}' if others else ''})")
    calls.append(f"sc.calibrate({model}, {subject.name('inputs')}, saturation={USUAL_LEVEL})")
    return _("alpha is too large in the place of norms: set it from one batch, then train on."), "; ".join(calls)


def _enlarge(finding: Finding, measurement: Measurement, subject: Subject) -> tuple[str, str] | None:
    """Remedy and call for places of norms with too small an alpha; the weights of a Dynamic Tanh stay."""
    places = _affected(finding, measurement)
    model = subject.name("model")
    factors = {x.module: float(f"{USUAL_LEVEL / x.rms:.3g}") for x in places if x.kind != "SigmoidCore"}
    calls = [
        f"[{model}.get_submodule(name).alpha.data.mul_(factor) for name, factor in {factors}.items()]"
        if factors
        else "",
        f"sc.calibrate({model}, {subject.name('inputs')})" if any(x.kind == "SigmoidCore" for x in places) else "",
    ]
    return _("Set alpha for the size of what it multiplies."), "; ".join(filter(None, calls))


def _level(finding: Finding, measurement: Measurement, subject: Subject) -> tuple[str, str] | None:
    """Remedy and call for a gradient that vanishes or explodes over the layers."""
    if not has_sigmoids(measurement):
        return _redraw(finding, measurement, subject)
    return _convert_and(measurement, subject, fresh=may_be_redrawn(subject.model, measurement))


def _level_through_time(finding: Finding, measurement: Measurement, subject: Subject) -> tuple[str, str]:
    """Remedy and call for a gradient that vanishes through time."""
    if not any(layer.kind in GATED for layer in _affected(finding, measurement)):
        raise ValueError(_("it sets the slopes of nn.RNN, nn.LSTM and nn.GRU only"))
    call = _convert_and(measurement, subject, fresh=False)[1]
    more = _(" Or set slopes from one batch, which levels the gradient; the weights do not change.")
    return finding.remedy + more, call


def _redraw(finding: Finding, measurement: Measurement, subject: Subject) -> tuple[str, str] | None:
    """The call that draws other weights, beside the remedy in words; None if the weights are trained."""
    return (finding.remedy, _mend(subject)) if may_be_redrawn(subject.model, measurement) else None


def _convert_and(measurement: Measurement, subject: Subject, *, fresh: bool) -> tuple[str, str]:
    found = candidates(subject.model, measurement)
    found.check()
    model, inputs = subject.name("model"), subject.name("inputs")
    if not fresh:
        remedy = _("Set the slopes of the sigmoids from one batch; the weights do not change.")
        if can_be_redrawn(subject.model):
            remedy += _(
                " If they have learned nothing yet, sc.convert with centered=True and sc.prepare draw new ones, which "
                "train better."
            )
        return remedy, "; ".join(filter(None, (found.call(fresh, model), f"sc.calibrate({model}, {inputs})")))
    remedy = _(
        "Before training, draw orthogonal weights, set the slopes from one batch and use rates for this depth; "
        "sc.calibrate instead keeps your weights."
    )
    optimizer = f"optimizer = torch.optim.Adam(sc.depth_scaled_lr({model}))"
    return remedy, "; ".join(filter(None, (found.call(fresh, model), f"sc.prepare({model}, {inputs})", optimizer)))


def _rates(finding: Finding, measurement: Measurement, subject: Subject) -> tuple[str, None] | None:
    """Remedy for a learning rate that is too low or too high, with the call for networks of sigmoids."""
    if not has_sigmoids(measurement):
        return None
    model = subject.name("model")
    more = _(" With Adam, sc.depth_scaled_lr({model}) gives the rates for these sigmoids.", model=model)
    return finding.remedy + more, None


def _trace(finding: Finding, measurement: Measurement, subject: Subject) -> tuple[str, str] | None:
    """The call that names the operation, unless it is known or an earlier step made the numbers."""
    if measurement.origin or measurement.input_nonfinite or any(weight.nonfinite for weight in measurement.weights):
        return None
    remedy = finding.remedy + _(" This call names the operation that made it:")
    return remedy, f"print({_diagnose(subject, 'trace_nonfinite=True')})"


def _mend(subject: Subject) -> str:
    """The call that diagnoses again and mends."""
    return f"print({_diagnose(subject)}.mend())"


def _diagnose(subject: Subject, *options: str) -> str:
    loss = ("targets", "loss_fn") if subject.loss_fn is not None or subject.inputs is None else ()
    arguments = [subject.name(name) for name in ("model", "inputs", *loss)]
    mode = ["training=True"] if subject.training else []
    return f"sc.diagnose({', '.join([*arguments, *mode, *options])})"


def _affected(finding: Finding, measurement: Measurement) -> list[Layer]:
    return [layer for layer in measurement.layers if layer.name in finding.layers]


_SUGGESTIONS = {
    **dict.fromkeys(("SC101", "SC102"), _level),
    **dict.fromkeys(("SC301", "SC302"), _rates),
    "SC103": _level_through_time,
    "SC201": _open,
    "SC207": _enlarge,
    "SC401": _trace,
    **dict.fromkeys(("SC202", "SC203", "SC503", "SC607"), _redraw),
}
