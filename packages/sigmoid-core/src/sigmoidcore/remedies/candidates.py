"""Which activations of a measured model can become cores, as a call of `convert`. The model is not changed."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from sigmoidcore.conversion.activation_sites import Site
from sigmoidcore.conversion.activations import FUNCTIONS, KINDS, WITH_MEAN
from sigmoidcore.conversion.convert import ConversionPlan, planned
from sigmoidcore.core import CoreModule
from sigmoidcore.language import _
from unstuck.measure.measurement import Layer, Measurement
from unstuck.rules import Evidence
from unstuck.wording import few

SIGMOIDS = frozenset({"SigmoidCore", *KINDS})
"""Kinds of activations that `convert` makes cores of, and the core itself."""
GATED = frozenset({"RNN", "LSTM", "GRU"})  # Kinds of recurrent layers that `convert` makes layers of cores of
NAMED = 3  # Up to this many activations are named in a call; more are given by their type
REASONS = 2  # Reasons that are told


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
        known = {layer.name for of_site in calls.values() for layer in of_site}
        unseen = [layer for layer in measurement.layers if layer.name in hidden - known]
        why = _why(asked, repeated, [(x.name, x.kind, why) for x in unseen for why in _why_unseen(x, plan)])
        raise ValueError(why or _("there is no activation that could become a core"))
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
    for site in sorted((s for s in sites if s.module is None), key=lambda s: -1 if s.index is None else s.index):
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


def _why(plan: ConversionPlan, repeated: Mapping[str, int], unseen: Sequence[tuple[str, str, str]]) -> str:
    """Why activations are left, sigmoids first, in a few sentences."""
    left: dict[str, list[str]] = defaultdict(list)
    for name, count in repeated.items():
        left[_("runs {count} times in a forward pass: give each place its own activation", count=count)].append(name)
    left_alone = [c for c in plan.choices if not c.cores and not isinstance(c.site.module, CoreModule)]
    others = [(c.site.name, c.site.kind, c.why) for c in left_alone]
    for name, kind, why in sorted([*others, *unseen], key=lambda row: row[1] not in SIGMOIDS | GATED):
        left[_("{kind} {why}", kind=kind, why=why)].append(name)
    reasons = [_("{names}: {reason}", names=few(names), reason=reason) for reason, names in left.items()]
    return _("; ").join(reasons[:REASONS])


def _why_unseen(layer: Layer, plan: ConversionPlan) -> Iterator[str]:
    """Why `convert` does not see this activation: it is a function in a forward that cannot be traced."""
    if layer.role == "activation" and layer.kind != "SigmoidCore":
        owner = f"'{layer.module}'" if layer.module else _("the model")
        reason = next((f" ({why})" for name, why in plan.unseen.items() if layer.module.startswith(name)), "")
        module = ""
        if layer.kind in FUNCTIONS:
            module = _(", {call}", call=f"nn.{FUNCTIONS[layer.kind].module.__name__}()")
        yield _(
            "is called in the forward of {owner}, which convert cannot trace{reason}: make it a module{module}",
            owner=owner,
            reason=reason,
            module=module,
        )
