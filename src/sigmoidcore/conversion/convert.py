"""Convert: hidden sigmoids, tanhs and recurrent layers become cores; the function that a model computes stays."""

from collections import Counter, defaultdict
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from sigmoidcore.conversion.activation_sites import Site, Use, find, function_of
from sigmoidcore.conversion.eligibility import (
    NEAREST,
    called_several_times,
    change,
    is_core,
    judge,
    places,
    recurrent_layer,
)
from sigmoidcore.conversion.report import Activation, Conversion, few
from sigmoidcore.conversion.rewriting import OwnForward
from sigmoidcore.conversion.selection import Names, select
from sigmoidcore.conversion.traced_forward import TracedForward
from sigmoidcore.conversion.tracing import UntraceableError
from sigmoidcore.core import SigmoidCore
from sigmoidcore.nn.recurrent import RecurrentCores, converted


def convert(
    model: nn.Module,
    *,
    include: Names = None,
    exclude: Names = None,
    nearest: Names = None,
    centered: bool = False,
) -> Conversion:
    """Make cores of a model's hidden sigmoids, tanhs and recurrent layers, in place; its function does not change.

    `nn.Sigmoid` and `nn.Tanh` are replaced under their names. A call of `torch.sigmoid` or `torch.tanh` becomes a call
    of a core that is added to the module which makes it; that module's forward is written anew from its trace.
    `nn.RNN` (tanh), `nn.LSTM` and `nn.GRU` become layers of cores with the same parameters, see
    `sigmoidcore.recurrent`. The model keeps its class, parameters, hooks and modes, and loads checkpoints of the plain
    model with `strict=True`.

    Left alone are activations that reach the model's output, that multiply another signal (gates), that are used in
    several places, or whose use is not known since a forward cannot be traced. A recurrent layer has the same range
    whatever its slopes are, so it is left for one of these reasons only: that it is used in several places. The report
    says what was left and why.

    Args:
        model: any module. Optional arguments of its forward are taken to have their defaults.
        include: activations and recurrent layers to convert although they would be left: names as in the report,
            patterns (`"head.*"`), or types of modules, which stand for those of that type and for all inside modules
            of that type. An activation that one forward calls several times gets a core for each call. It gets one
            for all if it is in a module that runs several times, as a recurrent layer does.
        exclude: activations and recurrent layers to leave alone, likewise.
        nearest: activations of the kinds `nn.Hardsigmoid`, `nn.Hardtanh` and `nn.Softsign` that may become the core
            with the same range and the same derivative at 0, likewise: **their function changes**.
        centered: make centered cores of sigmoids, too: **their function changes** by 1/2. Before training, for depth:
            more than some ten layers of sigmoids with a mean of 1/2 hardly train, however level their gradient is.

    Returns:
        A frozen, printable report. The model itself is changed.

    Raises:
        TypeError: `model` is no module, or one of `torch.jit`; `include`, `exclude` or `nearest` holds something else
            than names, patterns and types.
        ValueError: a name, pattern or type stands for no activation, or for none that can be converted, or is in
            both `include` and `exclude`. The model is then as it was.

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
    plan = planned(model, include=include, exclude=exclude, nearest=nearest, centered=centered)
    choices, forwards = plan.choices, plan.forwards
    _check_answered(plan.asked, choices)
    for core in [core for choice in choices for core in choice.cores]:  # plain assignments: nothing fails from here on
        core.parent.__dict__.pop(core.key, None)
        core.parent._modules[core.key] = core.module
        if isinstance(
            core.parent, nn.TransformerDecoderLayer
        ):  # it takes relu on copying if the attribute is not there
            core.parent.__dict__[core.key] = core.module
    for owner, forward in forwards:
        owner.__dict__["forward"] = forward
    _follow_layers(model, choices)
    return plan.conversion


def planned(
    model: nn.Module,
    *,
    include: Names = None,
    exclude: Names = None,
    nearest: Names = None,
    centered: bool = False,
) -> "Plan":
    """What `convert` would do: the cores are made, and the model is as it was. What cannot be included is left.

    Raises:
        TypeError: as `convert`.
        ValueError: a name, pattern or type stands for no activation.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"convert takes a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            f"a {type(model).__name__} has no forward in Python any more: convert first, then use torch.jit"
        )
    sites, unseen = find(model)
    asked = {
        "include": select(model, sites, "include", include),
        "exclude": select(model, sites, "exclude", exclude),
        "nearest": select(model, sites, "nearest", nearest),
    }
    held = _held_elsewhere(model, sites)
    of_all = {"centered"} if centered else set()
    choices = [
        Choice(site, *judge(site, of_all | {what for what, by in asked.items() if site in by}, held)) for site in sites
    ]
    forwards = _rewrite(model, choices)
    return Plan(choices, forwards, asked, unseen)


