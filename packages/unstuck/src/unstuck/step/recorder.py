"""Records a training step: every call of PyTorch from the inputs of the model to the backward pass.

A `TorchFunctionMode` receives the calls of modules and of the user's own code; module hooks tell in which module.
"""

import inspect
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unstuck._torch.autograd import NONE, backward_pass
from unstuck._torch.modes import autocast, leave, lower, original, transforms_active, unfollowed
from unstuck.extensions import is_library_file
from unstuck.observation.observer import Observer
from unstuck.step.node import Node, mapped, name_of, reached, tensors_in
from unstuck.step.replay import state
from unstuck.step.step import Step

TRANSFORMS = "calls inside torch.func.vmap, grad and the like"
AHEAD, AHEAD_BYTES, MOST_AHEAD = 4096, 2**25, 2**15
"""Calls before a forward pass, and bytes that they read, after which the earlier ones are forgotten; and calls after
which the others are not recorded: it is an evaluation."""
PASSES = 16
"""Forward passes after which a step begins anew: a loop without an optimizer never ends its step."""


class Recorder(TorchFunctionMode):
    """Records the calls of a model and of its losses while it is entered. Subclasses look at their values.

    The parameters and buffers of the model become placeholders with their names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step, self.passes, self._nodes = Step(), 0, dict[int, Node]()
        self._entered, self.thread = False, 0  # of the last forward pass, to which the mode belongs
        self.restart({})

    def restart(self, names: Mapping[str, Tensor]) -> Step:
        """Begin another step, of a model whose parameters and buffers have these names; returns the one so far."""
        step, self.step = self.step, Step()
        for node in self._nodes.values() if self.passes > PASSES else ():  # some have left the step
            node.users.clear()
        self.stack: list[str] = []  # names of the modules that run, outermost first
        self.inputs: set[int] = set()  # of the model, by identity
        self.passes = self.ahead = self._bytes = 0  # calls before the first pass, and bytes that they read
        self.sparse = False  # only calls are recorded that read what recorded ones have made, without values
        self._before: dict[int, Node] = {}  # what was made before the first forward pass
        self._ended = False  # by a backward pass: an optimizer moves the weights now
        self._names = {id(tensor): (name, tensor) for name, tensor in names.items()}
        self._nodes = {}
        return step

    def begin(self, inputs: Any) -> None:
        """A forward pass begins. After `PASSES` of them the calls so far are dropped."""
        if self.passes and self.passes % PASSES == 0:
            self.step.release()
            for kept in (self.step.before, self.step.nodes, self.step.outputs):
                kept.clear()
            self.step.unfollowed[f"more than {PASSES} forward passes"] = None
            self._nodes = {key: node for key, node in self._nodes.items() if node.tensor() is not None}
        if not self.passes:
            self.step.before, self.step.nodes = self.step.nodes, []
            self._before, self._nodes = self._nodes, {}
            self.step.unfollowed.clear()
        self.passes += 1
        self._ended = False
        self.inputs.update(id(tensor) for tensor in tensors_in(inputs))
        self._enter()

    def look_ahead(self) -> None:
        """A module runs without a gradient before the first forward pass: the loss may read what it makes."""
        if self.ahead > MOST_AHEAD:
            self.stop()
        elif not self._entered:
            self.ahead += 1
            self._enter()
            lower(self)  # the caller may leave a mode of its own

    def _limit(self, value: Tensor | None) -> None:
        """Forget the calls before the first forward pass if they are many, or read much."""
        self.ahead += 1
        self._bytes += 0 if value is None else value.nbytes
        if self.ahead % AHEAD == 0 or self._bytes > AHEAD_BYTES:
            self.step.release()
            self.step.nodes.clear()
            self._nodes.clear()
            self._bytes = 0

    def _enter(self) -> None:
        if not self._entered or self.thread != get_ident():
            self.__enter__()  # type: ignore[no-untyped-call]
            self._entered, self.thread = True, get_ident()

    @unfollowed
    def end(self, outputs: Any = None, module: Any = None, args: Any = (), kwargs: Mapping[str, Any] = {}) -> None:
        """A forward pass, of a module with these arguments, has returned these outputs; its loss comes."""
        self.stack.clear()
        self.step.training |= bool(getattr(module, "training", False))
        given = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim())
        unread = {id(value) for value in given if not self.sparse and self.known(value) is None}
        if unread:
            named = _inputs_of(module, args, kwargs).items()
            read = {_place(node.value) for node in self.step.nodes if node.value is not None}
            self.step.unread |= {name: None for name, x in named if id(x) in unread and _place(x) not in read}
        self.step.outputs += [node for tensor in tensors_in(outputs) if (node := self.known(tensor)) is not None]
        if self._entered:
            lower(self)  # the caller may leave a mode of its own before the loss

    def stop(self) -> None:
        """Record no more, until the next forward pass."""
        if self._entered and self.thread == get_ident():  # else it says nothing there any more
            leave(self)
        self._entered = False

    def before(self, function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A call is about to run."""

    def after(self, node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """A call has run."""

    def ends(self, loss: Tensor) -> None:
        """The `backward()` of a loss is about to run."""

    def name(self, parameter: nn.Parameter) -> str:
        """The name of a parameter that the model did not have when the step began; "" of another."""
        return ""

    def fails(self, name: str, error: Exception) -> None:
        """Something of ours has failed at a call."""
        raise error

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a function and record it."""
        kwargs, func = kwargs or {}, original(func)
        name = name_of(func)
        if self.sparse and name != "backward" and not (self._reads_made(args) or self._reads_made(kwargs.values())):
            return func(*args, **kwargs)
        if not self._entered or self.thread != get_ident() or (self.ahead > MOST_AHEAD and not self.passes):
            return func(*args, **kwargs)
        if not name or (self._ended and not (torch.is_grad_enabled() and _continues(args, kwargs))):
            return func(*args, **kwargs)
        if transforms_active() and name != "backward":
            self.step.unfollowed[TRANSFORMS] = None
            return func(*args, **kwargs)
        node = None
        try:
            if name == "backward" and not self.stack:
                self._ended = True
                if self._trains(args[0]):
                    self.take_loss(args[0])
            else:
                node = self._read(func, name, args, kwargs)  # an in-place function changes its arguments
                self.before(func, name, args, kwargs)
        except Exception as error:
            self.fails(name, error)
        result = func(*args, **kwargs)
        try:
            if node is not None:
                self._take(node, args, kwargs, result)
        except Exception as error:
            self.fails(name, error)
        return result

    def known(self, tensor: Tensor, nodes: Mapping[int, Node] | None = None) -> Node | None:
        """The node that made a tensor, of these or all of the step; None if none did."""
        node = (self._nodes if nodes is None else nodes).get(id(tensor))
        return node if node is not None and node.tensor() is tensor else None

    def _reads_made(self, values: Iterable[Any]) -> bool:
        """Whether a recorded call has made any of these values, or of what is in them."""
        for x in values:
            node = self._nodes.get(id(x))
            made = node is not None and node.op == "call_function" and node.tensor() is x
            if made or (isinstance(x, tuple | list | dict) and self._reads_made(tensors_in(x))):
                return True
        return False

    def node_of(self, tensor: Tensor) -> Node:
        """The node that made a tensor; a placeholder if none did."""
        node = self.known(tensor)
        if node is not None and node.op in ("parameter", "buffer"):
            return node
        name, own = self._names.get(id(tensor), ("", None))
        if own is not tensor:
            name = self.name(tensor) if type(tensor) is not Tensor and isinstance(tensor, nn.Parameter) else ""
        if name:
            node = Node("parameter" if isinstance(tensor, nn.Parameter) else "buffer", name)
        elif node is None:
            if tensor.requires_grad and not tensor.is_leaf:
                self.step.unfollowed["a gradient from before the model was called: call the model first"] = None
            node = Node("input" if id(tensor) in self.inputs else "constant", len(self.step.nodes))
            node.value = None if self.sparse else tensor if tensor.is_leaf else tensor.detach()
            made = self.known(tensor, self._before)
            node.made_by = made if made is not None and made.function else None
        else:
            if tensor.requires_grad and not node.requires_grad:
                node.requires_grad, node.leaf = True, tensor.is_leaf
                if not tensor.is_leaf:
                    self.step.unfollowed["a custom autograd function"] = None
            return node
        self._add(node, tensor)
        return node

    def _add(self, node: Node, tensor: Tensor) -> None:
        """Add the node that made a tensor; a parameter that is changed in place stays what it is."""
        node.makes(tensor)
        self._append(node)
        if node.op != "call_function" or self._names.get(id(tensor), ("", None))[1] is not tensor:
            self._nodes[id(tensor)] = node

    def _append(self, node: Node) -> None:
        if not self.passes and self.ahead:
            self._limit(node.value)
        self.step.nodes.append(node)
        for read in node.reads:
            read.users[node] = None

    @unfollowed
    def _read(self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Node:
        """The node of a call that is about to run."""
        node = Node("call_function", _set_item if name == "setitem" else func)
        node.function = name
        reads: list[Node] = []

        def taken(tensor: Tensor) -> Node:
            reads.append(self.node_of(tensor))
            return reads[-1]

        node.args = tuple([taken(x) if isinstance(x, Tensor) else mapped(x, Tensor, taken) for x in args])
        if kwargs:
            node.kwargs = {key: mapped(value, Tensor, taken) for key, value in kwargs.items()}
        alike = not kwargs and all(isinstance(x, Tensor) for x in args)
        node.reads = node.args if alike else tuple(reads)  # without another object for the garbage collector
        node.module, node.place = self.stack[-1] if self.stack else None, _users_place()
        node.grad_enabled = torch.is_grad_enabled()
        node.autocast = autocast()
        return node

    @unfollowed
    def _take(self, node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """A call has run."""
        if node.function == "setitem":  # returns nothing, and changes its first argument
            result = args[0]
        if isinstance(result, Tensor):
            self._add(node, result)
        elif _has_tensors(result):
            self._append(node)
            self._take_parts(node, result)
        else:
            return
        self.after(node, args, kwargs, result)

    def _take_parts(self, node: Node, parts: Any) -> None:
        """A function has returned several tensors, or tuples of some."""
        for i, part in enumerate(parts):
            if isinstance(part, Tensor) or _has_tensors(part):
                item = Node("call_function", operator.getitem)
                item.function, item.module, item.place = "getitem", node.module, node.place
                item.grad_enabled, item.autocast = node.grad_enabled, node.autocast
                item.args, item.reads = (node, i), (node,)
                if isinstance(part, Tensor):
                    self._add(item, part)
                else:
                    self._append(item)
                    self._take_parts(item, part)
                node.requires_grad |= item.requires_grad

    @unfollowed
    def _trains(self, loss: Tensor) -> bool:
        """Whether a gradient goes from a loss to parameters of the model: that of a discriminator may read outputs."""
        moving = reached([self.node_of(loss)], lambda node: node.moving)
        return any(node.op == "parameter" and node.requires_grad for node in moving)

    @unfollowed
    @torch.no_grad()
    def take_loss(self, loss: Tensor) -> None:
        """A backward pass begins, or the step ends with a loss."""
        self._ended = True
        self.step.losses.append(self.node_of(loss))
        self.step.values.append(loss.detach().sum())
        self.ends(loss)


@unfollowed
def _continues(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call after a backward pass may belong to another loss; an optimizer's does not, nor the next batch."""
    return any(tensor.requires_grad for tensor in tensors_in((args, kwargs)))


def _inputs_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a module by name, as far as its forward has names for them."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # not written in Python
        return dict(kwargs)
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _has_tensors(values: Any) -> bool:
    return isinstance(values, tuple | list) and any(isinstance(x, Tensor) or _has_tensors(x) for x in values)


def _set_item(target: Tensor, index: Any, value: Any) -> Tensor:
    """`target[index] = value`, as a function that returns the target."""
    target[index] = value
    return target


def _users_place() -> tuple[str, int]:
    """File and line of the user's code that makes the call that runs."""
    frame: FrameType | None = sys._getframe(3)
    while frame is not None and is_library_file(frame.f_code.co_filename):
        frame = frame.f_back
    return ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)


