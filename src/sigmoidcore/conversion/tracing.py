"""The data flow of a model as a graph, for the verbs that must know what reads what (`convert`, `fold`)."""

import dis
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from sigmoidcore.conversion.contents import as_it_was
from sigmoidcore.conversion.traced_forward import TracedForward
from sigmoidcore.core import SigmoidCore
from sigmoidcore.nn.stepwise import Stepwise


class UntraceableError(ValueError):
    """The forward of a model cannot be turned into a graph; the message says where and why."""


@dataclass(frozen=True)
class Part:
    """A module of the model whose forward could be traced.

    Attributes:
        name: its name in the model, "" for the model itself.
        graph: its forward; the targets of nodes are relative to it, `node.meta` has `owner`, the name of the module
            whose forward makes the call, and `call`, how often that one had been called.
        calls: how often the forward of each module inside was called, by name relative to the part.
        untraced: the modules inside that are leaves because their forward could not be traced, with the reason.
    """

    name: str
    graph: fx.Graph
    calls: Counter[str]
    untraced: dict[str, str]


def trace(model: nn.Module) -> fx.Graph:
    """The graph of a model's forward: PyTorch's own layers, cores and functional calls are its nodes.

    Args:
        model: any module; it is not changed and does not run.

    Raises:
        UntraceableError: its forward branches on values, or does something else that `torch.fx` cannot follow.

    Source:
        Reed, DeVito, He, Ussery, Ansel (2022), torch.fx, arXiv 2112.08429.
    """
    part = trace_part(model, "", with_defaults=False)
    for name, reason in part.untraced.items():
        raise UntraceableError(f"the forward of {type(model).__name__} cannot be traced, in '{name}': {reason}")
    return part.graph


def trace_part(model: nn.Module, name: str, *, with_defaults: bool) -> Part:
    """Trace a module; modules inside whose forward cannot be traced become leaves.

    Args:
        model: the module; it is not changed and does not run.
        name: its name in the model that it is part of.
        with_defaults: optional arguments of forward have their defaults, as in `model(x)`.

    Raises:
        UntraceableError: its own forward cannot be traced.
    """
    tracer = Tracer(with_defaults)
    try:
        with as_it_was(model):
            graph = tracer.trace(model)
    except Exception as error:  # a forward may raise anything when it is given a proxy
        raise UntraceableError(f"the forward of {type(model).__name__} cannot be traced: {said(error)}") from error
    return Part(name, graph, tracer.calls, tracer.untraced)


def is_whole(module: nn.Module) -> bool:
    """Whether a module is a node of the graph: one of PyTorch's own layers, or a core."""
    return isinstance(module, SigmoidCore | Stepwise) or fx.Tracer().is_leaf_module(module, "")


def said(error: BaseException) -> str:
    """The first sentence of an error."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0].rstrip(".")


class Tracer(fx.Tracer):
    """A tracer that knows who calls what, goes around what it cannot follow, and notices questions about types."""

    proxy_buffer_attributes = True  # or `self.count += 1` would count while tracing

    def __init__(self, with_defaults: bool) -> None:
        super().__init__()
        self.with_defaults = with_defaults
        self.calls: Counter[str] = Counter()
        self.untraced: dict[str, str] = {}
        self._owners: list[str] = [""]

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of the forward that the module really has, if it was rewritten."""
        with with_its_own_forward(root):
            return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """PyTorch's own layers, and cores."""
        return is_whole(m)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Go into the module, or around it."""
        name = self.path_of_module(m)
        self.calls[name] += 1
        if name not in self.untraced and not self.is_leaf_module(m, name):
            first = len(self.graph.nodes)
            self._owners.append(name)
            try:
                return forward(*args, **kwargs)
            except Exception as error:  # as above
                self.untraced[name] = said(error)
                for node in reversed(list(self.graph.nodes)[first:]):
                    self.graph.erase_node(node)
            finally:
                self._owners.pop()
        return self.create_proxy("call_module", name, args, kwargs)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A node that knows which forward made it."""
        node = super().create_node(*args, **kwargs)
        node.meta.update(owner=self._owners[-1], call=self.calls[self._owners[-1]])
        return node

    def create_args_for_root(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """Optional arguments are their defaults, if so wished."""
        function, values = super().create_args_for_root(*args, **kwargs)
        if self.with_defaults:
            values = [v.node.args[0] if type(v) is _Proxy and v.node.args else v for v in values]
        return function, values

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A value that does not say of which type it is."""
        return _Proxy(node, self)


class _Proxy(fx.Proxy):
    """A value that is not there yet. `isinstance(value, Tensor)` would be answered with no, and the forward would go
    another way than with a tensor.
    """  # noqa: D205

    @property
    def __class__(self) -> type:
        if _in_isinstance(sys._getframe(1)):
            raise TypeError("it asks for the type of a value, which tracing does not know")
        return _Proxy

    @__class__.setter
    def __class__(self, value: type) -> None:
        raise TypeError("a proxy keeps its class")


def _in_isinstance(frame: Any) -> bool:
    """Whether a frame of a model's code is at a call of `isinstance`; PyTorch's code and ours ask for other reasons."""
    code, place = frame.f_code, frame.f_globals.get("__name__", "")
    if place == "torch" and code.co_name == "is_tensor":
        return True
    if "isinstance" not in code.co_names or place.partition(".")[0] in ("torch", "sigmoidcore"):
        return False
    instructions = list(dis.get_instructions(code))
    here = next((i.positions for i in instructions if i.offset == frame.f_lasti), None)
    return here is not None and any(
        i.argval == "isinstance"
        and i.positions is not None
        and (i.positions.lineno, i.positions.col_offset) == (here.lineno, here.col_offset)
        for i in instructions
    )


@contextmanager
def seen_as(thing: Any, cls: type) -> Iterator[None]:
    """Give a module, or another object, another class for a while."""
    before = type(thing)
    object.__setattr__(thing, "__class__", cls)  # a recurrent layer reads attributes of its own on setting one
    try:
        yield
    finally:
        object.__setattr__(thing, "__class__", before)


@contextmanager
def with_its_own_forward(module: nn.Module) -> Iterator[None]:
    """`fx.Tracer.trace` asks the class for the forward: for a while, give the module a class with the one it has.

    Raises:
        UntraceableError: it was set on the instance, by someone else than `convert`.
    """
    own = module.__dict__.get("forward")
    if own is None:
        yield
        return
    if not isinstance(own, TracedForward):
        raise UntraceableError("it was set on the instance, not by its class")
    cls = type(module)
    with seen_as(module, type(cls.__name__, (cls,), {"forward": own.function, "__module__": cls.__module__})):
        yield
