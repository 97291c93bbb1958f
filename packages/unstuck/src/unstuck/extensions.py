"""Packages that build on this one: those with an entry point of the group `unstuck.remedies`."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec

GROUP = "unstuck.remedies"


@cache
def extensions() -> tuple[EntryPoint, ...]:
    """The entry points, each of a function that suggests a repair (`remedies.Suggest`)."""
    return tuple(entry_points(group=GROUP))


@cache
def packages() -> tuple[str, ...]:
    """This package and its extensions: their code is not the user's, and their layers are known as PyTorch's are."""
    return ("unstuck", *sorted({point.module.partition(".")[0] for point in extensions()}))


@cache
def folders() -> tuple[str, ...]:
    """Where the code of PyTorch and of the packages is."""
    specs = (find_spec(name) for name in ("torch", *packages()))
    return tuple(folder for spec in specs if spec is not None for folder in spec.submodule_search_locations or ())


@cache
def is_library_file(file: str) -> bool:
    """Whether a file belongs to PyTorch or one of the packages."""
    return file.startswith(folders())


def is_ours(module: str) -> bool:
    """Whether code of a Python module belongs to one of the packages.

    Example:
        >>> is_ours("unstuck.monitor"), is_ours("unstuckless"), is_ours("__main__")
        (True, False, False)
    """
    return module.partition(".")[0] in packages()