class StepObserver(Observer):
    """Records each step of a model while it is attached: all forward passes and losses until `take`.

    Between a backward pass and the next forward pass nothing is recorded: an optimizer may move the weights there.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(dict(model.named_modules()))
        self.model = model
        self._recorder = Recorder()

    def arrives(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        """A module of the model is about to run."""
        if not self._recorder.stack:
            if not torch.is_grad_enabled() or backward_pass() != NONE:
                return  # an evaluation, or the recomputation of a checkpoint
            if self._recorder.passes in (0, PASSES):
                self._recorder.restart(state(self.model)).release()
            self._recorder.begin(args)
        self._recorder.stack.append(name)

    def leaves(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A module of the model has run."""
        if self._recorder.stack:
            self._recorder.stack.pop()
            if not self._recorder.stack:
                self._recorder.end(output, layer, args, kwargs)

    def take(self) -> Step | None:
        """The step so far, after which another begins; None without a forward pass."""
        passes = self._recorder.passes
        self._recorder.stop()
        step = self._recorder.restart({})
        return step if passes else None

    def take_with(self, *losses: Tensor) -> Step:
        """The step so far, with these losses."""
        for loss in losses:
            self._recorder.take_loss(loss)
        return self.take() or Step()

    def forget(self) -> None:
        """Drop the step so far."""
        self._recorder.stop()
        self._recorder.restart({}).release()

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


def _place(tensor: Tensor) -> int:
    """Where the numbers are: `as_subclass` is a call that no mode sees, and its result has the same."""
    return tensor.data_ptr() if tensor.layout is torch.strided else id(tensor)