@dataclass
class Plan:
    """What is to be done with a model: with every site, and which forwards are written anew."""

    choices: list["Choice"]
    forwards: list[tuple[nn.Module, TracedForward]]
    asked: dict[str, dict[Site, Any]]
    unseen: dict[str, str]

    @property
    def conversion(self) -> Conversion:
        """The report."""
        return Conversion(tuple(a for choice in self.choices for a in choice.report()), tuple(self.unseen.items()))


@dataclass
class _Core:
    """A core and where it goes."""

    parent: nn.Module
    key: str
    name: str
    module: SigmoidCore | RecurrentCores


@dataclass
class Choice:
    """What is to be done with one site: `like` are the core's arguments (none for a layer), None if it is left."""

    site: Site
    like: dict[str, Any] | None
    why: str
    cores: list[_Core] = field(default_factory=list)

    def leave(self, why: str) -> None:
        """Make no core of it."""
        self.like, self.why, self.cores = None, why, []

    def add(self, model: nn.Module, name: str, use: Use | None) -> None:
        """A core of that name, on the device and in the dtype of what it reads."""
        assert self.like is not None
        site, parent_name, key = self.site, *_split(name)
        parent = model.get_submodule(parent_name)
        features, dim = use.features if use and use.features else (None, -1)
        core = SigmoidCore(features, dim=dim, **self.like)
        weight = use.weight if use and use.weight is not None else _weight_of(parent, model)
        if weight is not None:
            core = core.to(weight.device, weight.dtype)
        core.training = parent.training
        if site.module is not None:  # who watches the activation goes on watching it
            core.training = site.module.training
            hooks = {k: v for k, v in site.module.__dict__.items() if "hook" in k}
            core.__dict__.update({k: copy(v) for k, v in hooks.items()} if self.cores else hooks)
        self.cores.append(_Core(parent, key, name, core))

    def report(self) -> list[Activation]:
        """A line for the site, or for each of its cores."""
        kind = self.site.kind
        if not self.cores:
            return [Activation(self.site.name, kind, False, self.why)]
        changed = change(kind, self.like or {})
        rows: dict[int, Activation] = {}
        for core in self.cores:
            what = f"{self.why}; {changed}" if changed else self.why
            if isinstance(core.module, SigmoidCore) and core.module.num_features is None:
                what += "; one slope, for its number of features is not known"
            rows.setdefault(id(core.module), Activation(core.name, kind, True, what, not changed))
        return list(rows.values())


def _rewrite(model: nn.Module, choices: list[Choice]) -> list[tuple[nn.Module, TracedForward]]:
    """Make the cores of all choices, and the forwards that call them where an attribute does not."""
    by_owner: dict[str, list[Choice]] = defaultdict(list)
    for choice in choices:
        if choice.like is None:
            continue
        site = choice.site
        if recurrent_layer(site) is not None:
            _place_layer(model, choice)
        elif site.index is not None or called_several_times(site):
            by_owner[site.owner].append(choice)
        else:
            _place(model, choice)
    calls = Counter(choice.site.owner for choice in choices if choice.site.index is not None)
    pairs = [_rewrite_one(model, owner, group, calls[owner]) for owner, group in by_owner.items()]
    return [pair for pair in pairs if pair is not None]


