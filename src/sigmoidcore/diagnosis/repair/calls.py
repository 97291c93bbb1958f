"""The calls that findings suggest: only those that work for the measured model. Otherwise the finding says why."""

import math
from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from sigmoidcore.calibration.orthogonal import WEIGHTED
from sigmoidcore.diagnosis.findings import Finding
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.repair.candidates import GATED, SIGMOIDS, candidates
from sigmoidcore.diagnosis.repair.untrained import is_untrained
from sigmoidcore.diagnosis.rules import Evidence, find

LARGEST = 5.0
"""Largest change of a number in a step, over the root mean square of the changes."""


def findings_of(measurements: Sequence[Measurement], model: nn.Module | None) -> tuple[Finding, ...]:
    """The findings of the rules, with calls that work for this model, if there is one; it is not changed or run."""
    findings = find(measurements)
    return findings if model is None else tuple(_with_call(f, measurements[-1], model) for f in findings)


def _with_call(finding: Finding, measurement: Measurement, model: nn.Module) -> Finding:
    suggest = _SUGGESTIONS.get(finding.rule)
    try:
        suggestion = suggest(finding, measurement, model) if suggest else None
    except Exception as error:  # a model may raise anything while it is traced, and a diagnosis does not fail for that
        why = str(error).strip().partition("\n")[0].rstrip(".")
        return replace(finding, remedy=f"{finding.remedy} Sigmoid Core has no call for this model ({why}).")
    return finding if suggestion is None else replace(finding, remedy=suggestion[0], call=suggestion[1])


def _open(finding: Finding, measurement: Measurement, model: nn.Module) -> tuple[str, str] | None:
    """Remedy and call for saturated neurons; None if no sigmoid or tanh is saturated."""
    layers = [layer for layer in measurement.layers if layer.name in finding.layers]
    if not any(layer.kind in SIGMOIDS and not layer.gate for layer in layers):
        return None
    candidates(model, measurement, finding.layers).check()
    batch = "" if measurement.step is None else "inputs=inputs"  # a Monitor keeps no batch
    return "Shift and rescale the saturated neurons, then train on.", f"diagnosis.mend({batch})"


def _level(finding: Finding, measurement: Measurement, model: nn.Module) -> tuple[str, str] | None:
    """Remedy and call for a gradient that vanishes or explodes over the layers; None without sigmoids."""
    hidden = {measurement.layers[i].kind for i in Evidence((measurement,)).hidden}
    if hidden.isdisjoint(SIGMOIDS) and not any(layer.kind in GATED for layer in measurement.weighted):
        return None
    layers = [module for module in model.modules() if isinstance(module, WEIGHTED)]
    computed = any("weight" not in dict(layer.named_parameters(recurse=False)) for layer in layers)
    moved = {
        weight.name: LARGEST * weight.update * weight.size / math.prod(weight.shape) ** 0.5
        for weight in measurement.weights
        if measurement.step is not None and weight.update
    }
    return _convert_and(measurement, model, fresh=not measurement.step and not computed and is_untrained(model, moved))


def _level_through_time(finding: Finding, measurement: Measurement, model: nn.Module) -> tuple[str, str]:
    """Remedy and call for a gradient that vanishes through time."""
    if not any(layer.kind in GATED for layer in measurement.layers if layer.name in finding.layers):
        raise ValueError("it sets the slopes of nn.RNN, nn.LSTM and nn.GRU only")
    return _convert_and(measurement, model, fresh=False)


def _convert_and(measurement: Measurement, model: nn.Module, *, fresh: bool) -> tuple[str, str]:
    found = candidates(model, measurement)
    found.check()
    remedy = "Set the slopes of the sigmoids from one batch; the weights do not change."
    if fresh:
        centre = "centre the sigmoids, " if found.uncentered else ""
        remedy = f"Before training, {centre}draw orthogonal weights and set the slopes from one batch; sc.calibrate in "
        remedy += "place of sc.prepare keeps your weights."
    verb = "sc.prepare(model, inputs)" if fresh else "sc.calibrate(model, inputs)"
    return remedy, "; ".join(part for part in (found.call(fresh), verb) if part)


_SUGGESTIONS = {"SC101": _level, "SC102": _level, "SC103": _level_through_time, "SC201": _open}
