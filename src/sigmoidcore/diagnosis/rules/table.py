"""The table of all rules. To add a rule: write its check in a file beside this one, and add a row here."""

from collections.abc import Sequence
from dataclasses import replace

from sigmoidcore._language import _
from sigmoidcore.diagnosis.findings import Finding, Severity
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.rules import (
    collapse,
    dependence,
    gradient,
    identical,
    layers,
    loss,
    norm_places,
    numbers,
    standstill,
    steps,
    structure,
    terms,
    time,
    units,
    updates,
)
from sigmoidcore.diagnosis.rules.evidence import Evidence
from sigmoidcore.diagnosis.rules.rule import Found, Rule

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

_FAULTS: tuple[Rule, ...] = (
    Rule("SC101", "vanishing gradient", WARNING, gradient.vanishing, gradient.INITIALISE, ("SC307", "SC401", "SC503"),
         stalls=True, signal=True),
    Rule("SC102", "exploding gradient", WARNING, gradient.exploding, gradient.SHRINK, ("SC104", "SC401", "SC503"),
         signal=True),
    Rule("SC103", "gradient vanishes through time", WARNING, time.vanishing, time.REMEMBER, ("SC401",), signal=True),
    Rule("SC104", "gradient explodes through time", WARNING, time.exploding, time.SHRINK, ("SC401",), signal=True),
    Rule("SC201", "saturated neurons", WARNING, units.saturation, units.SHRINK, ("SC401",), signal=True),
    Rule("SC202", "dead units", WARNING, units.dead_units, units.REVIVE, ("SC206", "SC401", "SC502"),
         signal=True),
    Rule("SC203", "samples collapse to one point", WARNING, collapse.collapse, collapse.SEPARATE,
         ("SC401", "SC101", "SC201", "SC202", "SC502", "SC503"), signal=True),
    Rule("SC204", "attention collapsed to one key", WARNING, units.sharp_attention, units.SOFTEN, ("SC401",),
         signal=True),
    Rule("SC205", "inputs far from 0", WARNING, units.offset_inputs, units.STANDARDISE, ("SC401",)),
    Rule("SC206", "inputs not scaled", WARNING, units.unscaled_inputs, units.RESCALE, ("SC205", "SC401"), mistake=True,
         stalls=True, explains=("SC302",)),
    Rule("SC207", "alpha too small", WARNING, norm_places.small_alpha, norm_places.ENLARGE,
         ("SC203", "SC206", "SC401", "SC502")),
    Rule("SC301", "updates too small", WARNING, updates.too_small, updates.FASTER, ("SC303", "SC401", "SC502")),
    Rule("SC302", "updates too large", WARNING, updates.too_large, updates.SLOWER,
         ("SC205", "SC206", "SC102", "SC305", "SC307"), mistake=True),
    Rule("SC303", "parameters in no optimizer", WARNING, steps.unheld, steps.ADD, mistake=True),
    Rule("SC304", "no optimizer step", ERROR, steps.no_step, steps.STEP, ("SC401", "SC501"), mistake=True),
    Rule("SC305", "gradients are not cleared", WARNING, steps.uncleared, steps.CLEAR, mistake=True),
    Rule("SC306", "gradients are cleared too early", WARNING, steps.discarded, steps.CLEAR_LATER, mistake=True),
    Rule("SC307", "weight decay too strong", WARNING, steps.strong_decay, steps.LESS_DECAY, ("SC401", "SC502", "SC609"),
         signal=True),
    Rule("SC308", "optimizer made again", WARNING, steps.replaced, steps.KEEP),
    Rule("SC309", "gradient of the target", WARNING, terms.not_stopped, terms.STOP, ("SC401",), mistake=True),
    Rule("SC401", "inf or NaN", ERROR, numbers.nonfinite, numbers.FIND_CAUSE),
    Rule("SC402", "close to overflow in half precision", WARNING, numbers.near_overflow, numbers.MORE_RANGE),
    Rule("SC403", "gradient underflows in float16", WARNING, numbers.underflow, numbers.SCALE_LOSS,
         ("SC401", "SC101", "SC502")),
    Rule("SC501", "parameters without a gradient", WARNING, structure.no_gradient, structure.RECONNECT),
    Rule("SC502", "gradient of exactly zero", WARNING, structure.zero_gradient, structure.FIND_FLAT,
         ("SC206", "SC401", "SC601")),
    Rule("SC503", "identical neurons", WARNING, identical.identical_neurons, identical.RANDOMISE, ("SC502",),
         stalls=True),
    Rule("SC504", "weights that are not registered", WARNING, structure.unregistered, structure.REGISTER, mistake=True),
    Rule("SC505", "frozen weights", WARNING, layers.frozen, layers.UNFREEZE),
    Rule("SC506", "samples are mixed", WARNING, dependence.mixed_samples, dependence.SEPARATE, mistake=True),
    Rule("SC507", "no activation in between", WARNING, layers.no_activation, layers.ACTIVATE, mistake=True,
         signal=True),
    Rule("SC508", "order has no effect", NOTE, dependence.no_order, dependence.ADD_POSITIONS),
    Rule("SC509", "normalisation differs in use", WARNING, layers.normalisation, layers.NORMALISE),
    Rule("SC510", "dropout too strong", WARNING, layers.dropout, layers.DROP_LESS),
    Rule("SC511", "mask hides the content", WARNING, dependence.hidden_content, dependence.INVERT_MASK, mistake=True),
    Rule("SC512", "no second derivative", WARNING, layers.no_second_derivative, layers.CURVE, ("SC202", "SC502"),
         mistake=True),
    Rule("SC601", "wrong input to the loss", WARNING, loss.wrong_input, loss.REPLACE, mistake=True, stalls=True),
    Rule("SC602", "outputs and targets broadcast", ERROR, loss.broadcast, loss.RESHAPE, mistake=True),
    Rule("SC603", "targets out of reach", WARNING, loss.out_of_reach, loss.SCALE, mistake=True),
    Rule("SC604", "targets far from the outputs", WARNING, loss.far_targets, loss.STANDARDISE, ("SC401", "SC603"),
         mistake=True),
    Rule("SC605", "all targets are the same", WARNING, loss.same_targets, loss.CHECK_LABELS, mistake=True),
    Rule("SC606", "targets are visible", ERROR, dependence.visible_targets, dependence.MASK, ("SC506",), mistake=True),
    Rule("SC607", "certain and wrong", WARNING, loss.certain_and_wrong, loss.SMALLER,
         ("SC102", "SC104", "SC203", "SC205", "SC206", "SC302", "SC305", "SC307", "SC401", "SC601")),
)  # fmt: skip
RULES = (
    *_FAULTS,
    Rule("SC608", "answers of a constant", NOTE, standstill.constant_answers, standstill.CHECK_PAIRS,
         (*(rule.id for rule in _FAULTS), "SC609", "SC610", "SC611")),
    Rule("SC609", "a term of the loss is drowned", WARNING, terms.drowned, terms.BALANCE, ("SC303", "SC401", "SC501")),
    Rule("SC610", "class weights reversed", WARNING, terms.reversed_weights, terms.INVERT_WEIGHTS, mistake=True),
    Rule("SC611", "the loss is maximised", WARNING, terms.maximised, terms.MINIMISE, ("SC401",), mistake=True),
    Rule("SC612", "padding counts in the loss", WARNING, terms.padding, terms.IGNORE, mistake=True),
)  # fmt: skip
"""All rules, by code: code, name, severity, check, remedy, rules that explain it."""


