"""Which activations and recurrent layers become cores, and why: the rules, and the choices of the user."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from sigmoidcore.conversion.activation_sites import Site
from sigmoidcore.conversion.activations import KINDS
from sigmoidcore.core import CoreModule
from sigmoidcore.nn.recurrent import why_not

Names = str | type[nn.Module] | Iterable[str | type[nn.Module]] | None  # names, patterns or types of modules


def judge(site: Site, *, included: bool, excluded: bool, centered: bool) -> tuple[dict[str, Any] | None, str]:
    """The arguments of a site's core (none for a recurrent layer), or None if it is left; and the first reason."""
    why, reason = "excluded" if excluded else _why_not_replaceable(site), "hidden"
    if included:
        reason = "asked for"
    elif site.recurrent is not None:  # whatever reads it: its range stays
        reason = "a slope for every gate row"
    else:
        why = why or _why_left(site)
    if why:
        return None, why
    if site.recurrent is not None:
        return {}, reason
    return KINDS[site.kind] | ({"centered": True} if centered else {}), reason


def _why_not_replaceable(site: Site) -> str:
    """The reason why no core can stand in a site's place, "" if one can."""
    if isinstance(site.module, CoreModule):
        return "is a core already"
    if site.recurrent is not None and (why := why_not(site.recurrent)):
        return why
    if site.recurrent is None and site.kind not in KINDS:
        return "is not a sigmoid"
    if site.index is not None and site.uses[0].writes:
        return "it overwrites a tensor: call the function that returns a new one"
    if not site.name or (site.module is not None and "" in site.names):
        instead = "SigmoidCore()" if site.recurrent is None else "sigmoidcore.nn.converted(model)"
        return f"it is the model itself: use {instead} in its place"
    separable = site.recurrent is None and site.index is None
    separable = separable and (site.called_several_times or len(site.names) == site.places)
    if site.places > 1 and not separable:
        return f"is used in {site.places} places, which need one each: give each place its own module"
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


def _why_left(site: Site) -> str:
    """The reason to leave an activation alone, "" if it is hidden."""
    if site.places > 1:
        return f"is used in {site.places} places; include= makes a core for each"
    if not site.uses:
        return f"what reads it is not known: {site.why}; name it in include= if a layer does"
    return site.uses[0].why


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
        return f"'{entry}' is a {type(module).__name__}, not an activation{hint}"
    near = get_close_matches(entry, [name for site in sites for name in site.names], n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(map(repr, near))}?"
    hint = meant if near else "print the report of convert(model) for the names"
    return f"no activation is named '{entry}'; {hint}"
