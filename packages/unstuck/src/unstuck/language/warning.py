"""Warnings that point at the user's own code, however deep in PyTorch's hooks they are given."""

import sys
import traceback
import warnings

from unstuck.extensions import packages


def warn(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Warn, at the innermost line of the program that belongs neither to this package nor to PyTorch."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_stack(sys._getframe()))
    library = ("torch", *packages())
    level = next((i for i, name in enumerate(modules, start=1) if name.partition(".")[0] not in library), 1)
    warnings.warn(message, category, stacklevel=level)