def find(measurements: Sequence[Measurement]) -> tuple[Finding, ...]:
    """At most one finding for each rule: errors, then warnings, then notes, without those that another one explains.

    Of one severity, mistakes in the code come before their effects.

    The measurements are of one training, latest last, or a single one. The latest is judged. The earlier ones tell how
    large the updates were, and since when numbers are not finite.
    """
    if not measurements:
        return ()
    evidence = Evidence(measurements)
    found = [(rule, x) for rule in RULES if (x := _checked(rule, evidence)) is not None]
    reported = {rule.id for rule, result in found if (result.severity or rule.severity) is not NOTE}
    findings = []
    for rule, x in found:
        if x.severity is NOTE and not reported.isdisjoint(rule.explains):
            x = replace(x, message=x.message + _(" The steps are too large for them."), severity=WARNING)
        if reported.isdisjoint(rule.hidden_by):
            severity, name, remedy = x.severity or rule.severity, _(rule.name), _(x.remedy or rule.remedy)
            finding = Finding(rule.id, name, severity, x.layers, x.value, x.threshold, x.message, remedy)
            findings.append(((ERROR, WARNING, NOTE).index(severity), not rule.mistake, finding))
    return tuple(finding for *_, finding in sorted(findings, key=lambda found: found[:2]))


def _checked(rule: Rule, evidence: Evidence) -> Found | None:
    """What a rule finds: if the training stood still, also in the first measurement, and its note is a warning."""
    found = rule.check(evidence)
    if found is not None and rule.signal and standstill.fitted(evidence):
        return replace(found, message=found.message + _(" The loss is small nevertheless."), severity=NOTE)
    if not rule.stalls or not standstill.stalled(evidence):
        return found
    found = found or rule.check(Evidence(evidence.measurements[:1]))
    if found is None or found.severity is not NOTE:
        return found
    return replace(found, message=found.message + _(" The loss has stood still."), severity=WARNING)
