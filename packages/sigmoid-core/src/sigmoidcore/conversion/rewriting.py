"""The graph of one module's own forward, in which functional activations can become calls of cores."""

from collections.abc import Callable, Iterable, Sequence
from types import FunctionType, NoneType
from typing import Any

import torch
from torch import Tensor, fx, nn

from sigmoidcore._torch.proxy import TensorProxy
from sigmoidcore.conversion.tracing import RewrittenForward, Tracer, UntraceableError, scratch_copy

_FIXED = (NoneType, bool, int, float, str, FunctionType)  # attributes whose changes after `convert` raise an error


class OwnForward:
    """The graphs of a module's own forward in training and evaluation; an UntraceableError if they would not do it."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._read: set[str] = set()
        scratch = _noting(scratch_copy(module), self._read)
        with torch.enable_grad(), torch.autocast("cpu", dtype=torch.float16):
            self.graphs = {training: _checked(scratch.train(training)) for training in (True, False)}

    def calls(self, wanted: Callable[[fx.Node], bool]) -> list[dict[bool, fx.Node]]:
        """The nodes for which `wanted` is true, in the order of their calls: one of each graph."""
        found = {t: [node for node in graph.nodes if wanted(node)] for t, graph in self.graphs.items()}
        if _targets(found[True]) != _targets(found[False]):
            raise UntraceableError("it calls other activations in training than in evaluation")
        return [{True: one, False: other} for one, other in zip(found[True], found[False], strict=True)]

    def with_cores(self, cores: Sequence[tuple[dict[bool, fx.Node], str, str]]) -> RewrittenForward:
        """The forward in which each of these nodes calls the submodule beside it, in the place of what comes last."""
        before = vars(self._module).get("forward")
        read = self._read - {"training"}
        frozen = {k: v for k, v in vars(self._module).items() if k in read and isinstance(v, _FIXED)}
        added = {name: was for _, name, was in cores}
        if isinstance(before, RewrittenForward):
            frozen, added = before.frozen | frozen, before.added | added
        for nodes, name, _ in cores:
            for training, node in nodes.items():
                graph = self.graphs[training]
                with graph.inserting_before(node):
                    core = graph.call_module(name, (node.args[0] if node.args else next(iter(node.kwargs.values())),))
                node.replace_all_uses_with(core)
                graph.erase_node(node)
        return RewrittenForward(self._module, self.graphs, added, frozen)


class _OwnTracer(Tracer):
    """Child modules are leaves; tensors that the forward makes, and contexts that it switches, are refused."""

    def __init__(self, with_defaults: bool = False) -> None:
        super().__init__(with_defaults)
        self.contexts = _contexts()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _contexts() != self.contexts:
            raise UntraceableError("it switches gradients or autocast, which a graph does not record")
        return super().create_node(*args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        constant = type(a) is not TensorProxy and isinstance(a, Tensor) and not isinstance(a, nn.Parameter)
        if constant and a not in self.tensor_attrs:
            raise UntraceableError("it makes a tensor, which would be the same at every call")
        return super().create_arg(a)


def _checked(module: nn.Module) -> fx.Graph:
    """The graph of a scratch copy, which is what the forward does with optional arguments given and not."""
    before, tracer = _attributes(module), _OwnTracer()
    graph = tracer.trace_copy(module)
    if tracer.draws:
        raise UntraceableError("it draws random numbers, which would be the same at every call")
    if _attributes(module) != before:
        raise UntraceableError("it sets attributes, which a graph does not record")
    if any(node.op == "placeholder" and node.args for node in graph.nodes):
        try:
            default = _OwnTracer(with_defaults=True).trace_copy(module)
        except UntraceableError:
            default = fx.Graph()
        if _targets(default.nodes) != _targets(graph.nodes):
            raise UntraceableError("it does something else if an optional argument is given")
    return graph


def _noting(scratch: nn.Module, read: set[str]) -> nn.Module:
    """A scratch copy that notes the names of its attributes when they are read."""
    kind = type(scratch)

    def note(self: Any, name: str) -> Any:
        read.add(name)
        return kind.__getattribute__(self, name)

    scratch.__class__ = type(kind.__name__, (kind,), {"__getattribute__": note, "__module__": kind.__module__})
    return scratch


def _contexts() -> tuple[Any, ...]:
    on = (torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
    return torch.is_grad_enabled(), torch.get_autocast_dtype("cpu"), *on


def _attributes(module: nn.Module) -> dict[str, int]:
    """What a forward may set: attributes and buffers, by identity."""
    return {name: id(value) for name, value in (*vars(module).items(), *module.named_buffers(recurse=False))}


def _targets(nodes: Iterable[fx.Node]) -> list[tuple[str, Any]]:
    """What a forward calls, whatever the values are."""
    return [(node.op, node.target) for node in nodes]
