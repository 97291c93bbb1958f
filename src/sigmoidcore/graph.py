"""The data flow of a model as a graph, for the verbs that must know what reads what (`convert`, `fold`)."""

from torch import fx, nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.networks import RNN


class UntraceableError(ValueError):
    """The forward of a model cannot be turned into a graph; the message says where and why."""


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, SigmoidCore | RNN) or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.Graph:
    """The graph of a model's forward: PyTorch's own layers, cores and functional calls are its nodes.

    Args:
        model: any module; it is not changed and does not run.

    Raises:
        UntraceableError: its forward branches on values, or does something else that `torch.fx` cannot follow.

    Source:
        Reed, DeVito, He, Ussery, Ansel (2022), torch.fx, arXiv 2112.08429.
    """
    try:
        return _Tracer().trace(model)
    except Exception as error:  # a forward may raise anything when it is given a proxy
        raise UntraceableError(f"the forward of {type(model).__name__} cannot be traced: {error}") from error
