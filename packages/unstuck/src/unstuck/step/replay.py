"""Runs a recorded step again, on copies of the weights, with some of its calls replaced."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from unstuck.step.node import Node, mapped
from unstuck.step.step import Step

Edits = Mapping[Node, Callable[..., Any]]
"""Functions in the place of those of some calls, with the same arguments; for a placeholder, of its tensor."""
Instead = Mapping[Node, Node]
"""Calls whose results take the place of those of others, for all that run later."""
Seen = Callable[[Node, tuple[Any, ...], Any], object]
"""Is called with each call, its arguments and its result."""


class Replay:
    """Copies of the parameters and buffers of a model, on which a recorded step runs again.

    Nothing of the user's changes: weights, buffers, gradients, inputs. Random numbers are drawn anew.

    Args:
        values: parameters and buffers, by name.
        shared: names of those that no call of the step changes in place: they are not copied.

    Example:
        >>> from unstuck.step import recorded
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Sigmoid())
        >>> with recorded(model) as step:
        ...     model(torch.zeros(2, 3)).mean().backward()
        ...     step = step()
        >>> (sigmoid,) = step.calls("sigmoid")
        >>> (loss,) = Replay(dict(model.named_parameters())).losses(step, {sigmoid: torch.tanh})
        >>> torch.equal(loss, model[0].bias.tanh().mean())
        True
    """

    def __init__(self, values: Mapping[str, Tensor], shared: Collection[str] = ()) -> None:
        self._shared = shared
        self.values = {name: copied(value, shared=name in shared) for name, value in values.items()}

    def renew(self, values: Mapping[str, Tensor]) -> None:
        """Copy again what a step may change in place without a gradient: buffers, frozen weights."""
        own = ((name, value) for name, value in values.items() if not value.requires_grad and name not in self._shared)
        self.values |= {name: copied(value) for name, value in own}

    def losses(
        self, step: Step, edits: Edits | None = None, seen: Seen | None = None, instead: Instead | None = None
    ) -> list[Tensor]:
        """The losses of a step, with their graph."""
        return self.results(step, step.losses, edits, seen, instead)

    def results(
        self, step: Step, ends: Sequence[Node], edits: Edits | None = None, seen: Seen | None = None,
        instead: Instead | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """The results of these nodes; with `seen`, all calls run, and else those that they need."""
        made: dict[Node, Any] = {}
        for node in step.needed([*ends, *(instead or ())]) if seen is None else step.nodes:
            if node.op == "call_function":
                function = (edits or {}).get(node, node.target)
                args, kwargs = (mapped(values, Node, made.__getitem__) for values in (node.args, dict(node.kwargs)))
                with torch.set_grad_enabled(node.grad_enabled and torch.is_grad_enabled()), _autocast(node):
                    result = function(*args, **kwargs)
                made[node] = result.detach().requires_grad_() if node.leaf else result
                if instead and node in instead:
                    made[instead[node]] = made[node]
                if seen is not None:
                    seen(node, (*args, *kwargs.values()), made[node])
            elif node.op in ("parameter", "buffer"):
                made[node] = self.values[node.target]
            else:
                value = torch.empty(0) if node.value is None else node.value.detach().clone()
                if node.requires_grad:
                    value.requires_grad_()
                made[node] = edits[node](value) if edits and node in edits else value
        return [made[node] for node in ends]


def state(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of a model, by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def gpus(values: Mapping[str, Tensor]) -> list[int]:
    """The GPUs on which a step with these values may draw random numbers."""
    return list({value.device.index for value in values.values() if value.device.type == "cuda"})


def copied(value: Tensor, *, shared: bool = False) -> Tensor:
    """A copy that trains if the tensor does."""
    copy = value.detach() if shared else value.detach().clone()
    return copy.requires_grad_() if value.requires_grad else copy


def _autocast(node: Node) -> AbstractContextManager[Any]:
    if node.autocast is None:
        return nullcontext()
    device, dtype = node.autocast
    return torch.autocast(device, dtype=dtype)
