"""Which measured activations can become cores, and the arguments of `convert` for it. The model is not changed."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from torch import nn

from sigmoidcore.conversion import FUNCTIONS, KINDS, ConversionPlan, Site, has_mean, is_core, planned
from sigmoidcore.language import _
from unstuck.measure.measurement import Layer, Measurement
from unstuck.rules import Evidence
from unstuck.wording import few

SIGMOIDS = frozenset({"SigmoidCore", *(name for name, kind in KINDS.items() if kind.exact)})
"""Kinds of activations that `convert` makes cores of, and the core itself."""
GATED = frozenset({"RNN", "LSTM", "GRU"})
"""Kinds of recurrent layers that `convert` makes layers of cores of."""
NAMED = 3
"""Up to this many activations are named in a call; more are given by their type."""
REASONS = 2
"""Reasons that are told."""


@dataclass(frozen=True)
class Candidates:
    """Activations that can become cores whose slopes can be set, and cores that the model has already."""

    new: tuple[str, ...]  # activations of which `convert` makes cores
    include: tuple[str, ...]  # those of `new` that `convert` leaves unless it is told
    include_kind: str  # their type, if all have the same
    exclude: tuple[str, ...]  # activations that `convert` would change and that must stay
    uncentered: bool  # whether `centered=True` changes some of `new`
    cores: tuple[str, ...]  # cores that the model has already
    why: str  # why other activations are left

    def check(self) -> None:
        """Raise a ValueError that says why if there is no activation to work on."""
        if not self.new and not self.cores:
            raise ValueError(self.why or _("there is no activation that could become a core"))

    def call(self, fresh: bool, model: str) -> str:
        """The call of `convert`, or "" if nothing is converted; with fresh weights, sigmoids may be centered."""
        if not self.new:
            return ""
        include = f"torch.nn.{self.include_kind}" if self.include_kind else list(self.include)
        parts = [f"include={include}"] if self.include else []
        parts += [f"exclude={list(self.exclude)}"] if self.exclude else []
        parts += ["centered=True"] if fresh and self.uncentered else []
        return f"sc.convert({', '.join([model, *parts])})"


def candidates(model: nn.Module, measurement: Measurement, names: Collection[str] | None = None) -> Candidates:
    """Find the activations that can become cores, all or those of some layers of the measurement.

    `convert` leaves activations in forwards that it cannot trace, and shared ones. The measurement of this model shows
    what reads them, and how often they run.
    """
    plan = planned(model)
    calls = _calls(plan, measurement)
    hidden = {measurement.layers[i].name for i in Evidence((measurement,)).hidden}

    def is_wanted(site: Site) -> bool:
        return names is None or any(layer.name in names for layer in calls[site.name])

    def is_hidden(site: Site) -> bool:
        all_hidden = site.kind in SIGMOIDS and all(layer.name in hidden for layer in calls[site.name])
        return bool(calls[site.name]) and (site.kind in GATED or all_hidden)

    extra = {c.site.name for c in plan.choices if not c.cores and is_wanted(c.site) and is_hidden(c.site)}
    asked = planned(model, include=sorted(extra)) if extra else plan
    choices = [choice for choice in asked.choices if is_wanted(choice.site)]
    layers = [layer for layer in measurement.layers if names is None or layer.name in names]

    runs = Counter(layer.module for layer in layers if layer.kind == "SigmoidCore")
    for choice in choices:
        count = len(calls[choice.site.name])
        if count > len({id(core) for core in choice.cores.values()}) > 0:
            runs[choice.site.name] = count
    left: dict[str, list[str]] = defaultdict(list)
    for name, count in runs.items():
        if count > 1:
            left[_("runs {count} times in a forward pass: give each place its own activation", count=count)].append(
                name
            )
    repeated = {name for several in left.values() for name in several}

    known = {layer.name for of in calls.values() for layer in of}
    unseen = (layer for layer in layers if layer.name not in known and (names is not None or layer.name in hidden))
    others = [(c.site.name, c.site.kind, c.why) for c in choices if not c.cores and not is_core(c.site.module)]
    others += [(x.name, x.kind, why) for x in unseen for why in _why_unseen(x, plan)]
    for name, kind, why in sorted(others, key=lambda row: row[1] not in SIGMOIDS | GATED):
        left[_("{kind} {why}", kind=kind, why=why)].append(name)

    new = [choice for choice in choices if choice.cores and choice.site.name not in repeated]
    modules = {layer.module for layer in layers}
    cores = [n for n, m in model.named_modules() if is_core(m) and (names is None or n in modules)]
    if names is None and repeated.intersection(cores):  # calibrate refuses a model with a core that runs several times
        new, cores = [], []
    converted = tuple(choice.site.name for choice in new)
    include = tuple(name for name in converted if name in extra)
    return Candidates(
        new=converted,
        include=include,
        include_kind=_kind(include, asked, converted),
        exclude=tuple(c.site.name for c in plan.choices if c.cores and c.site.name not in converted),
        uncentered=any(has_mean(choice.site.kind) for choice in new),
        cores=tuple(name for name in cores if name not in repeated),
        why=_("; ").join(
            [_("{names}: {reason}", names=few(several), reason=reason) for reason, several in left.items()][:REASONS]
        ),
    )


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


def _kind(include: Collection[str], plan: ConversionPlan, converted: Collection[str]) -> str:
    """The type of all included activations, if there are many of one type and all of that type are converted."""
    kinds = {c.site.kind for c in plan.choices if c.site.name in include}
    if len(include) <= NAMED or len(kinds) > 1 or any(kind.endswith("()") for kind in kinds):
        return ""
    return "" if any(c.site.kind in kinds and c.site.name not in converted for c in plan.choices) else kinds.pop()


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
