"""The graph of one module's own forward, in which functional activations can become calls of cores."""

import copy
import inspect
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from sigmoidcore._torch.proxy import TensorProxy
from sigmoidcore.conversion.activation_sites import function_of
from sigmoidcore.conversion.rewritten_forward import RewrittenForward
from sigmoidcore.conversion.source_lines import attributes_read
from sigmoidcore.conversion.tracing import Tracer, UntraceableError, scratch_copy

_DEVICES = ("cpu", "cuda")
Wanted = Callable[[fx.Node], bool]


class OwnForward:
    """The graphs of a module's own forward, in training and in evaluation; the modules that it calls are nodes.

    Attributes that the forward reads, other than tensors and modules, are `frozen`.

    Args:
        module: the module; it is not changed and does not run.

    Raises:
        UntraceableError: the forward branches on values or on optional arguments, draws random numbers, sets
            attributes, makes tensors, or switches gradients or autocast. Its graph would not do the same.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        scratch = scratch_copy(module)
        self.graphs: dict[bool, fx.Graph] = {}
        for training in (True, False):
            self.graphs[training] = _checked(scratch.train(training))
        names = {name for name in attributes_read(module) if _is_data(module, name)}
        self._frozen = {name: _comparable(getattr(module, name)) for name in names}

    def calls(self, wanted: Wanted) -> list[dict[bool, fx.Node]]:
        """The nodes for which `wanted` is true, in the order of their calls: one of each graph.

        Raises:
            UntraceableError: there are others in training than in evaluation.
        """
        found = {t: [node for node in graph.nodes if wanted(node)] for t, graph in self.graphs.items()}
        if _targets(found[True]) != _targets(found[False]):
            raise UntraceableError("it calls other activations in training than in evaluation")
        return [{True: one, False: other} for one, other in zip(found[True], found[False], strict=True)]

    def with_cores(self, cores: Sequence[tuple[dict[bool, fx.Node], str]]) -> RewrittenForward:
        """The forward in which each of these nodes is a call of the submodule named beside it."""
        before = vars(self._module).get("forward")
        frozen, added = self._frozen, {name: _called(nodes[True]) for nodes, name in cores}
        if isinstance(before, RewrittenForward):
            frozen, added = before.frozen | frozen, before.added | added
        for nodes, name in cores:
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

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        before = _random_state()
        graph = super().trace(root, concrete_args)
        if _random_state() != before:
            raise UntraceableError("it draws random numbers, which would be the same at every call")
        return graph

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if _contexts() != self.contexts:
            raise UntraceableError("it switches gradients or autocast, which a graph does not record")
        return super().create_node(*args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        if type(a) is TensorProxy or isinstance(a, nn.Parameter):
            return super().create_arg(a)
        if isinstance(a, Tensor) and a not in self.tensor_attrs:
            raise UntraceableError("it makes a tensor, which would be the same at every call")
        return super().create_arg(a)


def _checked(module: nn.Module) -> fx.Graph:
    """The graph of a scratch copy, which is what the forward does whatever the contexts and optional arguments are."""
    before = _attributes(module)
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        graph = _OwnTracer().trace_copy(module)
    after = _attributes(module)
    if before.keys() != after.keys() or any(v is not after[k][0] or n != after[k][1] for k, (v, n) in before.items()):
        raise UntraceableError("it sets attributes, which a graph does not record")
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        without = _OwnTracer().trace_copy(module)
    if _nodes(without) != _nodes(graph):
        raise UntraceableError("it asks whether gradients or autocast are on")
    if any(node.op == "placeholder" and node.args for node in graph.nodes):
        try:
            default = _OwnTracer(with_defaults=True).trace_copy(module)
        except UntraceableError:
            default = fx.Graph()
        if _targets(default.nodes) != _targets(graph.nodes):
            raise UntraceableError("it does something else if an optional argument is given")
    return graph


def _contexts() -> tuple[Any, ...]:
    autocast = ((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in _DEVICES)
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast


def _random_state() -> tuple[Any, ...]:
    """The states of the random generators of Python, NumPy and PyTorch (CPU)."""
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


def _attributes(module: nn.Module) -> dict[str, tuple[Any, int]]:
    """What a forward may set: attributes, buffers, and the lengths of collections."""
    values = {**vars(module), **dict(module.named_buffers(recurse=False))}
    return {k: (v, len(v) if isinstance(v, list | dict | set) else 0) for k, v in values.items()}


def _is_data(module: nn.Module, name: str) -> bool:
    """Whether an attribute holds data that a graph would freeze."""
    if isinstance(inspect.getattr_static(type(module), name, None), property) or name in ("training", "forward"):
        return False
    value = getattr(module, name, None)
    method = inspect.ismethod(value) and value.__self__ is module
    return hasattr(module, name) and not isinstance(value, Tensor | nn.Module) and not method


def _comparable(value: Any) -> Any:
    """A copy of a collection that can be compared by value; else the value itself."""
    if not isinstance(value, list | dict | set | tuple):
        return value
    try:
        made = copy.deepcopy(value)
        return made if (made == value) is True else value
    except Exception:  # an entry may be anything
        return value


def _called(node: fx.Node) -> str:
    """What a node calls: the name of a module, or of a function as in the report."""
    return str(node.target) if node.op == "call_module" else f"{function_of(node)}()"


def _targets(nodes: Iterable[fx.Node]) -> list[tuple[str, Any]]:
    """What a forward calls, whatever the values are."""
    return [(node.op, node.target) for node in nodes]


def _nodes(graph: fx.Graph) -> list[tuple[str, Any, str, str]]:
    """What a forward calls, and with which values."""
    return [(node.op, node.target, str(node.args), str(node.kwargs)) for node in graph.nodes]
