"""The table of all rules. To add a rule: write its check in a file beside this one, and add a row here."""

from collections.abc import Sequence
from dataclasses import replace

from unstuck.findings import Finding, Severity
from unstuck.language import _
from unstuck.measure.measurement import Measurement
from unstuck.rules import (
    collapse,
    dependence,
    gradient,
    layers,
    loss,
    numbers,
    standstill,
    steps,
    structure,
    terms,
    time,
    units,
    updates,
)
from unstuck.rules.evidence import Evidence
from unstuck.rules.rule import Found, Rule

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

RULES: tuple[Rule, ...] = (
    Rule("US101", "vanishing gradient", WARNING, gradient.vanishing, gradient.INITIALISE, ("US307", "US401", "US503"),
         stalls=True, signal=True),
    Rule("US102", "exploding gradient", WARNING, gradient.exploding, gradient.SHRINK, ("US401", "US503"),
         signal=True),
    Rule("US103", "gradient vanishes through time", WARNING, time.vanishing, time.REMEMBER, ("US401",), signal=True),
    Rule("US201", "saturated neurons", WARNING, units.saturation, units.SHRINK, ("US401",), signal=True),
    Rule("US202", "dead units", WARNING, units.dead_units, units.REVIVE, ("US206", "US401", "US502"),
         signal=True),
    Rule("US203", "samples collapse to one point", WARNING, collapse.collapse, collapse.SEPARATE,
         ("US401", "US101", "US201", "US202", "US502", "US503"), signal=True),
    Rule("US204", "attention collapsed to one key", WARNING, units.sharp_attention, units.SOFTEN, ("US401",),
         signal=True),
    Rule("US206", "inputs not scaled", WARNING, units.unscaled_inputs, units.RESCALE, ("US401",), mistake=True,
         stalls=True, explains=("US302",)),
    Rule("US301", "updates too small", WARNING, updates.too_small, updates.FASTER, ("US303", "US401", "US502")),
    Rule("US302", "updates too large", WARNING, updates.too_large, updates.SLOWER,
         ("US206", "US102", "US305", "US307"), mistake=True),
    Rule("US303", "parameters in no optimizer", WARNING, steps.unheld, steps.ADD, mistake=True),
    Rule("US304", "no optimizer step", ERROR, steps.no_step, steps.STEP, ("US401", "US501"), mistake=True),
    Rule("US305", "gradients are not cleared", WARNING, steps.uncleared, steps.CLEAR, mistake=True),
    Rule("US306", "gradients are cleared too early", WARNING, steps.discarded, steps.CLEAR_LATER, mistake=True),
    Rule("US307", "weight decay too strong", WARNING, steps.strong_decay, steps.LESS_DECAY, ("US401", "US502", "US609"),
         signal=True),
    Rule("US308", "optimizer made again", WARNING, steps.replaced, steps.KEEP),
    Rule("US309", "gradient of the target", WARNING, terms.not_stopped, terms.DETACH, ("US401",), mistake=True),
    Rule("US401", "inf or NaN", ERROR, numbers.nonfinite, numbers.FIND_CAUSE),
    Rule("US501", "parameters without a gradient", WARNING, structure.no_gradient, structure.RECONNECT),
    Rule("US502", "gradient of exactly zero", WARNING, structure.zero_gradient, structure.FIND_FLAT,
         ("US206", "US401", "US601")),
    Rule("US503", "identical neurons", WARNING, units.identical_neurons, units.RANDOMISE, ("US502",),
         stalls=True),
    Rule("US504", "weights that are not registered", WARNING, structure.unregistered, structure.REGISTER, mistake=True),
    Rule("US505", "frozen weights", WARNING, layers.frozen, layers.UNFREEZE),
    Rule("US506", "samples are mixed", WARNING, dependence.mixed_samples, dependence.SEPARATE, mistake=True),
    Rule("US507", "no activation in between", WARNING, layers.no_activation, layers.ACTIVATE, mistake=True,
         signal=True),
    Rule("US509", "normalisation differs in use", WARNING, layers.normalisation, layers.NORMALISE),
    Rule("US510", "dropout too strong", WARNING, layers.dropout, layers.DROP_LESS),
    Rule("US601", "wrong input to the loss", WARNING, loss.wrong_input, loss.REPLACE, mistake=True, stalls=True),
    Rule("US602", "outputs and targets broadcast", ERROR, loss.broadcast, loss.RESHAPE, mistake=True),
    Rule("US603", "targets out of reach", WARNING, loss.out_of_reach, loss.SCALE, mistake=True),
    Rule("US604", "targets far from the outputs", WARNING, loss.far_targets, loss.STANDARDISE, ("US401", "US603"),
         mistake=True),
    Rule("US605", "all targets are the same", WARNING, loss.same_targets, loss.CHECK_LABELS, mistake=True),
    Rule("US606", "targets are visible", ERROR, dependence.visible_targets, dependence.MASK, ("US506",), mistake=True),
    Rule("US607", "certain and wrong", WARNING, loss.certain_and_wrong, loss.SMALLER,
         ("US102", "US203", "US206", "US302", "US305", "US307", "US401", "US601")),
    Rule("US609", "a term of the loss is drowned", WARNING, terms.drowned, terms.BALANCE, ("US303", "US401", "US501")),
    Rule("US610", "class weights reversed", WARNING, terms.reversed_weights, terms.INVERT_WEIGHTS, mistake=True),
    Rule("US701", "labels at the wrong place", ERROR, dependence.misplaced_labels, dependence.SHIFT_ONCE, mistake=True),
    Rule("US702", "padding counts", WARNING, dependence.padding, dependence.MASK_PADDING, ("US401",), mistake=True),
    Rule("US703", "an input without effect", WARNING, dependence.without_effect, dependence.USE, ("US401",),
         mistake=True),
    Rule("US704", "unrelated to the samples", WARNING, dependence.unrelated, dependence.CHECK_PAIRS, ("US301", "US401"),
         signal=True),
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
