"""Rewrite the forward of a module so that a functional call, or a second use of a module, is a core of its own."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from inspect import getattr_static
from typing import Any

from torch import Tensor, fx, nn

from sigmoidcore.conversion.activation_sites import function_of
from sigmoidcore.conversion.contents import PLAIN, as_it_was, contents, parts_of
from sigmoidcore.conversion.contexts import Contexts, tracing_in
from sigmoidcore.conversion.traced_forward import TracedForward
from sigmoidcore.conversion.tracing import Tracer, UntraceableError, said, seen_as

_INTERNAL = frozenset(nn.Module().__dict__) - {"training"}
_MOST = 1000
"""Entries of a list or dict that are compared at each call."""
Contents = tuple[tuple[str, Any], ...]


class OwnForward:
    """The graph of a module's own forward; the modules that it calls are nodes, and nothing is frozen unseen.

    What tracing would freeze is kept alive where that can be done: `self.training`, tensors and numbers of the module
    are read at each call. Other attributes that the forward reads are `fixed`, and checked at each call.

    Args:
        module: the module; it is not changed and does not run.

    Raises:
        UntraceableError: its forward branches on values, on `self.training` or on optional arguments, draws random
            numbers of its own, sets attributes, makes tensors, or switches gradients or autocast: a rewritten forward
            would not do the same.
    """

    def __init__(self, module: nn.Module) -> None:
        live: tuple[type, ...] = (Tensor, float)
        try:
            self.graph, self.fixed = _own_graph(module, live, with_defaults=False)
        except UntraceableError:
            live = (Tensor,)  # the forward needs their values
            self.graph, self.fixed = _own_graph(module, live, with_defaults=False)
        without, _ = _own_graph(module, live, with_defaults=False, grad=False, autocast=True)
        if _calls(without) != _calls(self.graph):
            raise UntraceableError("it asks whether gradients or autocast are on")
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

    def as_module(self, module: nn.Module) -> fx.GraphModule:
        """A plain module with this forward, and with all that `module` has registered: it needs no sigmoidcore to load.

        Raises:
            UntraceableError: the forward reads `training` for something else than dropout. A GraphModule that is
                pickled keeps the mode in which it was.
        """
        for node in self.calls(lambda n: n.op == "get_attr" and str(n.target).rpartition(".")[2] == "training"):
            for user in list(node.users):
                name = _free_name(module, "dropout")
                module.add_module(name, _dropout(user, node, module).train(module.training))
                with self.graph.inserting_before(user):
                    value = user.args[0] if user.args else user.kwargs["input"]
                    user.replace_all_uses_with(self.graph.call_module(name, (value,)))
                self.graph.erase_node(user)
            self.graph.erase_node(node)
        graph = fx.Graph()  # self.graph knows its tracer, with which a GraphModule would be unpickled
        graph.output(graph.graph_copy(self.graph, {}))
        made = fx.GraphModule(module, graph, type(module).__name__)
        for kind in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            made.__dict__[kind] = module.__dict__[kind]
        made.__dict__.update({k: v for k, v in module.__dict__.items() if "hook" in k})
        for node in self.calls(lambda n: n.op == "get_attr"):
            value = module.__dict__.get(str(node.target))
            if isinstance(value, Tensor) and str(node.target) not in made._buffers:
                made.register_buffer(str(node.target), value, persistent=False)
        made.training = module.training
        return made


_DROPOUTS: dict[Any, Callable[[float, bool], nn.Module]] = {
    nn.functional.dropout: nn.Dropout,
    nn.functional.dropout1d: nn.Dropout1d,
    nn.functional.dropout2d: nn.Dropout2d,
    nn.functional.dropout3d: nn.Dropout3d,
    nn.functional.alpha_dropout: nn.AlphaDropout,
}


def _dropout(node: fx.Node, training: fx.Node, module: nn.Module) -> nn.Module:
    """The module for a call of a dropout that asks for the mode of the module whose forward calls it."""
    kind = _DROPOUTS.get(node.target)
    given = dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)) | dict(node.kwargs)
    if kind is None or training.target != "training" or given.get("training") is not training:
        raise UntraceableError("it reads 'training' for something else than dropout of its own")
    p = given.get("p", 0.5)
    if isinstance(p, fx.Node):
        p = getattr(module, str(p.target)) if p.op == "get_attr" else None
    if not isinstance(p, float | int):
        raise UntraceableError("it computes the rate of a dropout")
    return kind(p, bool(given.get("inplace", False)))


def _free_name(module: nn.Module, name: str) -> str:
    names = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(1)))
    return next(n for n in names if not hasattr(module, n))


class _OwnTracer(Tracer):
    """Modules are leaves; tensors that the forward makes, and contexts that it switches, are refused."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        self.contexts = Contexts()
        return super().trace(root, concrete_args)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        self.contexts.check()
        return super().create_node(*args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor) and not isinstance(a, nn.Parameter | fx.Proxy):
            raise UntraceableError("it makes a tensor of its own, which would be the same at every call")
        return super().create_arg(a)


