"""Records a training step: every call of PyTorch from the inputs of the model to the backward pass.

A `TorchFunctionMode` receives the calls of modules and of the user's own code; module hooks tell in which module.
"""

import operator
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unstuck._torch.autograd import NONE, backward_pass
from unstuck._torch.modes import leave, lower, original, transforms_active, unfollowed
from unstuck.extensions import folders
from unstuck.observation.observer import Observer
from unstuck.step.node import Node, mapped, name_of, tensors_in
from unstuck.step.step import Step

PASSES = 16
"""Forward passes after which a step begins anew: a loop without an optimizer never ends its step."""


class Recorder(TorchFunctionMode):
    """Records the calls of a model and of its losses while it is entered.

    The parameters and buffers of the model become placeholders with their names.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.step = Step()
        self.stack: list[str] = []  # names of the modules that run, outermost first
        self.inputs: set[int] = set()  # of the model, by identity
        self.passes = 0
        self.paused = False  # after a backward pass
        self._nodes: dict[int, tuple[weakref.ref[Tensor], Node]] = {}
        for name, parameter in model.named_parameters():
            self._placeholder("parameter", name, parameter)
        for name, buffer in model.named_buffers():
            self._placeholder("buffer", name, buffer)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a function and record it."""
        kwargs, func = kwargs or {}, original(func)
        name = name_of(func)
        if not name or self.paused:
            return func(*args, **kwargs)
        if name == "backward":
            self.take_loss(args[0])
            self.paused = True
            return func(*args, **kwargs)
        if transforms_active():
            self.step.unfollowed["calls inside torch.func.vmap, grad and the like"] = None
            return func(*args, **kwargs)
        before = mapped((args, dict(kwargs)), Tensor, self.node_of)  # an in-place function changes them
        result = func(*args, **kwargs)
        self._take(func, name, before[0], before[1], args, result)
        return result

    @unfollowed
    def node_of(self, tensor: Tensor) -> Node:
        """The node that made a tensor; a placeholder if none did."""
        found = self._nodes.get(id(tensor))
        if found is not None and found[0]() is tensor:
            node = found[1]
            if tensor.requires_grad and not node.requires_grad and not tensor.is_leaf:
                self.step.unfollowed["a custom autograd function"] = None
            return node
        if tensor.requires_grad and not tensor.is_leaf:
            self.step.unfollowed["a tensor that calls made before the step began"] = None
        kind = "input" if id(tensor) in self.inputs else "constant"
        node = self._placeholder(kind, len(self.step.nodes), tensor)
        node.value = tensor
        return node

    def _placeholder(self, kind: str, target: Any, tensor: Tensor) -> Node:
        node = Node(kind, target)
        node.tells(tensor)
        self._add(node, tensor)
        return node

    def _add(self, node: Node, tensor: Tensor) -> None:
        self.step.nodes.append(node)
        self._nodes[id(tensor)] = weakref.ref(tensor), node

    @unfollowed
    def _take(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: tuple[Any, ...],
        result: Any,
    ) -> None:
        if name == "setitem":  # returns nothing, and changes its first argument
            func, result = _set_item, given[0]
        several = isinstance(result, tuple | list) and any(isinstance(x, Tensor) for x in result)
        if not isinstance(result, Tensor) and not several:
            return
        node = Node("call_function", func)
        node.function, node.args, node.kwargs = name, args, kwargs
        node.module, node.place = self.stack[-1] if self.stack else None, _users_place()
        node.grad_enabled = torch.is_grad_enabled()
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                node.autocast = device, torch.get_autocast_dtype(device)
        for read in node.all_input_nodes:
            read.users[node] = None
        if isinstance(result, Tensor):
            node.tells(result)
            self._add(node, result)
            return
        self.step.nodes.append(node)
        self._take_parts(node, result)

    def _take_parts(self, node: Node, parts: Any) -> None:
        """A function has returned several tensors, or tuples of some."""
        for i, part in enumerate(parts):
            several = isinstance(part, tuple | list) and any(isinstance(x, Tensor) for x in part)
            if isinstance(part, Tensor) or several:
                item = Node("call_function", operator.getitem)
                item.function, item.args, item.module, item.place = "getitem", (node, i), node.module, node.place
                item.grad_enabled, item.autocast = node.grad_enabled, node.autocast
                node.users[item] = None
                if isinstance(part, Tensor):
                    item.tells(part)
                    self._add(item, part)
                else:
                    self.step.nodes.append(item)
                    self._take_parts(item, part)

    @unfollowed
    @torch.no_grad()
    def take_loss(self, loss: Tensor) -> None:
        """A backward pass begins, or the step ends with a loss."""
        self.step.losses.append(self.node_of(loss))
        self.step.values.append(loss.detach().sum())


