"""Repairs for the findings of `unstuck` that only Sigmoid Core makes. `suggest` is an entry point of `unstuck`."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from torch import nn

from sigmoidcore.calibration.orthogonal import computed_weights
from sigmoidcore.conversion.activation_sites import Site
from sigmoidcore.conversion.activations import KINDS, WITH_MEAN
from sigmoidcore.conversion.convert import ConversionPlan, planned
from sigmoidcore.core import CoreModule
from sigmoidcore.language import _
from unstuck.findings import Finding
from unstuck.measure.measurement import Layer, Measurement, Subject
from unstuck.rules import Evidence
from unstuck.untrained import may_be_redrawn

SIGMOIDS = frozenset({"SigmoidCore", *KINDS})  # kinds of activations that `convert` makes cores of, and the core itself
GATED = frozenset({"RNN", "LSTM", "GRU"})  # Kinds of recurrent layers that `convert` makes layers of cores of
NAMED, DEEP = 3, 5  # A call names up to so many activations; from so many layers of sigmoids on, rates depend on depth


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
    """Remedy for a learning rate that is too low or too high, with the call for deep networks of sigmoids."""
    if sum(measurement.layers[i].kind in SIGMOIDS for i in Evidence((measurement,)).hidden) < DEEP:
        return None
    model = subject.name("model")
    more = _(" With Adam, sc.depth_scaled_lr({model}) gives the rates for sigmoids of this depth.", model=model)
    return finding.remedy + more, None


def _affected(finding: Finding, measurement: Measurement) -> list[Layer]:
    return [layer for layer in measurement.layers if layer.name in finding.layers]


def convert_call(model: nn.Module, measurement: Measurement, variable: str, *, fresh: bool) -> str:
    """The call of `convert`; "" if all candidates are cores already. If there is none, a ValueError says why.

    `convert` leaves activations in forwards that it cannot trace, and shared ones. The measurement shows what reads
    them, and how often they run. With fresh weights, sigmoids may be centered.
    """
    plan = planned(model)
    calls = _calls(plan, measurement)
    hidden = {measurement.layers[i].name for i in Evidence((measurement,)).hidden}

    def is_hidden(site: Site) -> bool:
        all_hidden = site.kind in SIGMOIDS and all(layer.name in hidden for layer in calls[site.name])
        return bool(calls[site.name]) and (site.kind in GATED or all_hidden)

    extra = {c.site.name for c in plan.choices if not c.cores and is_hidden(c.site)}
    asked = planned(model, include=sorted(extra)) if extra else plan
    runs = Counter(layer.module for layer in measurement.layers if layer.kind == "SigmoidCore")
    for choice in asked.choices:
        if len(calls[choice.site.name]) > len({id(core) for core in choice.cores.values()}) > 0:
            runs[choice.site.name] = len(calls[choice.site.name])
    repeated = {name: count for name, count in runs.items() if count > 1}
    new = {c.site.name: c.site.kind for c in asked.choices if c.cores and c.site.name not in repeated}
    cores = {name for name, module in model.named_modules() if isinstance(module, CoreModule)}
    # `calibrate` refuses a model with a core that runs several times.
    if not (new or cores) or not cores.isdisjoint(repeated):
        raise ValueError(_why(asked, repeated))
    if not new:
        return ""
    include = [name for name in new if name in extra]
    exclude = [c.site.name for c in plan.choices if c.cores and c.site.name not in new]
    kind = _kind_of_all(include, asked, new)
    parts = [f"include={f'torch.nn.{kind}' if kind else include}"] if include else []
    parts += [f"exclude={exclude}"] if exclude else []
    parts += ["centered=True"] if fresh and any(kind in WITH_MEAN for kind in new.values()) else []
    return f"sc.convert({', '.join([variable, *parts])})"


def _calls(plan: ConversionPlan, measurement: Measurement) -> dict[str, list[Layer]]:
    """The measured layers of each site. Functions of one forward are told apart by their order."""
    found: dict[tuple[str, str], list[Layer]] = defaultdict(list)
    for layer in measurement.layers:
        found[layer.module, layer.kind].append(layer)
    sites = [choice.site for choice in plan.choices]
    calls = {site.name: [layer for name in site.names for layer in found[name, site.kind]] for site in sites}
    functions: dict[tuple[str, str], list[Site]] = defaultdict(list)
    for site in (s for s in sites if s.module is None):  # in the order of the calls in each forward
        functions[site.owner, site.kind].append(site)
    for key, group in functions.items():
        complete = len(found[key]) % len(group) == 0
        calls |= {site.name: found[key][i :: len(group)] if complete else [] for i, site in enumerate(group)}
    return calls


def _kind_of_all(include: Sequence[str], plan: ConversionPlan, converted: Mapping[str, str]) -> str:
    """The type of all included activations, if there are many of one type and all of that type are converted."""
    kinds = {converted[name] for name in include}
    if len(include) <= NAMED or len(kinds) > 1 or any(kind.endswith("()") for kind in kinds):
        return ""
    return "" if any(c.site.kind in kinds and c.site.name not in converted for c in plan.choices) else kinds.pop()


def _why(plan: ConversionPlan, repeated: Mapping[str, int]) -> str:
    """The first reason why there is no activation that could become a core; those of sigmoids first."""
    left = [c for c in plan.choices if not c.cores and not isinstance(c.site.module, CoreModule)]
    sigmoids = [c for c in left if c.site.kind in SIGMOIDS | GATED]
    if repeated:
        name, count = next(iter(repeated.items()))
        return _("'{name}' runs {count} times: give each place its own activation", name=name, count=count)
    if plan.unseen and not sigmoids:
        name, reason = next(iter(plan.unseen.items()))
        owner = f"'{name}'" if name else _("the model")
        return _("the forward of {owner} cannot be traced: {reason}; make its calls modules, such as nn.Sigmoid()",
                 owner=owner, reason=reason)  # fmt: skip
    if left:
        first = (sigmoids or left)[0]
        return _("'{name}', {kind}: {why}", name=first.site.name, kind=first.site.kind, why=first.why)
    return _("there is no activation that could become a core")


_SUGGESTIONS = {
    **dict.fromkeys(("US101", "US102"), _level),
    **dict.fromkeys(("US301", "US302"), _rates),
    "US103": _level_through_time,
    "US201": _open,
}