def _place(model: nn.Module, choice: Choice) -> None:
    """The cores of a site that is an attribute of its owner: one for each name, if the places differ."""
    site = choice.site
    for name in site.names:
        choice.add(model, name, _common(site))
    if len(site.uses) == 1:
        for core in choice.cores[1:]:
            core.module = choice.cores[0].module
    elif len(site.uses) > len(site.names):
        choice.why += f"; {len(site.names)} core(s) for {len(site.uses)} places, calibrate needs one for each"


def _place_layer(model: nn.Module, choice: Choice) -> None:
    """One layer of cores for a recurrent layer, under all of its names."""
    site, layer = choice.site, recurrent_layer(choice.site)
    assert layer is not None
    made = converted(layer)
    for name in site.names:
        parent, key = _split(name)
        choice.cores.append(_Core(model.get_submodule(parent), key, name, made))
    if places(site) > 1:
        choice.why += f"; 1 layer for {places(site)} places, calibrate needs one for each"


def _follow_layers(model: nn.Module, choices: list[Choice]) -> None:
    """Forwards that were written anew may have read sizes of a recurrent layer: those of the layer of cores now."""
    layers: dict[nn.Module, nn.Module] = {}
    for choice in choices:
        layer = recurrent_layer(choice.site)
        if layer is not None and choice.cores:
            layers[layer] = choice.cores[0].module
    for module in model.modules():
        forward = module.__dict__.get("forward")
        if isinstance(forward, TracedForward):
            forward.follow(layers)


def _common(site: Site) -> Use | None:
    """What holds for all uses of a site."""
    if len({use.features for use in site.uses}) > 1:
        return replace(site.uses[0], features=None)
    return site.uses[0] if site.uses else None


def _rewrite_one(
    model: nn.Module, owner: str, choices: list[Choice], calls: int
) -> tuple[nn.Module, TracedForward] | None:
    """The forward of one module in which the choices' calls are calls of cores; it makes `calls` functional ones."""
    module = model.get_submodule(owner)
    try:
        if isinstance(module, nn.Sequential):
            raise UntraceableError("an nn.Sequential would take the core for one more of its layers")
        if isinstance(module, fx.GraphModule):
            raise UntraceableError("a GraphModule writes its own from its graph")
        own = OwnForward(module)
        functions = own.calls(lambda node: function_of(node) is not None)
        if len(functions) != calls:
            raise UntraceableError("it does not make the same calls each time")
        pairs: list[tuple[fx.Node, str]] = []
        for choice in choices:
            index = choice.site.index
            if index is None:
                pairs += _cores_for_calls(model, own, choice)
            else:
                pairs.append((functions[index], _core_for_function(model, choice)))
    except UntraceableError as error:
        for choice in choices:
            _not_rewritten(model, choice, str(error))
        return None
    return module, own.replaced(module, pairs)


def _core_for_function(model: nn.Module, choice: Choice) -> str:
    """Make the core of a functional call; its name in the owner."""
    site = choice.site
    if len(site.uses) > 1:
        choice.why += f"; 1 core for {len(site.uses)} places, calibrate needs one for each"
    choice.add(model, site.name, _common(site))
    return _split(site.name)[1]


