"""Terms of a loss that are constants: they lost their graph, and train nothing."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from unstuck.measure import calls

CUTS = frozenset({"detach", "tensor", "as_tensor", "new_tensor"})
"""Functions that return the numbers of outputs without their graph."""
SUMS = calls.ADDITIONS | calls.DIFFERENCES | {"stack", "cat"}
SCALINGS = calls.MULTIPLICATIONS | {"div", "divide", "true_divide", "truediv", "itruediv"}
LINEAR = SUMS | SCALINGS | calls.MOVES | {"neg", "mean", "sum"}
"""Functions that leave a term of a loss a term."""


class ConstantTerms:
    """Follows numbers without a graph, in the calls after a forward pass, until they are added to the loss.

    They come from outputs that were cut from their graph, or from a loss function neither argument of which has one.
    """

    def __init__(self) -> None:
        self.found: dict[str, None] = {}  # the function that cut the graph, or the loss function
        self._constants: dict[int, tuple[weakref.ref[Tensor], str]] = {}
        self._losses: dict[int, tuple[weakref.ref[Tensor], str]] = {}  # that have such a term

    def follow(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
        is_output: Callable[[Tensor], bool],
    ) -> None:
        """Follow a call that has run."""
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return
        arguments = list(calls.tensors((args, dict(kwargs))))
        if result.requires_grad:
            label = self._joined(name, arguments, result)
            if label:
                self._losses[id(result)] = weakref.ref(result), label
            return
        cut = name in CUTS and any(t.requires_grad and is_output(t) for t in arguments)
        label = name if cut or name in calls.LOSSES else _known(self._constants, arguments)
        if label and not name.endswith("_like") and not name.startswith("new_zeros"):
            self._constants[id(result)] = weakref.ref(result), label

    def read(self, loss: Tensor) -> None:
        """The `backward()` of a loss is about to run."""
        if label := _known(self._losses, [loss]):
            self.found[label] = None

    def _joined(self, name: str, arguments: list[Tensor], result: Tensor) -> str:
        """The label of a loss with a constant term; "" for another."""
        if name not in LINEAR:
            return ""
        moving = [t for t in arguments if t.requires_grad]
        if name in SCALINGS and len(moving) > 1:
            return ""  # a product is not a sum of terms
        added = [t for t in arguments if not t.requires_grad and t.numel() == 1]
        one = result.numel() == 1 or name in ("stack", "cat")
        constant = _known(self._constants, added) if name in SUMS and one else ""
        return constant or _known(self._losses, moving)


def _known(marks: Mapping[int, tuple[weakref.ref[Tensor], str]], tensors: list[Tensor]) -> str:
    """The label of the first tensor that has one."""
    found = ((tensor, marks.get(id(tensor))) for tensor in tensors)
    return next((mark[1] for tensor, mark in found if mark is not None and mark[0]() is tensor), "")
