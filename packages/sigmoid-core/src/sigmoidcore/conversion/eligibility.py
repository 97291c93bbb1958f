"""Which activations and recurrent layers become cores, and why: the rules, and the choices of the user."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from sigmoidcore.conversion.activation_sites import Site
from sigmoidcore.conversion.activations import KINDS, NEAREST
from sigmoidcore.conversion.dataflow import Role
from sigmoidcore.core import CoreModule
from sigmoidcore.nn.recurrent import is_recurrent, why_not

Names = str | type[nn.Module] | Iterable[str | type[nn.Module]] | None
"""Names or patterns of activations, or types of modules."""
_ROLES = {
    Role.OUTPUT: "its result reaches the model's output",
    Role.GATE: "its result multiplies another signal",
    Role.COMPARED: "its result is compared or rounded, and no gradient comes back",
    Role.UNUSED: "its result is not used",
    Role.HIDDEN: "",
}


@dataclass(frozen=True)
class Selection:
    """What a user asks of `convert`: for each option the sites that it names, with the entry that names them."""

    include: Mapping[Site, Any]
    exclude: Mapping[Site, Any]
    nearest: Mapping[Site, Any]
    centered: bool


def judge(site: Site, selection: Selection) -> tuple[dict[str, Any] | None, str]:
    """The arguments of a site's core (none for a recurrent layer), or None if it is left; and the reason.

    The first reason to leave it is reported. Those that `include` overrules come last.
    """
    if site in selection.exclude:
        return None, "excluded"
    arguments, why = _core_arguments(site, selection)
    if arguments is not None:
        why = _why_not_replaceable(site)
    if why:
        return None, why
    if site in selection.include:
        return arguments, "asked for"
    if recurrent_layer(site) is not None:  # whatever reads it: its range stays
        return arguments, "a slope for every gate row"
    why = _why_left(site)
    return (None, why) if why else (arguments, "hidden")


def _core_arguments(site: Site, selection: Selection) -> tuple[dict[str, Any] | None, str]:
    """The arguments of the core that computes what a site computes, or None and the reason."""
    layer = recurrent_layer(site)
    if layer is not None and not why_not(layer):
        return {}, ""
    if site.kind not in KINDS or not (KINDS[site.kind].exact or site in selection.nearest):
        return None, _why_no_core(site)
    arguments = KINDS[site.kind].core(site.module)
    if arguments is None:
        return None, "no core has its range, which is not symmetric about 0"
    return arguments | ({"centered": True} if selection.centered else {}), ""


def _why_not_replaceable(site: Site) -> str:
    """The reason why no core can stand in a site's place, "" if one can."""
    layer = recurrent_layer(site)
    if site.writes:
        return "it overwrites a tensor: call the function that returns a new one"
    if not site.name or (site.module is not None and "" in site.names):
        instead = "SigmoidCore()" if layer is None else "sigmoidcore.nn.converted(model)"
        return f"it is the model itself: use {instead} in its place"
    separable = layer is None and site.index is None
    separable = separable and (called_several_times(site) or len(site.names) == _places(site))
    if _places(site) > 1 and not separable:
        return f"is used in {_places(site)} places, which need one each: give each place its own module"
    return ""


def select(model: nn.Module, sites: list[Site], option: str, names: Names) -> dict[Site, Any]:
    """The sites that an option names, with the entry that names them."""
    single = isinstance(names, str | type) or not (names is None or isinstance(names, Iterable))
    entries: list[Any] = [names] if single else list(names or ())  # type: ignore[arg-type]
    found: dict[Site, Any] = {}
    for entry in entries:
        if isinstance(entry, str):
            matches = [site for site in sites if any(n == entry or fnmatchcase(n, entry) for n in site.names)]
        elif isinstance(entry, type) and issubclass(entry, nn.Module):
            matches = [site for site in sites if any(isinstance(m, entry) for m in _around(model, site))]
        else:
            raise TypeError(f"{option} takes names, patterns and types of modules, got {entry!r}")
        if not matches:
            raise ValueError(f"{option}: {_no_match(model, sites, entry)}")
        found.update(dict.fromkeys(matches, entry))
    return found


def change(kind: str, like: Mapping[str, Any]) -> str:
    """How the function of a core with these arguments differs from an activation of this kind; "" if it does not."""
    if kind in NEAREST:
        return "the nearest core, another function"
    return "centered, so its function is less 1/2" if like.get("centered") and has_mean(kind) else ""


def has_mean(kind: str) -> bool:
    """Whether activations of a kind have a mean of 1/2, which is 0 in centered cores."""
    return kind in KINDS and KINDS[kind].has_mean


def recurrent_layer(site: Site) -> nn.Module | None:
    """The site's module, if that is a recurrent layer or a cell."""
    return site.module if site.module is not None and is_recurrent(site.module) else None


def is_core(module: nn.Module | None) -> bool:
    """Whether a module is a core, or a recurrent layer of cores."""
    return isinstance(module, CoreModule)


def _places(site: Site) -> int:
    """In how many places a site is used; without calls in the trace, the number of its names."""
    return len(site.uses) if site.uses else len(site.names)


def called_several_times(site: Site) -> bool:
    """Whether one forward calls one module several times: each call can have a core."""
    return len(site.names) == 1 and len(site.uses) > 1 and len({(use.owner, use.call) for use in site.uses}) == 1


def _why_no_core(site: Site) -> str:
    if is_core(site.module):
        return "is a core already"
    layer = recurrent_layer(site)
    if layer is not None:
        return why_not(layer)
    return "is not a sigmoid; nearest= makes it the nearest core" if site.kind in NEAREST else "is not a sigmoid"


def _why_left(site: Site) -> str:
    """The reason to leave an activation alone, "" if it is hidden."""
    if _places(site) > 1:
        return f"is used in {_places(site)} places; include= makes a core for each"
    if not site.uses:
        return f"what reads it is not known: {site.why}; name it in include= if a layer does"
    use = site.uses[0]
    if use.role is Role.UNKNOWN:
        return f"{use.why}; name it in include= if a layer reads it"
    return _ROLES[use.role]


def _around(model: nn.Module, site: Site) -> Iterator[nn.Module]:
    """The modules that a site is in, and itself if it is one."""
    for name in site.names:
        path = (name if site.module is not None else site.owner).split(".")
        yield model
        yield from (model.get_submodule(".".join(path[: i + 1])) for i in range(len(path)) if path[0])


def _no_match(model: nn.Module, sites: list[Site], entry: str | type) -> str:
    if not isinstance(entry, str):
        return f"the model has no activation that is a {entry.__name__} or inside one"
    module = dict(model.named_modules(remove_duplicate=False)).get(entry)
    if module is not None:
        inside = any(site.name.startswith(f"{entry}.") for site in sites)
        hint = f"; write '{entry}.*' for the activations in it" if inside else ""
        hint = "; norms=True converts norms" if isinstance(module, nn.LayerNorm | nn.RMSNorm) else hint
        return f"'{entry}' is a {type(module).__name__}, not an activation{hint}"
    near = get_close_matches(entry, [name for site in sites for name in site.names], n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?" if near else "print the report of convert(model) for the names"
    )
    return f"no activation is named '{entry}'; {hint}"
