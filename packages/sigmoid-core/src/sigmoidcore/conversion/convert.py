"""Convert: hidden sigmoids, tanhs and recurrent layers become cores; the function that a model computes stays."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from sigmoidcore._torch.modules import give_hooks
from sigmoidcore.conversion.activation_sites import Site, Use, find_sites
from sigmoidcore.conversion.activations import WITH_MEAN, function_of
from sigmoidcore.conversion.eligibility import Names, judge, select
from sigmoidcore.conversion.report import Activation, Conversion, few
from sigmoidcore.conversion.rewriting import OwnForward
from sigmoidcore.conversion.tracing import RewrittenForward, UntraceableError
from sigmoidcore.core import CoreModule, SigmoidCore
from sigmoidcore.nn.recurrent import converted
from sigmoidcore.nn.rows import fuse_rows
from unstuck.observation.batch import check_model


def convert(model: nn.Module, *, include: Names = None, exclude: Names = None, centered: bool = False) -> Conversion:
    """Replace a model's hidden sigmoids, tanhs and recurrent layers by cores, in place; its function does not change.

    `nn.Sigmoid` and `nn.Tanh` are replaced under their names. A call of `torch.sigmoid` or `torch.tanh` becomes a call
    of a new core of the module whose forward makes it; `torch.fx` generates that forward from its trace. `nn.RNN`
    (tanh), `nn.LSTM` and `nn.GRU` become layers of cores with the same parameters. The model keeps its class,
    parameters, hooks and modes, and loads checkpoints of the plain model with `strict=True`.

    Left alone, with the reason in the report, are activations that reach the model's output, that multiply another
    signal (gates), that are used in several places, or whose use is unknown because a forward cannot be traced; and
    recurrent layers in several places.

    Args:
        model: any module. Optional arguments of its forward are taken to have their defaults.
        include: activations and recurrent layers to convert although they would be left: names as in the report,
            patterns (`"head.*"`), or types of modules, which stand for those of that type and for all inside modules
            of that type. An activation that one forward calls several times gets a core for each call.
        exclude: activations and recurrent layers to leave alone, likewise.
        centered: make centered cores of sigmoids, too: **their function changes** by 1/2. Use it before training, for
            depth: more than some ten layers of sigmoids with a mean of 1/2 hardly train.

    Returns:
        A frozen, printable report. The model itself is changed.

    Raises:
        TypeError: `model` is not an nn.Module, or is one of `torch.jit`; `include` or `exclude` contains anything but
            names, patterns and types.
        ValueError: a name, pattern or type stands for no activation, or for none that can be converted, or is in
            both `include` and `exclude`. The model is then unchanged.

    Example:
        >>> import sigmoidcore as sc
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1), nn.Sigmoid())
        >>> print(sc.convert(model))
        converted 1 of 2 activations
          converted  1  Tanh     hidden
          left       3  Sigmoid  its result reaches the model's output
        >>> model[1]
        SigmoidCore(16, centered=True, scale=2)
    """
    plan = planned(model, include=include, exclude=exclude, centered=centered)
    _check_answered(plan.choices)
    for choice in plan.choices:  # plain assignments: nothing fails from here on
        for name, core in choice.cores.items():
            model.set_submodule(name, core)
    for owner, forward in plan.forwards:
        setattr(owner, "forward", forward)  # noqa: B010 (mypy takes an assignment for that of a method)
    fuse_rows(model)
    return Conversion(tuple(a for choice in plan.choices for a in choice.report()), tuple(plan.unseen.items()))


def planned(
    model: nn.Module, *, include: Names = None, exclude: Names = None, centered: bool = False
) -> "ConversionPlan":
    """What `convert` would do. The cores are made, and the model is not changed. What cannot be included is left."""
    check_model(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(f"a {type(model).__name__} has no forward in Python: convert first, then use torch.jit")
    sites, unseen = find_sites(model)
    included, excluded = select(model, sites, "include", include), select(model, sites, "exclude", exclude)
    both = [site.name for site in included if site in excluded]
    if both:
        raise ValueError(f"{few(both)} is in include and in exclude: take it out of one")
    judged = [judge(s, included=s in included, excluded=s in excluded, centered=centered) for s in sites]
    choices = [Choice(site, included.get(site), *each) for site, each in zip(sites, judged, strict=True)]
    return ConversionPlan(choices, unseen, _place_cores(model, choices))


@dataclass
class Choice:
    """What to do with one site: `like` has the arguments of its core (none for a layer), None leaves it."""

    site: Site
    asked: Any  # the entry of `include` that names it
    like: dict[str, Any] | None
    why: str
    cores: dict[str, CoreModule] = field(default_factory=dict)  # by name

    def add(self, model: nn.Module, name: str, use: Use | None) -> None:
        """Make a core of that name, on the device and in the dtype of its input."""
        assert self.like is not None
        activation, parent = self.site.module, model.get_submodule(name.rpartition(".")[0])
        features, dim = use.features if use and use.features else (None, -1)
        core = SigmoidCore(features, dim=dim, **self.like)
        weight = use.weight if use else None
        if weight is None:
            near = (tensor for m in (parent, model) for tensor in (*m.parameters(), *m.buffers()))
            weight = next((tensor for tensor in near if tensor.is_floating_point()), None)
        if weight is not None:
            core = core.to(weight.device, weight.dtype)
        core.train((activation or parent).training)
        if activation is not None:  # its hooks go on with the core
            give_hooks(activation, core, copies=bool(self.cores))
        self.cores[name] = core

    def report(self) -> list[Activation]:
        """A line for the site, or for each of its cores."""
        kind = self.site.kind
        if not self.cores:
            return [Activation(self.site.name, kind, False, self.why)]
        changed = kind in WITH_MEAN and self.like is not None and self.like.get("centered", False)
        rows: dict[int, Activation] = {}
        for name, core in self.cores.items():
            what = f"{self.why}; centered, so its function is less 1/2" if changed else self.why
            if isinstance(core, SigmoidCore) and core.num_features is None:
                what += "; one slope, because its number of features is not known"
            rows.setdefault(id(core), Activation(name, kind, True, what, not changed))
        return list(rows.values())


class ConversionPlan(NamedTuple):
    """What to do with a model: with every site, and which forwards to rewrite."""

    choices: list[Choice]
    unseen: dict[str, str]
    forwards: list[tuple[nn.Module, RewrittenForward]]


def _place_cores(model: nn.Module, choices: list[Choice]) -> list[tuple[nn.Module, RewrittenForward]]:
    """Make the cores of all choices; returns the forwards that call those which are not attributes."""
    by_owner: dict[str, list[Choice]] = defaultdict(list)
    for choice in choices:
        site = choice.site
        if choice.like is None:
            continue
        if site.recurrent is not None:
            choice.cores = dict.fromkeys(site.names, converted(site.recurrent))
        elif site.index is not None or site.called_several_times:
            by_owner[site.owner].append(choice)
        elif len(site.uses) == 1:
            choice.add(model, site.name, site.common)
            choice.cores = dict.fromkeys(site.names, choice.cores[site.name])
        else:  # a core for each place
            for name in site.names:
                choice.add(model, name, site.common)
    calls = Counter(choice.site.owner for choice in choices if choice.site.index is not None)
    forwards = []
    for owner, group in by_owner.items():
        try:
            forwards.append(_rewritten(model, owner, group, calls[owner]))
        except UntraceableError as error:
            why = f"the forward that calls it cannot be rewritten: {error}; make each call a module"
            for choice in group:
                choice.like, choice.why, choice.cores = None, why, {}
    return forwards


def _rewritten(model: nn.Module, owner: str, choices: list[Choice], calls: int) -> tuple[nn.Module, RewrittenForward]:
    """A module, and its forward with calls of cores; it has `calls` functional activations."""
    module, prefix = model.get_submodule(owner), f"{owner}." if owner else ""
    if isinstance(module, fx.GraphModule):
        raise UntraceableError("a GraphModule generates it from its graph")
    own = OwnForward(module)
    functions = own.calls(lambda node: function_of(node) is not None)
    cores: list[tuple[dict[bool, fx.Node], str, str]] = []
    for choice in choices:
        site, uses = choice.site, choice.site.uses  # a core for each call of a module
        target = site.name.removeprefix(prefix)
        nodes = own.calls(lambda node: node.op == "call_module" and node.target == target)  # noqa: B023 (called here)
        if site.index is not None:
            nodes, uses = functions[site.index : site.index + 1], site.uses[:1]
        if len(functions) != calls or len(nodes) != len(uses):
            raise UntraceableError("it does not make the same calls each time")
        parent = model.get_submodule(site.name.rpartition(".")[0])
        if isinstance(parent, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            raise UntraceableError(f"{type(parent).__name__} is a container, which would take the core for an entry")
        names = [site.name, *(f"{site.name}_{i}" for i in range(1, len(nodes)))]
        taken = [name for name in names[1:] if hasattr(parent, name.rpartition(".")[2])]
        if taken:
            raise UntraceableError(f"the name '{taken[0]}' is taken")
        for node, name, use in zip(nodes, names, uses, strict=True):
            choice.add(model, name, use if site.index is None else site.common)
            cores.append((node, name.removeprefix(prefix), target if site.index is None else site.kind))
    return module, own.with_cores(cores)


def _check_answered(choices: list[Choice]) -> None:
    """Raise a ValueError if something that was asked for is not done."""
    done = {c.asked for c in choices if c.like is not None or isinstance(c.site.module, CoreModule)}
    for choice in choices:
        if choice.asked is not None and choice.asked not in done:
            raise ValueError(f"include: '{choice.site.name}' ({choice.site.kind}) {choice.why}")
