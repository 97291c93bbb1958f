"""The calls that findings suggest: plain PyTorch, or a better one that another package has for this model."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from unstuck.extensions import extensions
from unstuck.findings import Finding, Severity
from unstuck.language import _
from unstuck.measure.activations import activation_of
from unstuck.measure.measurement import Measurement, Subject
from unstuck.rules import Evidence, find
from unstuck.untrained import may_be_redrawn

Suggest = Callable[[Finding, Measurement, Subject], "tuple[str, str | None] | None"]
"""Suggests the remedy and the call for a finding; None if there is no better one; a ValueError says why there is none.

An entry point of the group `unstuck.remedies` names such a function.
"""


def findings_of(measurements: Sequence[Measurement], subject: Subject | None) -> tuple[Finding, ...]:
    """The findings of the rules, with calls that run for this model, if there is one; it is not changed or run."""
    findings = find(measurements)
    return findings if subject is None else tuple(_with_call(f, measurements[-1], subject) for f in findings)


def diagnose_call(subject: Subject, *options: str) -> str:
    """The call that measures the same again, with these options."""
    loss = ("targets", "loss_fn") if subject.loss_fn is not None or subject.inputs is None else ()
    arguments = [subject.name(name) for name in ("model", "inputs", *loss)]
    mode = ["training=True"] if subject.training else []
    return f"unstuck.diagnose({', '.join([*arguments, *mode, *options])})"


def _with_call(finding: Finding, measurement: Measurement, subject: Subject) -> Finding:
    if finding.severity is Severity.NOTE or finding.rule not in _PLAIN:
        return finding
    remedy = finding.remedy
    for point in extensions():
        try:
            suggestion = point.load()(finding, measurement, subject)
        except Exception as error:  # a model may raise anything while it is traced: a diagnosis does not fail for that
            why = str(error).strip().partition("\n")[0].rstrip(".")
            remedy += _(" {package} has no call for this model ({why}).", package=point.name, why=why)
        else:
            if suggestion is not None:
                return replace(finding, remedy=suggestion[0], call=suggestion[1])
    call = _PLAIN[finding.rule](finding, measurement, subject)
    if call is not None and finding.rule == "US401":
        remedy += _(" This call names the operation that made the first one.")
    return replace(finding, remedy=remedy, call=call)


def _redraw(finding: Finding, measurement: Measurement, subject: Subject) -> str | None:
    """The call that draws weights for the hidden activations; None if the weights are trained, or gates are closed."""
    named = [layer for layer in measurement.layers if layer.name in finding.layers]
    if (named and all(layer.gate for layer in named)) or not may_be_redrawn(subject.model, measurement):
        return None
    model = subject.name("model")
    hidden = [measurement.layers[i] for i in Evidence((measurement,)).hidden]
    kinds = [activation_of(layer) for layer in hidden]
    s_shaped = bool(kinds) and all(kind is not None and kind.s_shaped for kind in kinds)
    statements = []
    sigmoids = {name for name, module in subject.model.named_modules() if isinstance(module, nn.Sigmoid)}
    if sigmoids & {layer.module for layer in hidden}:
        visible = sorted(sigmoids - {layer.module for layer in hidden})  # they keep outputs and gates between 0 and 1
        but = f" and name not in {visible}" if visible else ""
        statements += [
            f"for name, layer in list({model}.named_modules()):",
            f"    if isinstance(layer, torch.nn.Sigmoid){but}:",
            f"        {model}.set_submodule(name, torch.nn.Tanh())",
        ]
    draw = "orthogonal_(layer.weight, 1.1)" if s_shaped else "kaiming_normal_(layer.weight)"
    statements += [
        f"for layer in {model}.modules():",
        "    if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d)):",
        "        layer.reset_parameters()",
        f"        torch.nn.init.{draw}",
    ]
    return "\n".join(statements)


def _trace(finding: Finding, measurement: Measurement, subject: Subject) -> str | None:
    """The call that names the operation, unless it is known or an earlier step made the numbers."""
    if measurement.origin or measurement.input_nonfinite or any(weight.nonfinite for weight in measurement.weights):
        return None
    return f"print({diagnose_call(subject, 'trace_nonfinite=True')})"


_PLAIN: dict[str, Callable[[Finding, Measurement, Subject], str | None]] = {
    **dict.fromkeys(("US101", "US102", "US201", "US202", "US203", "US503", "US607"), _redraw),
    **dict.fromkeys(("US103", "US301", "US302"), lambda *_: None),  # the words have the call
    "US401": _trace,
}
"""The calls in plain PyTorch, by rule; a rule that is not here is repaired in the user's code."""
