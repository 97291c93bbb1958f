"""Rewrite the forward of a module so that a functional call, or a second use of a module, is a core of its own."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, fx, nn

from sigmoidcore.forward import TracedForward
from sigmoidcore.graph import Tracer, UntraceableError, as_it_was, said, seen_as
from sigmoidcore.sites import function_of

_INTERNAL = frozenset(nn.Module().__dict__) - {"training"}


class OwnForward:
    """The graph of a module's own forward; the modules that it calls are nodes, and nothing is frozen unseen.

    What tracing would freeze is kept alive where that can be done: `self.training`, tensors and numbers of the module
    are read at each call. Other attributes that the forward reads are `fixed`, and checked at each call.

    Args:
        module: the module; it is not changed and does not run.

    Raises:
        UntraceableError: its forward branches on values, on `self.training` or on optional arguments, draws random
            numbers of its own, sets attributes, or makes tensors: a rewritten forward would not do the same.
    """

    def __init__(self, module: nn.Module) -> None:
        live: tuple[type, ...] = (Tensor, float)
        try:
            self.graph, self.fixed = _own_graph(module, live, with_defaults=False)
        except UntraceableError:
            live = (Tensor,)  # the forward needs their values
            self.graph, self.fixed = _own_graph(module, live, with_defaults=False)
        if any(node.op == "placeholder" and node.args for node in self.graph.nodes):
            try:
                default, _ = _own_graph(module, live, with_defaults=True)
            except UntraceableError:
                default = fx.Graph()
            if _path(default) != _path(self.graph):
                raise UntraceableError("it goes another way when an optional argument is given")

    def calls(self, wanted: Callable[[fx.Node], bool]) -> list[fx.Node]:
        """The nodes for which `wanted` is true, in the order of their calls."""
        return [node for node in self.graph.nodes if wanted(node)]

    def replaced(self, module: nn.Module, cores: Sequence[tuple[fx.Node, str]]) -> TracedForward:
        """The forward in which each of these nodes is a call of the submodule named beside it."""
        before = module.__dict__.get("forward")
        fixed, added = (before.fixed, before.added) if isinstance(before, TracedForward) else ([], {})
        added = added | {name: _called(node) for node, name in cores}
        for node, name in cores:
            with self.graph.inserting_before(node):
                value = node.args[0] if node.args else next(iter(node.kwargs.values()))
                core = self.graph.create_node("call_module", name, (value,))
            node.replace_all_uses_with(core)
            self.graph.erase_node(node)
        code = self.graph.python_code("self")
        return TracedForward(module, code.src, dict(code.globals), [*fixed, *self.fixed], added)


class _OwnTracer(Tracer):
    """Modules are leaves; tensors that the forward makes are refused."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter | fx.Proxy):
            raise UntraceableError("it makes a tensor of its own, which would be the same at every call")
        return super().create_arg(a)


def _own_graph(
    module: nn.Module, live: tuple[type, ...], *, with_defaults: bool
) -> tuple[fx.Graph, list[tuple[nn.Module, str, Any]]]:
    tracer = _OwnTracer(with_defaults)
    fixed: dict[tuple[nn.Module, str], Any] = {}
    try:
        with as_it_was(module) as changed:
            with _reads_of(module, tracer, fixed, live):
                graph = tracer.trace(module)
            if changed():
                raise UntraceableError("it sets attributes or draws random numbers")
    except Exception as error:  # a forward may raise anything when it is given a proxy
        raise UntraceableError(said(error)) from error
    return graph, [(owner, name, value) for (owner, name), value in fixed.items()]


@contextmanager
def _reads_of(
    module: nn.Module, tracer: Tracer, fixed: dict[tuple[nn.Module, str], Any], live: tuple[type, ...]
) -> Iterator[None]:
    """While tracing, make nodes of the attributes that may change from call to call, and note the others."""
    prefixes = {id(m): f"{name}." if name else "" for name, m in module.named_modules()}

    def read(owner: nn.Module, name: str) -> Any:
        value = object.__getattribute__(owner, name)
        if name in _INTERNAL or id(owner) not in prefixes or name not in object.__getattribute__(owner, "__dict__"):
            return value
        if name == "training" or isinstance(value, live):
            return tracer.create_proxy("get_attr", prefixes[id(owner)] + name, (), {})
        fixed[owner, name] = value
        return value

    with ExitStack() as stack:
        classes: dict[type, type] = {}
        for m in list(module.modules()):
            cls = type(m)
            if cls not in classes:
                classes[cls] = type(cls.__name__, (cls,), {"__getattribute__": read, "__module__": cls.__module__})
            stack.enter_context(seen_as(m, classes[cls]))
        yield


def _called(node: fx.Node) -> str:
    """What a node calls: the name of a module, or of a function as in the report."""
    return str(node.target) if node.op == "call_module" else f"{function_of(node)}()"


def _path(graph: fx.Graph) -> list[tuple[str, Any]]:
    """What a forward does, whatever the values are."""
    return [(node.op, node.target) for node in graph.nodes]
