"""Which measured activations can become cores, and the arguments of `convert` for it. The model is not changed."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from sigmoidcore.conversion import UNCENTERED, Plan, Site, few, is_core, planned
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement
from sigmoidcore.diagnosis.rules import Evidence

SIGMOIDS = frozenset({"Sigmoid", "Tanh", "sigmoid()", "tanh()", "SigmoidCore"})
"""Kinds of activations that `convert` makes cores of, and the core itself."""
GATED = frozenset({"RNN", "LSTM", "GRU"})
"""Kinds of recurrent layers that `convert` makes layers of cores of."""
NAMED = 3
"""Up to this many activations are named in a call; more are given by their type."""
REASONS = 2
"""Reasons that are told."""


@dataclass(frozen=True)
class Candidates:
    """Activations that can become cores whose slopes can be set, and cores that the model has already.

    Attributes:
        new: names of activations of which `convert` makes cores with these arguments.
        include: those of them that `convert` leaves by itself, although the measurement shows that a layer reads them.
        include_kind: the type that stands for `include`, such as "Tanh"; "" without one.
        exclude: names of other activations of which `convert` would make cores.
        uncentered: whether some of `new` are sigmoids, whose mean is 1/2.
        cores: names of the cores that are there.
        left: names of activations that do not change, by reason.
    """

    new: tuple[str, ...]
    include: tuple[str, ...]
    include_kind: str
    exclude: tuple[str, ...]
    uncentered: bool
    cores: tuple[str, ...]
    left: dict[str, list[str]]

    @property
    def why(self) -> str:
        """Why activations are left."""
        reasons = [f"{few(names)}: {reason}" for reason, names in self.left.items()]
        return "; ".join(reasons[:REASONS]) or "there is no activation that could become a core"

    def call(self, fresh: bool) -> str:
        """The call of `convert`, or "" if nothing is converted; with fresh weights, sigmoids may be centered."""
        if not self.new:
            return ""
        include = f"torch.nn.{self.include_kind}" if self.include_kind else list(self.include)
        parts = [f"include={include}"] if self.include else []
        parts += [f"exclude={list(self.exclude)}"] if self.exclude else []
        parts += ["centered=True"] if fresh and self.uncentered else []
        return f"sc.convert({', '.join(['model', *parts])})"


def candidates(model: nn.Module, measurement: Measurement, names: Collection[str] | None = None) -> Candidates:
    """Find the activations that can become cores.

    `convert` leaves activations in forwards that it cannot trace, and shared ones. The measurement shows what reads
    them, and how often they run.

    Args:
        model: the measured module.
        measurement: of this model.
        names: layers of the measurement, if only those are wanted.
    """
    plan = planned(model)
    calls = _Calls(measurement, [choice.site for choice in plan.choices], names)
    extra = {c.site.name for c in plan.choices if not c.cores and calls.hidden(c.site)}
    asked = planned(model, include=sorted(extra)) if extra else plan
    left: dict[str, list[str]] = {}
    for name, reason in calls.reasons(asked):
        left.setdefault(reason, []).append(name)
    repeated = {name for names in left.values() for name in names}
    new = [c for c in asked.choices if c.cores and calls.wanted(c.site) and c.site.name not in repeated]
    cores = [name for name, module in model.named_modules() if is_core(module) and calls.wants_module(name)]
    if names is None and repeated.intersection(cores):  # calibrate refuses a model with a core that runs several times
        new, cores = [], []
    converted = {c.site.name for c in new}
    include = tuple(c.site.name for c in new if c.site.name in extra)
    return Candidates(
        new=tuple(c.site.name for c in new),
        include=include,
        include_kind=_kind(include, asked, converted),
        exclude=tuple(c.site.name for c in plan.choices if c.cores and c.site.name not in converted),
        uncentered=any(c.site.kind in UNCENTERED for c in new),
        cores=tuple(name for name in cores if name not in repeated),
        left=left,
    )


def _kind(include: Collection[str], plan: Plan, converted: Collection[str]) -> str:
    """The type of all included activations, if there are many of one type and all of that type are converted."""
    kinds = {c.site.kind for c in plan.choices if c.site.name in include}
    if len(include) <= NAMED or len(kinds) > 1 or any(kind.endswith("()") for kind in kinds):
        return ""
    return "" if any(c.site.kind in kinds and c.site.name not in converted for c in plan.choices) else kinds.pop()


class _Calls:
    """The measured layers, by the activation that makes them."""

    def __init__(self, measurement: Measurement, sites: Sequence[Site], names: Collection[str] | None) -> None:
        self._names = names
        self._layers = [layer for layer in measurement.layers if names is None or layer.name in names]
        self._hidden = {measurement.layers[i].name for i in Evidence((measurement,)).hidden}
        calls: dict[tuple[str, str], list[Layer]] = defaultdict(list)
        for layer in measurement.layers:
            calls[layer.module, layer.kind].append(layer)
        functions: dict[tuple[str, str], list[Site]] = defaultdict(list)
        for site in sites:
            if site.module is None:
                functions[site.owner, site.kind].append(site)
        self._of = {site.name: [x for name in site.names for x in calls[name, site.kind]] for site in sites}
        for key, group in functions.items():  # functions of one forward are told apart by their order
            group.sort(key=lambda site: -1 if site.index is None else site.index)
            known = len(calls[key]) % len(group) == 0
            self._of |= {site.name: calls[key][i :: len(group)] if known else [] for i, site in enumerate(group)}

    def wanted(self, site: Site) -> bool:
        """Whether one of its calls is wanted."""
        return self._names is None or any(layer.name in self._names for layer in self._of[site.name])

    def wants_module(self, name: str) -> bool:
        """Whether a call of this module is wanted."""
        return self._names is None or any(layer.module == name for layer in self._layers)

    def hidden(self, site: Site) -> bool:
        """Whether it is wanted, and the measurement shows that layers with weights read all its calls."""
        calls = self._of[site.name] if self.wanted(site) else []
        sigmoid = site.kind in SIGMOIDS and all(layer.name in self._hidden for layer in calls)
        return bool(calls) and (site.kind in GATED or sigmoid)

    def reasons(self, plan: Plan) -> Iterator[tuple[str, str]]:
        """Name and reason of the wanted activations that cannot become cores; sigmoids first."""
        runs = Counter(layer.module for layer in self._layers if layer.kind == "SigmoidCore")
        choices = [choice for choice in plan.choices if self.wanted(choice.site)]
        for choice in choices:
            count = len(self._of[choice.site.name])
            if count > len({id(core.module) for core in choice.cores}) > 0:
                runs[choice.site.name] = count
        for name, count in runs.items():
            if count > 1:
                yield name, f"runs {count} times in a forward pass: give each place its own activation"
        left = [(c.site.name, c.site.kind, c.why) for c in choices if not c.cores and not is_core(c.site.module)]
        left += list(self._without_site(plan))
        for name, kind, why in sorted(left, key=lambda row: row[1] not in SIGMOIDS | GATED):
            yield name, f"{kind} {why}"

    def _without_site(self, plan: Plan) -> Iterator[tuple[str, str, str]]:
        """Wanted activations that `convert` does not see: functions in a forward that it cannot trace."""
        seen = {layer.name for calls in self._of.values() for layer in calls}
        for layer in self._layers:
            hidden = self._names is not None or layer.name in self._hidden
            if layer.role != "activation" or layer.kind == "SigmoidCore" or layer.name in seen or not hidden:
                continue
            owner = f"'{layer.module}'" if layer.module else "the model"
            reason = next((f" ({why})" for name, why in plan.unseen.items() if layer.module.startswith(name)), "")
            module = {"tanh()": ", nn.Tanh()", "sigmoid()": ", nn.Sigmoid()"}.get(layer.kind, "")
            why = f"is called in the forward of {owner}, which convert cannot trace{reason}: make it a module{module}"
            yield layer.name, layer.kind, why
