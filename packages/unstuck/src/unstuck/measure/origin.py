"""The operation that made the first NaN or infinity: one step is repeated, and every operation looked at."""

import math
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from unstuck._torch.operations import Operations, node_lines, node_that_runs
from unstuck.extensions import folders
from unstuck.language import _
from unstuck.measure.calls import tensors
from unstuck.measure.measurement import Subject
from unstuck.measure.one_batch import passes
from unstuck.measure.tape import Tape
from unstuck.observation.observer import Observer
from unstuck.wording import named, number


def origin(subject: Subject) -> str | None:
    """Repeat the step; the sentence about its first operation with a result that is not finite, from finite values."""
    with passes(subject) as loss_of:
        return _search(_Search(subject.model), loss_of)


def origin_on_tape(tape: Tape) -> str | None:
    """The same for the step of a training that a tape has recorded."""
    with tape.repetition() as loss_of:
        return _search(_Search(tape.model, tape.line_of), loss_of)


def _search(search: "_Search", loss_of: Callable[[], Tensor]) -> str | None:
    parameters = [p for p in search.model.parameters() if p.requires_grad]
    with warnings.catch_warnings(), search, Operations(search.run):
        warnings.simplefilter("ignore")
        with torch.autograd.detect_anomaly(check_nan=False):
            loss = loss_of()
            if loss.requires_grad:
                torch.autograd.grad(loss, parameters, allow_unused=True)
    return search.found


class _Search(Observer):
    """Keeps what the first such operation was, unless a later one takes the numbers away, as a softmax does with -inf.

    Masks of -inf are constants, and no operation has made them.
    """

    def __init__(self, model: nn.Module, line_of: Callable[[Node | None], str | None] = lambda node: None) -> None:
        super().__init__(dict(model.named_modules()))
        self.model = model
        self._line_of = line_of  # of a call that is repeated: the stack does not show it
        self.found: str | None = None
        self._stack: list[str] = []

    def arrives(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self._stack.append(name)

    def leaves(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._stack:
            self._stack.pop()

    def run(self, name: str, args: tuple[Any, ...], operation: Callable[[], Any]) -> Any:
        """Run an operation, and look at its numbers."""
        read = [t for t in tensors(args) if t.is_floating_point() and t.layout is torch.strided]
        finite = all(map(_is_finite, read)) and not any(isinstance(a, float) and not math.isfinite(a) for a in args)
        values = "; ".join(map(_described, read)) if finite else ""
        result = operation()
        if not read or "empty" in name:
            return result
        floating = [t for t in tensors(result) if t.is_floating_point()]
        made = [t for t in floating if not _is_finite(t)]
        if finite and made and self.found is None:
            self.found = self._sentence(name, made[0], values)
        elif not finite and floating and not made and not name.endswith("_like") and node_that_runs() is None:
            self.found = None
        return result

    def _sentence(self, name: str, made: Tensor, values: str) -> str:
        kind = "NaN" if bool(made.isnan().any()) else _("infinity")
        node = node_that_runs()
        line = _line_of(node_lines(node) if node else traceback.format_list(traceback.extract_stack()))
        line = line or self._line_of(node)
        if node is not None:
            of = node.name().removesuffix("0").removesuffix("Backward")
            place = _("`{operation}` in the backward pass of {node}", operation=name, node=of)
        elif self._stack:
            place = _("`{operation}` in {module}", operation=name, module=named(self._stack[-1]))
        else:
            place = _("`{operation}` in the loss", operation=name)
        at = f" ({line})" if line else ""
        return _("{place} made the first {kind}{at}, from {values}.", place=place, kind=kind, at=at, values=values)


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _described(tensor: Tensor) -> str:
    """Shape, and the smallest and the largest number."""
    if tensor.numel() == 0:
        return _("{shape} without numbers", shape=tuple(tensor.shape))
    if tensor.dim() == 0:
        return _("the number {value}", value=number(float(tensor)))
    low, high = (number(float(bound)) for bound in tensor.detach().aminmax())
    return _("{shape} with values from {low} to {high}", shape=tuple(tensor.shape), low=low, high=high)


def _line_of(stack: Sequence[str]) -> str | None:
    """The line of the user's code that the last entries of a stack come from, within the call of the model or loss."""
    for entry in reversed(stack):
        place, _newline, code = entry.strip().partition("\n")
        file = place.split('"')[1] if '"' in place else ""
        if file.startswith(folders()[1:]) and not file.endswith(("origin.py", "operations.py")):
            return None
        if file and not file.startswith(folders()):
            line = place.split("line ")[1].split(",")[0]
            return ", ".join([f"{Path(file).name}:{line}", *code.strip().splitlines()[:1]])  # the text may be unknown
    return None
