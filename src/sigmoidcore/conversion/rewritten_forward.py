"""A forward that torch.fx generated, in place of that of a module's class."""

import inspect
from collections.abc import Mapping
from types import CodeType
from typing import Any

import torch
from torch import fx, nn


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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the forward of the class would, with cores at their places."""
        self.check()
        return type(self.generated[self.module.training]).forward(self.module, *args, **kwargs)

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
