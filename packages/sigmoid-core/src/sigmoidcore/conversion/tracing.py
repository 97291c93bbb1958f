"""A forward as a graph of torch.fx, and back: traced without running the model, and generated in place of a forward."""

import copy
import inspect
import operator
import random
from collections import Counter
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

import torch
from torch import Tensor, fx, nn

from sigmoidcore._torch.proxy import TensorProxy, number_first_functions_traced
from sigmoidcore.core import CoreModule
from sigmoidcore.nn.rows import has_rows, run

_PLAIN_WORDS = {
    "inputs to control flow": "it branches on a value",
    "Proxy object cannot be iterated": "it iterates over a value",
    "is not installed as a submodule": "it calls a module that is not a submodule, for example from a list",
}
"""What some messages of torch.fx mean for a user."""
_SEVERAL = ("chunk", "split", "tensor_split", "unbind", "hsplit", "vsplit", "dsplit", "meshgrid", "broadcast_tensors")
"""Functions that give several tensors."""
_NUMBERS = ("size", "dim", "ndimension", "numel", "nelement", "element_size")  # methods of a tensor that give numbers


class UntraceableError(ValueError):
    """The forward of a model cannot be turned into a graph; the message says where and why."""


def scratch_copy(module: nn.Module) -> nn.Module:
    """A copy that shares parameters and buffers: what a forward sets while it is traced does not reach the model."""
    attributes = (value for m in module.modules() for value in vars(m).values())
    shared: dict[int, Any] = {
        id(v): v for v in (*module.parameters(), *module.buffers(), *attributes) if isinstance(v, Tensor)
    }
    try:
        return copy.deepcopy(module, shared)
    except Exception as error:  # an attribute may be anything
        raise UntraceableError(f"{type(module).__name__} cannot be copied: {first_sentence(error)}") from error


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is a node of the graph: one of PyTorch's own layers, or a core."""
    return isinstance(module, CoreModule) or fx.Tracer().is_leaf_module(module, "")


def first_sentence(error: BaseException) -> str:
    """What an error says, in one sentence."""
    text = str(error).strip() or type(error).__name__
    plain = (sentence for words, sentence in _PLAIN_WORDS.items() if words in text)
    return next(plain, text.splitlines()[0].split(". ")[0].rstrip("."))


class Tracer(fx.Tracer):
    """A tracer of forwards that `convert` rewrote, too; its values are tensors to the forward."""

    proxy_buffer_attributes = True  # or `self.count += 1` would count while tracing

    def __init__(self, with_defaults: bool = False) -> None:
        super().__init__()
        self.with_defaults = with_defaults  # optional arguments have their defaults, as in `model(x)`
        self.draws = False  # whether the forward has drawn random numbers
        self._several: set[Any] = set()
        self._numbers: set[Any] = set()

    def trace_copy(self, module: nn.Module, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Trace a scratch copy; random generators stay as they are."""
        python, state = random.getstate(), torch.get_rng_state()
        try:
            with number_first_functions_traced():
                return self.trace(_root(module), concrete_args)
        except UntraceableError:
            raise
        except Exception as error:  # a forward may raise anything when it is given a proxy
            raise UntraceableError(first_sentence(error)) from error
        finally:
            self.draws = python != random.getstate() or not torch.equal(state, torch.get_rng_state())
            random.setstate(python)
            torch.set_rng_state(state)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """PyTorch's own layers, and cores."""
        return is_leaf(m)

    def create_args_for_root(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Any]]:
        """Replace optional arguments by their defaults, if wanted."""
        function, values = super().create_args_for_root(*args, **kwargs)
        if self.with_defaults:
            values = [v.node.args[0] if type(v) is TensorProxy and v.node.args else v for v in values]
        return function, values

    def create_arg(self, a: Any) -> Any:
        """A proxy is its node, although it says that it is a tensor."""
        return a.node if type(a) is TensorProxy else super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A value of the graph: a tensor, several, or a number. PyTorch crashes on a number that seems a tensor."""
        if self._is_number(node):
            self._numbers.add(node)
            return fx.Proxy(node, self)
        part = node.target is operator.getitem and node.args[0] in self._several and isinstance(node.args[1], slice)
        if part or str(getattr(node.target, "__name__", node.target)) in _SEVERAL:
            self._several.add(node)
            return fx.Proxy(node, self)
        return TensorProxy(node, self)

    def _is_number(self, node: fx.Node) -> bool:
        """Whether it is a size or a type of a tensor, or computed from such values alone."""
        if node.op == "call_method":
            return node.target in _NUMBERS
        if node.target is getattr:
            return node.args[1] in ("shape", "ndim", "device", "dtype")
        known = getattr(node.target, "__module__", None) in ("_operator", "builtins", "math")
        return known and bool(node.all_input_nodes) and self._numbers.issuperset(node.all_input_nodes)


class Part(Tracer):
    """A module of a model as `module(x)` runs it: its graph, and the modules that are leaves because of their forward.

    `node.meta` has `owner`, the name of the module whose forward makes the call, and `call`, how often that had run.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        super().__init__(with_defaults=True)
        self.name = name
        self.untraced: dict[str, str] = {}
        self._calls: Counter[str] = Counter()
        self._owners: list[str] = [""]
        try:
            self.trace_copy(scratch_copy(module))
        except UntraceableError as error:
            self.graph, self.untraced = fx.Graph(), {"": str(error)}

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Go into the module, or around it."""
        name = self.path_of_module(m)
        self._calls[name] += 1
        if name not in self.untraced and not self.is_leaf_module(m, name):
            first = len(self.graph.nodes)
            self._owners.append(name)
            try:
                return forward(*args, **kwargs)
            except Exception as error:  # as above
                self.untraced[name] = first_sentence(error)
                for node in reversed(list(self.graph.nodes)[first:]):
                    self.graph.erase_node(node)
            finally:
                self._owners.pop()
        return self.create_proxy("call_module", name, args, kwargs)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A node that knows which forward made it."""
        node = super().create_node(*args, **kwargs)
        node.meta.update(owner=self._owners[-1], call=self._calls[self._owners[-1]])
        return node


