"""The data flow of a model as a graph; the model itself is not changed and does not run."""

import copy
import operator
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from sigmoidcore._torch.proxy import TensorProxy
from sigmoidcore.conversion.rewritten_forward import RewrittenForward
from sigmoidcore.core import CoreModule

_PLAIN_WORDS = {
    "inputs to control flow": "it branches on a value",
    "Proxy object cannot be iterated": "it iterates over a value",
    "is not installed as a submodule": "it calls a module that is not a submodule, for example from a list",
}
"""What some messages of torch.fx mean for a user."""
_SEVERAL = ("chunk", "split", "tensor_split", "unbind", "hsplit", "vsplit", "dsplit", "meshgrid", "broadcast_tensors")
"""Functions that give several tensors."""


class UntraceableError(ValueError):
    """The forward of a model cannot be turned into a graph; the message says where and why."""


@dataclass(frozen=True)
class Part:
    """A module of the model whose forward could be traced as `module(x)` runs it."""

    name: str  # in the model, "" for the model itself
    graph: fx.Graph  # `node.meta` has `owner`, the module whose forward makes the call, and `call`, its number
    untraced: dict[str, str]  # modules inside that are leaves because they cannot be traced, with the reason


def scratch_copy(module: nn.Module) -> nn.Module:
    """A copy that shares parameters and buffers: what a forward sets while it is traced does not reach the model."""
    shared: dict[int, Any] = {}
    for m in module.modules():
        for value in (*m.parameters(recurse=False), *m.buffers(recurse=False), *vars(m).values()):
            if isinstance(value, Tensor):
                shared[id(value)] = value
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

    def trace_copy(self, module: nn.Module, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Trace a scratch copy; random generators stay as they are."""
        python, state = random.getstate(), torch.get_rng_state()
        try:
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
        """A value of the graph: a tensor, or several."""
        part = node.target is operator.getitem and node.args[0] in self._several and isinstance(node.args[1], slice)
        if part or str(getattr(node.target, "__name__", node.target)) in _SEVERAL:
            self._several.add(node)
            return fx.Proxy(node, self)
        return TensorProxy(node, self)


class PartTracer(Tracer):
    """A tracer that notes which forward makes a call, and goes around what it cannot follow."""

    def __init__(self) -> None:
        super().__init__(with_defaults=True)
        self.untraced: dict[str, str] = {}
        self._calls: Counter[str] = Counter()
        self._owners: list[str] = [""]

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
