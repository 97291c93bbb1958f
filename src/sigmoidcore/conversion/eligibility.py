"""Judge: whether `convert` makes a core of an activation or a recurrent layer, and why."""

from collections.abc import Callable, Mapping, Set
from typing import Any

from torch import nn

from sigmoidcore.conversion.activation_sites import Site
from sigmoidcore.conversion.dataflow import Fate
from sigmoidcore.core import SigmoidCore
from sigmoidcore.nn.recurrent import is_recurrent, why_not
from sigmoidcore.nn.stepwise import Stepwise

_TANH = {"alpha": 2.0, "centered": True, "scale": 2.0}
_EXACT: dict[str, dict[str, Any]] = {"Sigmoid": {}, "sigmoid()": {}, "Tanh": _TANH, "tanh()": _TANH}
NEAREST: dict[str, Callable[[Any], dict[str, Any] | None]] = {
    "Hardsigmoid": lambda module: {"alpha": 2 / 3},
    "Hardtanh": lambda module: _like_hardtanh(module.min_val, module.max_val),
    "Softsign": lambda module: _TANH,
}
"""The core with the same range and the same derivative at 0."""
UNCENTERED = ("Sigmoid", "sigmoid()")
"""Kinds that have a mean of 1/2; their core has one of 0 if it is centered."""


def judge(site: Site, asked: Set[str], held: Set[nn.Module | None]) -> tuple[dict[str, Any] | None, str]:
    """Whether a site becomes a core, and why.

    Args:
        site: the activation or recurrent layer.
        asked: which of "include", "exclude" and "nearest" name it; "centered", if all cores are to be.
        held: the modules that are called from a plain list or dict.

    Returns:
        The arguments of its core (none for a recurrent layer), or None if it is left; and the reason.
    """
    if "exclude" in asked:
        return None, "excluded"
    layer = recurrent_layer(site)
    like = _layer_like(layer) if layer is not None else _EXACT.get(site.kind)
    if like is None:
        if site.kind not in NEAREST or "nearest" not in asked:
            return None, _no_core(site)
        like = NEAREST[site.kind](site.module)
        if like is None:
            return None, "no core has its range, which is not symmetric about 0"
    if layer is None and "centered" in asked:
        like = like | {"centered": True}
    if site.writes:
        return None, "it overwrites a tensor: call the function that returns a new one"
    if site.module in held:
        return None, "it is called from a plain list or dict: make that an nn.ModuleList or ModuleDict"
    if not site.name or (site.module is not None and "" in site.names):
        instead = "SigmoidCore()" if layer is None else "sigmoidcore.nn.converted(model)"
        return None, f"it is the model itself: use {instead} in its place"
    if "include" in asked:
        return like, "asked for"
    why = _why_left(site) if layer is None else _why_layer_left(site)
    if why:
        return None, why
    return like, "hidden" if layer is None else "a slope for every gate row"


def change(kind: str, like: Mapping[str, Any]) -> str:
    """In which way a core with these arguments computes another function than an activation of this kind; "" if not."""
    if kind in NEAREST:
        return "the nearest core, another function"
    return "centered, so its function is less 1/2" if kind in UNCENTERED and like.get("centered") else ""


def recurrent_layer(site: Site) -> nn.Module | None:
    """The site's module, if that is a recurrent layer or a cell."""
    return site.module if site.module is not None and is_recurrent(site.module) else None


def is_core(module: nn.Module | None) -> bool:
    """Whether a module is a core, or a recurrent layer of cores."""
    return isinstance(module, SigmoidCore | Stepwise)


def places(site: Site) -> int:
    """In how many places a site is used; where no use was seen, its names are taken for places."""
    return len(site.uses) if site.uses else len(site.names)


def called_several_times(site: Site) -> bool:
    """Whether one module of one name is called several times by one forward: each call can have a core."""
    return len(site.names) == 1 and len(site.uses) > 1 and len({(use.owner, use.call) for use in site.uses}) == 1


def _layer_like(layer: nn.Module) -> dict[str, Any] | None:
    return None if why_not(layer) else {}


def _no_core(site: Site) -> str:
    if is_core(site.module):
        return "is a core already"
    layer = recurrent_layer(site)
    if layer is not None:
        return why_not(layer)
    return "is no sigmoid; nearest= makes it the nearest core" if site.kind in NEAREST else "is no sigmoid"


def _why_left(site: Site) -> str:
    """The reason to leave an activation alone, "" if it is hidden."""
    if places(site) > 1:
        each = site.index is None and (called_several_times(site) or len(site.names) == places(site))
        what = (
            "gives each a core of its own" if each else f"makes it {len(site.names)} core(s), which calibrate refuses"
        )
        return f"is used in {places(site)} places; include= {what}"
    if not site.uses:
        return f"what reads it is not known: {site.why}; name it in include= if a layer does"
    fate, why = site.uses[0].fate, site.uses[0].why
    if fate is Fate.UNSEEN:
        return f"{why}; name it in include= if a layer reads it"
    return {
        Fate.OUTPUT: "its result reaches the model's output",
        Fate.GATE: "its result multiplies another signal",
        Fate.COMPARED: "its result is compared or rounded, and no gradient comes back",
        Fate.UNUSED: "its result is not used",
        Fate.HIDDEN: "",
    }[fate]


def _why_layer_left(site: Site) -> str:
    """The reason to leave a recurrent layer alone; not what reads it, for its range is the same for all slopes."""
    if places(site) > 1:
        return f"is used in {places(site)} places; include= makes it one layer for all, which calibrate refuses"
    return ""


def _like_hardtanh(low: float, high: float) -> dict[str, Any] | None:
    return {"alpha": 2 / high, "centered": True, "scale": 2 * high} if high > 0 and low == -high else None