def _root(module: nn.Module) -> nn.Module:
    """What to trace: `torch.fx` reads the forward of the class, not the one of the instance."""
    forward = vars(module).get("forward")
    if forward is None:
        return module
    if not isinstance(forward, RewrittenForward):
        raise UntraceableError("its forward was set on the instance, not by its class")
    return forward.as_graph_module(module.training)


class RewrittenForward:
    """The forward of a module in which functional activations are calls of cores.

    It is the module's `forward` attribute, so that the module keeps its class and its methods. `torch.fx` generates
    the code, one for each value of `training`; it reads parameters and submodules from the module at each call.
    """

    def __init__(
        self, module: nn.Module, graphs: Mapping[bool, fx.Graph], added: dict[str, str], frozen: dict[str, Any]
    ) -> None:
        self.module = module
        self.added = added  # for each core, what the forward of the class calls there: "tanh()" or a module's name
        self.frozen = frozen  # attributes of the module that the graphs depend on, with their values
        self.generated = {training: _without_module(graph) for training, graph in graphs.items()}
        self._fused: dict[bool, Callable[..., Any]] = {}  # the same with rows of layers as one, made when it is needed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the forward of the class would, with cores at their places."""
        self.check()
        training = self.module.training
        if torch.compiler.is_compiling():
            return type(self.generated[training]).forward(self.module, *args, **kwargs)
        if training not in self._fused:
            self._fused[training] = _with_rows(self.generated[training].graph, self.module)
        return self._fused[training](self.module, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Everything that a copy needs: functions that are generated cannot be pickled."""
        return vars(self) | {"_fused": {}}

    def check(self) -> None:
        """Raise a RuntimeError if a frozen attribute has another value."""
        for name, then in self.frozen.items():
            now = getattr(self.module, name, None)
            if type(now) is not type(then) or now != then:
                kind = type(self.module).__name__
                raise RuntimeError(f"{kind}.{name} is {now!r}; it was {then!r} at convert. Set it before convert.")

    def as_graph_module(self, training: bool) -> fx.GraphModule:
        """A GraphModule with this forward and the submodules and parameters that it uses."""
        return fx.GraphModule(self.module, self.generated[training].graph, type(self.module).__name__)

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the forward of the class."""
        signature = inspect.signature(type(self.module).forward)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    @property
    def __code__(self) -> CodeType:
        """That of the forward of the class: torch.export names its file and line."""
        code: CodeType = inspect.unwrap(type(self.module).forward).__code__
        return code


def _with_rows(graph: fx.Graph, module: nn.Module) -> Callable[..., Any]:
    """A forward in which layers that run one after the other are one call of `run`, if rows are among them."""
    fused = fx.Graph()
    fused.output(fused.graph_copy(graph, {}))
    for chain in _chains(fused):
        if has_rows(module.get_submodule(str(node.target)) for node in chain):
            with fused.inserting_before(chain[0]):
                layers = [fused.get_attr(str(node.target)) for node in chain]
                output = fused.call_function(run, (layers, chain[0].args[0]))
            chain[-1].replace_all_uses_with(output)
            for node in reversed(chain):
                fused.erase_node(node)
    forward: Callable[..., Any] = type(fx.GraphModule(module, fused)).forward
    return forward


def _chains(graph: fx.Graph) -> list[list[fx.Node]]:
    """Calls of modules, each of which reads the one before and nothing else, and is its only reader."""
    chains: list[list[fx.Node]] = []
    for node in graph.nodes:
        if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
            continue
        if chains and node.args[0] is chains[-1][-1] and len(chains[-1][-1].users) == 1:
            chains[-1].append(node)
        else:
            chains.append([node])
    return chains


def _without_module(graph: fx.Graph) -> fx.GraphModule:
    """The generated code with stand-ins for submodules and parameters, so that it can be copied and pickled."""
    plain = fx.Graph()  # the given graph knows its tracer, which would be pickled with it
    plain.output(plain.graph_copy(graph, {}))
    stand_ins: dict[str, Any] = {}
    for node in plain.nodes:
        if node.op == "call_module":
            stand_ins[str(node.target)] = nn.Identity()
        elif node.op == "get_attr":
            stand_ins[str(node.target)] = nn.Parameter(torch.empty(0), requires_grad=False)
    return fx.GraphModule(stand_ins, plain)
