"""The repairs that only Sigmoid Core makes, for the findings of `unstuck`: an entry point of `unstuck.remedies`."""

from sigmoidcore.calibration.orthogonal import computed_weights
from sigmoidcore.language import _
from sigmoidcore.remedies.candidates import GATED, SIGMOIDS, convert_call
from unstuck.findings import Finding
from unstuck.measure.measurement import Layer, Measurement, Subject
from unstuck.rules import Evidence
from unstuck.untrained import may_be_redrawn


def suggest(finding: Finding, measurement: Measurement, subject: Subject) -> tuple[str, str | None] | None:
    """Remedy and call for a finding, as `unstuck.remedies.Suggest` describes it."""
    rule = _SUGGESTIONS.get(finding.rule)
    return None if rule is None else rule(finding, measurement, subject)


def _has_sigmoids(measurement: Measurement) -> bool:
    """Whether there are hidden sigmoids or recurrent layers, which `convert` makes cores of."""
    hidden = {measurement.layers[i].kind for i in Evidence((measurement,)).hidden}
    return not hidden.isdisjoint(SIGMOIDS) or any(layer.kind in GATED for layer in measurement.weighted)


def _open(finding: Finding, measurement: Measurement, subject: Subject) -> tuple[str, str] | None:
    """Remedy and call for saturated neurons; None if no sigmoid or tanh is saturated."""
    affected = _affected(finding, measurement)
    if not any(layer.kind in SIGMOIDS and not layer.gate for layer in affected):
        return None
    return _convert_and(measurement, subject)


def _level(finding: Finding, measurement: Measurement, subject: Subject) -> tuple[str, str] | None:
    """Remedy and call for a gradient that vanishes or explodes over the layers."""
    return _convert_and(measurement, subject) if _has_sigmoids(measurement) else None


def _level_through_time(finding: Finding, measurement: Measurement, subject: Subject) -> tuple[str, str]:
    """Remedy and call for a gradient that vanishes through time."""
    if not any(layer.kind in GATED for layer in _affected(finding, measurement)):
        raise ValueError(_("it sets the slopes of nn.RNN, nn.LSTM and nn.GRU only"))
    call = _convert_and(measurement, subject, keep=True)[1]
    more = _(" Or set slopes from one batch, which levels the gradient; the weights do not change.")
    return finding.remedy + more, call


def _convert_and(measurement: Measurement, subject: Subject, *, keep: bool = False) -> tuple[str, str]:
    """Remedy and call for networks of sigmoids; fresh weights if none has learned, unless they are to be kept."""
    model, inputs = subject.name("model"), subject.name("inputs")
    fresh = not keep and may_be_redrawn(subject.model, measurement)
    convert = convert_call(subject.model, measurement, model, fresh=fresh)
    if not fresh:
        remedy = _("Set the slopes of the sigmoids from one batch; the weights do not change.")
        if not computed_weights(subject.model):
            remedy += _(
                " If they have learned nothing yet, sc.convert with centered=True and sc.prepare draw new ones, which "
                "train better."
            )
        return remedy, "\n".join(filter(None, (convert, f"sc.calibrate({model}, {inputs})")))
    remedy = _(
        "Before training, draw orthogonal weights, set the slopes from one batch and use rates for this depth; "
        "sc.calibrate instead keeps your weights."
    )
    optimizer = f"optimizer = torch.optim.Adam(sc.depth_scaled_lr({model}))"
    return remedy, "\n".join(filter(None, (convert, f"sc.prepare({model}, {inputs})", optimizer)))


def _rates(finding: Finding, measurement: Measurement, subject: Subject) -> tuple[str, None] | None:
    """Remedy for a learning rate that is too low or too high, with the call for networks of sigmoids."""
    if not _has_sigmoids(measurement):
        return None
    model = subject.name("model")
    more = _(" With Adam, sc.depth_scaled_lr({model}) gives the rates for these sigmoids.", model=model)
    return finding.remedy + more, None


def _affected(finding: Finding, measurement: Measurement) -> list[Layer]:
    return [layer for layer in measurement.layers if layer.name in finding.layers]


_SUGGESTIONS = {
    **dict.fromkeys(("US101", "US102"), _level),
    **dict.fromkeys(("US301", "US302"), _rates),
    "US103": _level_through_time,
    "US201": _open,
}
