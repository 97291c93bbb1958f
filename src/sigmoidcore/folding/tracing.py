"""Every way in which a forward may run, as graphs: what holds in all of them holds for the model."""

import inspect
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx, nn

from sigmoidcore.conversion.tracing import UntraceableError, with_its_own_forward
from sigmoidcore.core import SigmoidCore
from sigmoidcore.nn.stepwise import Stepwise

MOST_VARIANTS = 64


def variants(model: nn.Module) -> list[fx.Graph]:
    """The graphs of a model's forward in training and evaluation, with optional arguments given and not.

    `torch.fx` follows one way through a forward. A verb that changes weights must know all of them: a flag is traced
    as true and as false, an argument with default None as None and as a value. A module without cores whose forward
    cannot be followed is a node of the graph, of which nothing is known.

    Args:
        model: any module; it is not changed and does not run.

    Raises:
        UntraceableError: in one of the ways, the forward of the model or of a module with cores branches on values or
            does something else that `torch.fx` cannot follow; or there are more than 64 ways.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), SigmoidCore(2))
        >>> [len(graph.nodes) for graph in variants(model)]
        [4, 4]

    Source:
        Reed, DeVito, He, Ussery, Ansel (2022), torch.fx, arXiv 2112.08429.
    """
    choices = _choices(model)
    ways = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    if 2 * len(ways) > MOST_VARIANTS:
        raise UntraceableError(
            f"the forward of {type(model).__name__} has {len(choices)} optional arguments, which make {2 * len(ways)} "
            f"ways to run it, more than {MOST_VARIANTS}"
        )
    graphs = []
    for training, way in itertools.product((True, False), ways):
        fixed = {name: value for name, value in way.items() if value is not _GIVEN}
        with _mode(model, training):
            graphs.append(_trace(model, fixed, training))
    return graphs


def has_cores(module: nn.Module) -> bool:
    """Whether there is a core in a module, or it is one."""
    return any(isinstance(m, SigmoidCore | Stepwise) for m in module.modules())


class _Tracer(fx.Tracer):
    """PyTorch's own layers and cores are nodes; if `around`, so are modules without cores."""

    proxy_buffer_attributes = True

    def __init__(self, around: bool) -> None:
        super().__init__()
        self.around = around

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of the forward that the module really has, if `convert` has written it anew."""
        with with_its_own_forward(root):
            return super().trace(root, concrete_args)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, SigmoidCore | Stepwise) or super().is_leaf_module(m, module_qualified_name):
            return True
        return self.around and not has_cores(m)

    def create_arg(self, a: Any) -> Any:
        """A tensor that was computed from a parameter would be taken for a constant."""
        if isinstance(a, Tensor) and a.grad_fn is not None:
            raise UntraceableError("it computes with a parameter that it does not read as an attribute of a module")
        return super().create_arg(a)


_GIVEN = object()


def _choices(model: nn.Module) -> dict[str, list[Any]]:
    """The values that decide which way a forward goes, for each optional argument."""
    parameters = inspect.signature(type(model).forward).parameters.values()
    return {
        p.name: [True, False] if isinstance(p.default, bool) else [_GIVEN, None]
        for p in parameters
        if p.default is None or isinstance(p.default, bool)
    }


def _trace(model: nn.Module, fixed: dict[str, Any], training: bool) -> fx.Graph:
    try:
        return _Tracer(around=False).trace(model, fixed)
    except Exception:  # a forward may raise anything when it is given a proxy
        try:
            return _Tracer(around=True).trace(model, fixed)
        except Exception as error:
            mode = "training" if training else "evaluation"
            given = "".join(f", {name}={value}" for name, value in fixed.items())
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise UntraceableError(
                f"the forward of {type(model).__name__} cannot be traced (in {mode}{given}): {reason}"
            ) from error


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode, with the modes as they were afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = training
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
