"""Activations by name, by pattern or by type of module: what `include`, `exclude` and `nearest` mean."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from sigmoidcore.conversion.activation_sites import Site

Names = str | type[nn.Module] | Iterable[str | type[nn.Module]] | None
"""Names or patterns of activations, or types of modules."""


def select(model: nn.Module, sites: list[Site], what: str, names: Names) -> dict[Site, Any]:
    """The sites that are meant, with the entry that means them."""
    single = isinstance(names, str | type) or not (names is None or isinstance(names, Iterable))
    entries: list[Any] = [names] if single else list(names or ())  # type: ignore[arg-type]
    found: dict[Site, Any] = {}
    for entry in entries:
        if isinstance(entry, str):
            matches = [site for site in sites if any(n == entry or fnmatchcase(n, entry) for n in site.names)]
        elif isinstance(entry, type) and issubclass(entry, nn.Module):
            matches = [site for site in sites if any(isinstance(m, entry) for m in _around(model, site))]
        else:
            raise TypeError(f"{what} takes names, patterns and types of modules, got {entry!r}")
        if not matches:
            raise ValueError(f"{what}: {_no_match(model, sites, entry)}")
        found.update(dict.fromkeys(matches, entry))
    return found


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
        kind = type(module).__name__
        inside = [site.name for site in sites if site.name.startswith(f"{entry}.")]
        hint = f"; write '{entry}.*' for the activations in it" if inside else ""
        return f"'{entry}' is a {kind}, no activation{hint}"
    near = get_close_matches(entry, [name for site in sites for name in site.names], n=3, cutoff=0.5)
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?" if near else "print the report of convert(model) for the names"
    )
    return f"no activation is named '{entry}'; {hint}"
