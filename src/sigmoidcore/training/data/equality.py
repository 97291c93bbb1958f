"""Whether two preprocessings are the same but for rounding: another machine may add up in another order."""

import json
import math
from typing import Any

from sigmoidcore.training.data.preprocessing import Preprocessing


def alike(a: Preprocessing, b: Preprocessing) -> bool:
    """Whether both make the same numbers of the same data, up to rounding.

    Example:
        >>> from sigmoidcore.training.data import load
        >>> alike(load("wine").preprocessing, load("wine").preprocessing)
        True
        >>> alike(load("wine").preprocessing, load("wine", seed=1).preprocessing)
        False
    """
    return _alike(json.loads(a.to_json()), json.loads(b.to_json()))


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return bool(a == b)