def _set_item(target: Tensor, index: Any, value: Any) -> Tensor:
    """`target[index] = value`, as a function that returns the target."""
    target[index] = value
    return target


def _users_place() -> tuple[str, int]:
    """File and line of the user's code that makes the call that runs."""
    frame: FrameType | None = sys._getframe(2)
    known = folders()
    while frame is not None and frame.f_code.co_filename.startswith(known):
        frame = frame.f_back
    return ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)


class StepObserver(Observer):
    """Records each step of a model while it is attached: all forward passes and losses until `take`.

    Between a backward pass and the next forward pass nothing is recorded: an optimizer may move the weights there.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(dict(model.named_modules()))
        self.model = model
        self._recorder: Recorder | None = None
        self._entered = False

    def arrives(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        """A module of the model is about to run."""
        if self._recorder is None or not self._recorder.stack:
            if not torch.is_grad_enabled() or backward_pass() != NONE:
                return  # an evaluation, or the recomputation of a checkpoint
            self._begin_pass(args)
        if self._recorder is not None:
            self._recorder.stack.append(name)

    def _begin_pass(self, args: tuple[Any, ...]) -> None:
        if self._recorder is None or self._recorder.passes >= PASSES:
            self.forget()
            self._recorder = Recorder(self.model)
        self._recorder.passes += 1
        self._recorder.paused = False
        self._recorder.inputs.update(id(tensor) for tensor in tensors_in(args))
        if not self._entered:
            self._recorder.__enter__()  # type: ignore[no-untyped-call]
            self._entered = True

    def leaves(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A module of the model has run."""
        if self._recorder is not None and self._recorder.stack:
            self._recorder.stack.pop()
            if not self._recorder.stack and self._entered:
                lower(self._recorder)  # the caller may leave a mode of its own before the loss

    def take(self) -> Step | None:
        """The step so far, after which another begins; None without a forward pass."""
        step = None if self._recorder is None else self._recorder.step
        self._leave()
        return step

    def take_with(self, *losses: Tensor) -> Step:
        """The step so far, with these losses."""
        if self._recorder is not None:
            for loss in losses:
                self._recorder.take_loss(loss)
        return self.take() or Step()

    def forget(self) -> None:
        """Drop the step so far."""
        if self._recorder is not None:
            self._recorder.step.release()
        self._leave()

    def _leave(self) -> None:
        if self._recorder is not None and self._entered:
            leave(self._recorder)
        self._recorder, self._entered = None, False

    def detach(self) -> None:
        """Stop recording."""
        super().detach()
        self.forget()


@contextmanager
def recorded(model: nn.Module) -> Iterator[Callable[..., Step]]:
    """Record the step of a model that runs inside; yields a function that returns it.

    Losses whose `backward()` is not called are given to that function.

    Example:
        >>> model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(8, 3)
        >>> with recorded(model) as step:
        ...     model(x).square().mean().backward()
        ...     [node.function for node in step().calls()]
        ['linear', 'tanh', 'linear', 'square', 'mean']
    """
    observer = StepObserver(model)
    with observer:
        yield observer.take_with
