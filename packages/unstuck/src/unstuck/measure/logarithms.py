"""Cross-entropies that a loss writes by hand: t log(p) + (1 - t) log(1 - p)."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unstuck.measure import calls
from unstuck.measure.tensor_origin import Origin

SHIFTS = calls.CLAMPS | calls.ADDITIONS | calls.DIFFERENCES
SLIGHT = 0.01
"""The largest bound or summand that only keeps a logarithm finite."""

Origins = Callable[[Tensor], Origin]


@dataclass
class _Near:
    """A tensor computed from the output of a layer by numbers alone."""

    tensor: weakref.ref[Tensor]
    reads: int  # the position of the layer
    complement: bool = False  # it is 1 - p, or its logarithm
    logarithm: bool = False
    shifted: bool = False  # by more than `SLIGHT`


class Logarithms:
    """Finds products of targets with log(p) and log(1 - p), where p is the output of a layer."""

    def __init__(self) -> None:
        self._near: dict[int, _Near] = {}  # by identity
        self._weighed: dict[int, tuple[Tensor, Tensor]] = {}  # log(p) and the targets that multiply it, by layer

    def follow(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any, origin_of: Origins
    ) -> int:
        """Note the result of a clamp, of a number added to or subtracted from an output, or of a logarithm.

        Returns:
            The position of the layer whose output a logarithm takes, shifted by no more than `SLIGHT`; else -1.
        """
        tensors = [x for x in args if isinstance(x, Tensor)]
        if name not in SHIFTS | {"log"} or len(tensors) != 1 or not isinstance(result, Tensor):
            return -1
        read = self._known(tensors[0]) or _Near(weakref.ref(tensors[0]), origin_of(tensors[0]).producer)
        if read.reads >= 0 and not read.logarithm:
            turned = name == "rsub" or (name in calls.DIFFERENCES and args[0] is not tensors[0])
            complement = read.complement != turned
            least = min((x for x in (*args, *kwargs.values()) if isinstance(x, int | float)), default=0.0)
            shifted = read.shifted or turned or abs(least) > SLIGHT
            self._near[id(result)] = _Near(weakref.ref(result), read.reads, complement, name == "log", shifted)
            return -1 if shifted or name != "log" else read.reads
        return -1

    def cross_entropy(self, name: str, args: tuple[Any, ...]) -> tuple[str, int, Tensor, Tensor, bool] | None:
        """The comparison of log(p) with the targets that multiply it, once log(1 - p) is multiplied, too."""
        pair = [x for x in args[:2] if isinstance(x, Tensor)]
        if name not in calls.MULTIPLICATIONS or len(pair) != 2:
            return None
        logarithm, other = pair if pair[0].requires_grad else pair[::-1]
        read = self._known(logarithm)
        if read is None or not read.logarithm or other.requires_grad or other.shape != logarithm.shape:
            return None
        if not read.complement:
            self._weighed[read.reads] = logarithm.detach(), other
        if not read.complement or read.reads not in self._weighed:
            return None
        outputs, factor = self._weighed.pop(read.reads)
        if factor.shape != other.shape:
            return None
        for targets, rest in ((factor, other), (-factor, other), (-factor, -other)):
            if torch.allclose(targets + rest, torch.ones_like(rest)):
                return "binary_cross_entropy", read.reads, outputs, targets, False
        return None

    def _known(self, tensor: Tensor) -> _Near | None:
        found = self._near.get(id(tensor))
        return found if found is not None and found.tensor() is tensor else None
