"""Which activations of a model that was measured can become cores whose slopes `calibrate` sets. Nothing is changed."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from sigmoidcore.conversion import eligibility
from sigmoidcore.conversion.activation_sites import Site
from sigmoidcore.conversion.convert import Choice, Plan, planned
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement
from sigmoidcore.diagnosis.rules.evidence import GATED, SIGMOIDS, Evidence

NAMED = 3
"""More activations than this are named by their type, if all of that type are meant."""


@dataclass(frozen=True)
class Cores:
    """What `convert` is to be told.

    Attributes:
        include: names of activations that a layer reads, as was measured, and that `convert` leaves by itself.
        exclude: names of those that it would make cores of, and that `calibrate` would then refuse.
        new: how many activations become cores.
        ready: the model has cores already, and each runs once.
        why: why there is none, or why not more; "" if all that was measured can become cores.
        kind: a name of a type, such as "Tanh", that says the same as `include`.
        uncentered: whether some that become cores are sigmoids, which have a mean of 1/2.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    new: int = 0
    ready: bool = False
    why: str = ""
    kind: str = ""
    uncentered: bool = False

    @property
    def possible(self) -> bool:
        """Whether there is a core to set the slope of, and none that would be refused."""
        return self.new > 0 or self.ready

    def call(self, anew: bool) -> str:
        """The call of `convert`, or "" if there is nothing to convert.

        Args:
            anew: whether weights are drawn anew after it, so that no function is to be kept, and sigmoids are centered.
        """
        if not self.new:
            return ""
        include = f", include=torch.nn.{self.kind}" if self.kind else f", include={list(self.include)}"
        exclude = f", exclude={list(self.exclude)}" if self.exclude else ""
        centered = ", centered=True" if anew and self.uncentered else ""
        return f"sc.convert(model{include if self.include else ''}{exclude}{centered})"


def cores(model: nn.Module, measurement: Measurement) -> Cores:
    """What `convert` is to be told so that `calibrate` takes the model.

    What reads an activation is not known to `convert` where a forward cannot be traced, or where it is used in several
    places; here it was measured.

    Args:
        model: is not changed.
        measurement: of this model.
    """
    rows = _Rows(measurement)
    plan = planned(model)
    wanted = {c.site.name for c in plan.choices if not c.cores and rows.reads_on(c.site)}
    asked = planned(model, include=sorted(wanted)) if wanted else plan
    twice = {c.site.name for c in asked.choices if c.cores and rows.runs(c.site) > _places(c)}
    include = tuple(c.site.name for c in asked.choices if c.cores and c.site.name in wanted - twice)
    exclude = tuple(c.site.name for c in plan.choices if c.cores and c.site.name in twice)
    new = [c for c in asked.choices if c.cores and c.site.name not in twice]
    refused = [layer for layer in rows.of_cores if rows.count(layer) > 1]
    if refused:
        return Cores(why=_runs(refused[0].module, rows.count(refused[0])))
    kinds = {c.site.kind for c in new if c.site.name in include}
    kind = min(kinds) if len(kinds) == 1 and len(include) > NAMED and not min(kinds).endswith("()") else ""
    if kind and any(c.site.kind == kind and c not in new for c in asked.choices):
        kind = ""
    ready = any(eligibility.is_core(module) for module in model.modules())
    uncentered = any(c.site.kind in eligibility.UNCENTERED for c in new)
    return Cores(include, exclude, len(new), ready, _why(plan, asked, rows, twice), kind, uncentered)


class _Rows:
    """The layers that were measured, by the activation that they are of."""

    def __init__(self, measurement: Measurement) -> None:
        evidence = Evidence((measurement,))
        self._layers = measurement.layers
        self._hidden = {measurement.layers[i].name for i in evidence.hidden}
        self._sites: dict[tuple[str, str], list[Layer]] = {}
        for layer in measurement.layers:
            self._sites.setdefault((layer.module, layer.kind), []).append(layer)

    def of(self, site: Site) -> list[Layer]:
        """The layers that a site was, in all places."""
        names = site.names if site.module is not None else (site.owner,)
        return [layer for name in names for layer in self._sites.get((name, site.kind), [])]

    def runs(self, site: Site) -> int:
        """How often it runs in a forward pass, at least; of functions, those of a kind in one forward together."""
        return len(self.of(site)) if site.module is not None else 0

    def reads_on(self, site: Site) -> bool:
        """Whether a layer with weights reads it, and it is no gate, everywhere."""
        found = self.of(site)
        return bool(found) and (
            site.kind in GATED or (site.kind in SIGMOIDS and all(layer.name in self._hidden for layer in found))
        )

    def count(self, layer: Layer) -> int:
        """How many layers are of the same module and kind."""
        return len(self._sites[layer.module, layer.kind])

    @property
    def of_cores(self) -> Iterator[Layer]:
        """The layers that are cores now."""
        return (layer for layer in self._layers if layer.kind == "SigmoidCore")

    def unseen(self, plan: Plan) -> Iterator[Layer]:
        """Hidden sigmoids that are functions, in forwards that could not be traced."""
        seen = {c.site.owner for c in plan.choices if c.site.module is None}
        for layer in self._layers:
            a_call = layer.kind.endswith("()") and layer.kind in SIGMOIDS and layer.module not in seen
            if a_call and layer.name in self._hidden:
                yield layer


def _places(choice: Choice) -> int:
    return len({id(core.module) for core in choice.cores})


def _runs(name: str, count: int) -> str:
    return f"'{name}' runs {count} times in a forward pass: give each place an activation of its own"


def _why(plan: Plan, asked: Plan, rows: _Rows, twice: set[str]) -> str:
    """The first reason for which something that was measured does not become a core."""
    for choice in asked.choices:
        if choice.site.name in twice:
            return _runs(choice.site.name, rows.runs(choice.site))
    for choice in asked.choices:
        if not choice.cores and choice.site.kind in SIGMOIDS | GATED and not eligibility.is_core(choice.site.module):
            return f"'{choice.site.name}' ({choice.site.kind}) {choice.why}"
    for layer in rows.unseen(plan):
        why = next((why for name, why in plan.unseen.items() if layer.module.startswith(name)), "")
        what = f"'{layer.module}'" if layer.module else "the model"
        kind = "nn.Tanh()" if layer.kind == "tanh()" else "nn.Sigmoid()"
        return f"the forward of {what} cannot be traced{why and f' ({why})'}, so convert does not see its calls of " + (
            f"{layer.kind}: make them modules, {kind}"
        )
    return ""
