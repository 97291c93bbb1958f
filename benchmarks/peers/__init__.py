"""The methods that we are compared with: `find("tanh-orthogonal").network(problem, 1.02)`.

One method a file in `methods`: its `METHODS`, each with its paper. A new file there is found by its name.
"""

import pkgutil

from peers import methods
from peers.method import Method, Problem

__all__ = ["BUILT_IN", "Method", "Problem", "find"]

_FILES = [pkgutil.resolve_name(f"{methods.__name__}.{file.name}") for file in pkgutil.iter_modules(methods.__path__)]
BUILT_IN: dict[str, Method] = {method.name: method for file in _FILES for method in file.METHODS}


def find(name: str) -> Method:
    """The method of a name."""
    return BUILT_IN[name]