def _own_graph(
    module: nn.Module, live: tuple[type, ...], *, with_defaults: bool, grad: bool = True, autocast: bool = False
) -> tuple[fx.Graph, list[tuple[Any, str, Contents]]]:
    tracer = _OwnTracer(with_defaults)
    fixed: dict[tuple[int, str], tuple[Any, Any]] = {}
    try:
        with as_it_was(module) as changed:
            with _reads_of(module, tracer, fixed, live), tracing_in(grad, autocast):
                graph = tracer.trace(module)
            if changed():
                raise UntraceableError("it sets attributes or draws random numbers")
    except Exception as error:  # a forward may raise anything when it is given a proxy
        raise UntraceableError(said(error)) from error
    found = [(owner, name, contents(value)) for (_, name), (owner, value) in fixed.items()]
    for _, name, inside in found:
        if len(inside) > _MOST:
            raise UntraceableError(f"it reads '{name}', which has too many entries to see when one changes")
    return graph, found


@contextmanager
def _reads_of(
    module: nn.Module, tracer: Tracer, fixed: dict[tuple[int, str], tuple[Any, Any]], live: tuple[type, ...]
) -> Iterator[None]:
    """While tracing, make nodes of the attributes that may change from call to call, and note the others.

    What is read from an object that is no module, such as a configuration, is noted as well.
    """
    prefixes = {id(m): f"{name}." if name else "" for name, m in module.named_modules()}
    classes: dict[type, type] = {}
    watched: set[int] = set()

    def read(owner: nn.Module, name: str) -> Any:
        value = object.__getattribute__(owner, name)
        if name in _INTERNAL or id(owner) not in prefixes or not _is_data(owner, name):
            return value
        own = name in object.__getattribute__(owner, "__dict__")
        if own and (name == "training" or isinstance(value, live)):
            return tracer.create_proxy("get_attr", prefixes[id(owner)] + name, (), {})
        return note(owner, name, value)

    def note(owner: Any, name: str, value: Any) -> Any:
        fixed[id(owner), name] = owner, value
        watch(value)
        return value

    def watch(value: Any) -> None:
        """Note what is read from the objects in a value."""
        parts = None if id(value) in watched else parts_of(value)
        if parts is None:
            return
        watched.add(id(value))
        if parts is value:
            for inner in value.values() if isinstance(value, dict) else value:
                watch(inner)
            return
        cls: Any = type(value)

        def read_from(owner: Any, name: str) -> Any:
            found = cls.__getattribute__(owner, name)
            return note(owner, name, found) if _is_data(owner, name) else found

        try:
            classes.setdefault(cls, _reading(cls, read_from))
            stack.enter_context(seen_as(value, classes[cls]))
        except TypeError:
            pass  # a class that has no subclasses; of those that hold data, `contents` knows what is in them

    with ExitStack() as stack:
        for m in list(module.modules()):
            cls = type(m)
            if cls not in classes:
                classes[cls] = _reading(cls, read)
            stack.enter_context(seen_as(m, classes[cls]))
        yield


def _reading(cls: type, read: Callable[[Any, str], Any]) -> type:
    """A class like another, with a way of its own to read attributes."""
    return type(cls.__name__, (cls,), {"__getattribute__": read, "__module__": cls.__module__, "__slots__": ()})


def _is_data(owner: Any, name: str) -> bool:
    """Whether an attribute is one of the object, or a value that its class has for all."""
    if name in object.__getattribute__(owner, "__dict__"):
        return True
    value = None if name.startswith("__") else getattr_static(type(owner), name, None)
    return isinstance(value, PLAIN) or (value is not owner and isinstance(value, list | dict | tuple | set))


def _called(node: fx.Node) -> str:
    """What a node calls: the name of a module, or of a function as in the report."""
    return str(node.target) if node.op == "call_module" else f"{function_of(node)}()"


def _path(graph: fx.Graph) -> list[tuple[str, Any]]:
    """What a forward does, whatever the values are."""
    return [(node.op, node.target) for node in graph.nodes]


def _calls(graph: fx.Graph) -> list[tuple[str, Any, str, str]]:
    """What a forward does, and with which values."""
    return [(node.op, node.target, str(node.args), str(node.kwargs)) for node in graph.nodes]
