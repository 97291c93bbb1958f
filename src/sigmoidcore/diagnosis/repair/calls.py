"""The calls that findings offer are for this very model: what would not work is not offered, and why is said."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from sigmoidcore.calibration.orthogonal import WEIGHTED
from sigmoidcore.diagnosis.findings import Finding
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.repair import saturation
from sigmoidcore.diagnosis.repair.convertible import Cores, cores
from sigmoidcore.diagnosis.rules import RULES, find

MEND = "diagnosis.mend("


def findings_of(measurements: Sequence[Measurement], model: nn.Module | None) -> tuple[Finding, ...]:
    """The findings of the rules, with calls that work on this model.

    Args:
        measurements: of one training, latest last, or a single one.
        model: the measured module; None: the calls are not checked.
    """
    findings = find(measurements)
    return findings if model is None else checked(findings, measurements[-1], model)


def checked(findings: Sequence[Finding], measurement: Measurement, model: nn.Module) -> tuple[Finding, ...]:
    """The findings, with calls that work on this model.

    Only models with such findings are looked into, and none is changed or run: their forwards are traced.

    Args:
        findings: of the rules, which know measurements only.
        measurement: of the model.
        model: what was measured.
    """
    if not any(finding.call for finding in findings):
        return tuple(findings)
    known: list[Cores] = []

    def found() -> Cores:
        if not known:
            known.append(cores(model, measurement))
        return known[0]

    return tuple(_checked(f, measurement, model, found) if f.call else f for f in findings)


def _checked(finding: Finding, measurement: Measurement, model: nn.Module, found: Callable[[], Cores]) -> Finding:
    try:
        if finding.call is not None and finding.call.startswith(MEND):
            call, why = _mending(finding, measurement, model)
        else:
            call, why = _levelling(finding, model, found())
    except Exception as error:  # a model may do anything when it is traced, and a diagnosis never fails for that
        call, why = None, str(error).strip().partition("\n")[0]
    if call is not None:
        return replace(finding, call=call)
    remedy = next((rule.without_cores or rule.remedy for rule in RULES if rule.id == finding.rule), finding.remedy)
    return replace(finding, call=None, remedy=f"{remedy} Sigmoid Core offers no call here: {why.rstrip('.')}.")


def _mending(finding: Finding, measurement: Measurement, model: nn.Module) -> tuple[str | None, str]:
    """For saturated neurons: whether one of the activations can become a core by itself, or is one."""
    can, left = saturation.can_open(model, measurement, finding.layers)
    return (finding.call, "") if can else (None, "; ".join(saturation.told(left)))


def _levelling(finding: Finding, model: nn.Module, found: Cores) -> tuple[str | None, str]:
    """For a gradient that is not level: what makes cores of what was measured, and then sets their slopes."""
    if not found.possible:
        return None, found.why or "there is no activation that could become a core"
    verb = (finding.call or "").rpartition("; ")[2]
    if verb.startswith("sc.prepare") and not _draws(model):
        verb = verb.replace("prepare", "calibrate", 1)
    convert = found.call(anew=verb.startswith("sc.prepare"))
    return "; ".join(part for part in (convert, verb) if part), ""


def _draws(model: nn.Module) -> bool:
    """Whether `prepare` can draw all weights: none is computed from other parameters."""
    return all("weight" in m._parameters for m in model.modules() if isinstance(m, WEIGHTED))
