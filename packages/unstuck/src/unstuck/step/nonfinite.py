"""The call that made the first NaN or infinity of a step: the step is repeated, and every result looked at."""

import linecache
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from unstuck.language import _
from unstuck.step.node import Node, tensors_in
from unstuck.step.recorder import StepObserver
from unstuck.step.replay import Replay, state
from unstuck.step.step import Step
from unstuck.wording import named, number


def first_nonfinite(step: Step, values: Mapping[str, Tensor]) -> str | None:
    """The sentence about the first call that made NaN or infinity of finite numbers; None if none did.

    Args:
        step: the recorded step.
        values: parameters and buffers as they were, by name.
    """
    search = _Search()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            for loss in Replay(values).losses(step, seen=search.look):
                if search.found is None and loss.requires_grad:
                    loss.backward(torch.ones_like(loss), retain_graph=True)  # type: ignore[no-untyped-call]
        except RuntimeError:  # a part of the step that cannot be repeated
            return search.found
    return search.found


class _Search:
    """Keeps what the first such call was, unless a later one takes the numbers away, as a softmax does with -inf.

    Masks of -inf are constants, and no call has made them.
    """

    def __init__(self) -> None:
        self.found: str | None = None
        self._gradients: dict[int, bool] = {}  # of the result of a call, by its place: whether it is finite

    def look(self, node: Node, args: tuple[Any, ...], result: Any) -> None:
        """Look at the result of a call, and wait for its gradient."""
        read, made = _numbers(args), _numbers((result,))
        finite = all(map(_is_finite, read)) and all(math.isfinite(x) for x in args if isinstance(x, float))
        bad = [t for t in made if not _is_finite(t)]
        if not finite:
            if made and not bad and not node.function.endswith("_like"):
                self.found = None
        elif bad and read and node.function != "empty":
            self.found = self.found or _sentence(node, bad[0], [*map(_described, read)], backward=False)
        elif not bad and read and len(made) == 1 and made[0].requires_grad and not any(t is made[0] for t in read):
            values = [*map(_described, read)]
            made[0].register_hook(lambda g: self._gradients.__setitem__(id(node), _is_finite(g)))  # type: ignore[no-untyped-call]
            for tensor in (t for t in read if t.requires_grad and t.grad_fn is not None):
                tensor.register_hook(lambda g: self._look_back(node, g, values))  # type: ignore[no-untyped-call]

    def _look_back(self, node: Node, gradient: Tensor, values: list[str]) -> None:
        if self.found is None and self._gradients.get(id(node)) and not _is_finite(gradient):
            self.found = _sentence(node, gradient, values, backward=True)


def _sentence(node: Node, bad: Tensor, values: list[str], *, backward: bool) -> str:
    """The call in words, with its line, and what it read."""
    kind = "NaN" if bool(bad.isnan().any()) else _("infinity")
    if backward:
        place = _("the backward pass of `{call}`", call=node.function)
    elif node.module is not None:
        place = _("`{call}` in {module}", call=node.function, module=named(node.module))
    else:
        place = _("`{call}` in the loss", call=node.function)
    text = ", ".join(filter(None, (node.line, linecache.getline(*node.place).strip())))
    at = f" ({text})" if text else ""
    return _(
        "{place} made the first {kind}{at}, from {values}.", place=place, kind=kind, at=at, values="; ".join(values)
    )


class NonfiniteSearch:
    """Looks at the gradients before every step; the first that are not finite have the step repeated.

    Attributes:
        found: the sentence about the call.
        found_in: the step that it was found in.
    """

    def __init__(self, model: nn.Module) -> None:
        self.found: str | None = None
        self.found_in: int | None = None
        self._observer = StepObserver(model)
        self._observer.attach()

    def begin(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Record a forward pass that has begun."""
        self._observer.begin(module, args)

    def before_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer is about to step; a gradient scaler may have it skip a step with overflows."""
        recorded = self._observer.take() if self._observer.attached else None
        if recorded is None:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if getattr(optimizer, "found_inf", None) or _all_finite(gradients):
            recorded.release()
            return
        model = self._observer.model
        sentence = first_nonfinite(recorded, state(model))
        if sentence is not None:
            self.found, self.found_in = _("In step {step:,}, {origin}", step=step, origin=sentence), step
        self.stop()

    def after_step(self) -> None:
        """An optimizer has stepped: what it ran itself, in a closure, had other weights."""
        self._observer.forget()

    def stop(self) -> None:
        """Look no further."""
        self._observer.detach()


def _all_finite(gradients: list[Tensor]) -> bool:
    """Whether all numbers are finite; their norm may not be, because it overflows."""
    dense = [g.coalesce().values() if g.is_sparse else g.detach() for g in gradients]
    return bool(get_total_norm(dense).isfinite()) or all(bool(g.isfinite().all()) for g in dense)


def _numbers(values: tuple[Any, ...]) -> list[Tensor]:
    """The floating-point tensors in values."""
    return [t for t in tensors_in(values) if t.is_floating_point() and t.layout is torch.strided]


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _described(tensor: Tensor) -> str:
    """Shape, and the smallest and the largest number."""
    if tensor.numel() == 0:
        return _("{shape} without numbers", shape=tuple(tensor.shape))
    if tensor.dim() == 0:
        return _("the number {value}", value=number(float(tensor.detach())))
    low, high = (number(float(bound)) for bound in tensor.detach().aminmax())
    return _("{shape} with values from {low} to {high}", shape=tuple(tensor.shape), low=low, high=high)