def _cores_for_calls(model: nn.Module, own: OwnForward, choice: Choice) -> list[tuple[fx.Node, str]]:
    """Make a core for each call of a module that its owner calls several times; the calls with their cores' names."""
    site = choice.site
    prefix = f"{site.owner}." if site.owner else ""
    nodes = own.calls(lambda node: node.op == "call_module" and prefix + str(node.target) == site.name)
    names = [site.name, *(f"{site.name}_{i}" for i in range(1, len(nodes)))]
    parent = model.get_submodule(_split(site.name)[0])
    taken = [name for name in names[1:] if hasattr(parent, _split(name)[1])]
    if taken:
        raise UntraceableError(f"the name '{taken[0]}' is taken")
    if len(nodes) != len(site.uses):
        raise UntraceableError("it does not make the same calls each time")
    if isinstance(parent, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        raise UntraceableError(f"{type(parent).__name__} would take the core for one more of its entries")
    for name, use in zip(names, site.uses, strict=True):
        choice.add(model, name, use)
    return [(node, name.removeprefix(prefix)) for node, name in zip(nodes, names, strict=True)]


def _not_rewritten(model: nn.Module, choice: Choice, why: str) -> None:
    """A functional call is left; a module that was asked for is one core for all its places."""
    if choice.site.index is None:
        choice.cores.clear()
        _place(model, choice)
        choice.why += f" (the forward cannot be rewritten: {why})"
    else:
        module = "nn.Tanh()" if choice.site.kind == "tanh()" else "nn.Sigmoid()"
        choice.leave(f"the forward that calls it cannot be rewritten: {why}; make it a module, {module}")


def _check_answered(asked: dict[str, dict[Site, Any]], choices: list[Choice]) -> None:
    """Raise a ValueError if something that was asked for is not done."""
    both = [site.name for site in asked["include"] if site in asked["exclude"]]
    if both:
        raise ValueError(f"{few(both)} is in include and in exclude: take it out of one")
    whys: dict[Any, list[tuple[bool, str]]] = defaultdict(list)
    for choice in choices:
        if choice.site in asked["include"]:
            done = choice.like is not None or is_core(choice.site.module)
            whys[asked["include"][choice.site]].append(
                (done, f"'{choice.site.name}' ({choice.site.kind}) {choice.why}")
            )
    for found in whys.values():
        if not any(done for done, _ in found):
            raise ValueError(f"include: {found[0][1]}")
    others = [site for site in asked["nearest"] if site.kind not in NEAREST]
    if others and len(others) == len(asked["nearest"]):
        raise ValueError(
            f"nearest: '{others[0].name}' is a {others[0].kind}; only {', '.join(NEAREST)} have a nearest core"
        )


def _held_elsewhere(model: nn.Module, sites: list[Site]) -> set[nn.Module]:
    """Activations that are not called by their name, but from a plain list or dict which would not get the core."""
    held: set[int] = set()
    for module in model.modules():
        for name, value in module.__dict__.items():
            if name != "_modules" and isinstance(value, list | tuple | dict):
                values = value.values() if isinstance(value, dict) else value
                held.update(id(v) for v in values if isinstance(v, nn.Module))
    doubtful = [site for site in sites if id(site.module) in held and site.name]
    others = {site.module: copy(site.module) for site in doubtful}
    slots = [(model.get_submodule(parent), key) for site in doubtful for parent, key in map(_split, site.names)]
    before: list[nn.Module] = [getattr(parent, key) for parent, key in slots]
    try:  # put a copy in its place: is that one called?
        for (parent, key), module in zip(slots, before, strict=True):
            parent._modules[key] = others[module]
        called = {site.module for site in find(model)[0] if site.uses} if slots else set()
    finally:
        for (parent, key), module in zip(slots, before, strict=True):
            parent._modules[key] = module
    return {site.module for site in doubtful if site.module and others[site.module] not in called}


def _weight_of(parent: nn.Module, model: nn.Module) -> Tensor | None:
    """A floating weight or buffer near a module."""
    tensors = (t for m in (parent, model) for t in (*m.parameters(), *m.buffers()))
    return next((t for t in tensors if t.is_floating_point()), None)


def _split(name: str) -> tuple[str, str]:
    parent, _, key = name.rpartition(".")
    return parent, key
