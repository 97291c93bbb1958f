"""Every way in which a forward may run, as graphs: a constant may go where all of them allow it."""

import inspect
import itertools
from typing import Any

from torch import Tensor, fx, nn

from sigmoidcore._torch.proxy import TensorProxy
from sigmoidcore.conversion.tracing import Tracer, UntraceableError, is_leaf, scratch_copy
from sigmoidcore.core import SigmoidCore
from sigmoidcore.nn.stepwise import Stepwise

MOST_VARIANTS = 64


def variants(model: nn.Module) -> list[fx.Graph]:
    """The graphs of a model's forward in training and evaluation, with optional arguments given and not.

    `torch.fx` follows one way through a forward. A flag is traced as true and as false, an argument with default None
    as None and as a value. A module without cores whose forward cannot be followed is a node of the graph.

    Args:
        model: any module; it is not changed and does not run.

    Raises:
        UntraceableError: in one of the ways, `torch.fx` cannot follow the forward of the model or of a module with
            cores, for example because it branches on values; or there are more than 64 ways.

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
    return [_trace(model, training, way) for training, way in itertools.product((True, False), ways)]


def has_cores(module: nn.Module) -> bool:
    """Whether a module is a core or contains one."""
    return any(isinstance(m, SigmoidCore | Stepwise) for m in module.modules())


class _Tracer(Tracer):
    """PyTorch's own layers and cores are nodes; with `around`, so are modules without cores."""

    def __init__(self, around: bool) -> None:
        super().__init__()
        self.around = around

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m) or (self.around and not has_cores(m))

    def create_arg(self, a: Any) -> Any:
        """A tensor that was computed from a parameter would be taken for a constant."""
        if type(a) is not TensorProxy and isinstance(a, Tensor) and a.grad_fn is not None:
            raise UntraceableError("it computes with a parameter that it does not read as an attribute of a module")
        return super().create_arg(a)


_GIVEN = object()


def _choices(model: nn.Module) -> dict[str, list[Any]]:
    """The values of each optional argument that may decide which way a forward goes."""
    parameters = inspect.signature(type(model).forward).parameters.values()
    return {
        p.name: [True, False] if isinstance(p.default, bool) else [_GIVEN, None]
        for p in parameters
        if p.default is None or isinstance(p.default, bool)
    }


def _trace(model: nn.Module, training: bool, way: dict[str, Any]) -> fx.Graph:
    fixed = {name: value for name, value in way.items() if value is not _GIVEN}
    try:
        return _Tracer(around=False).trace_copy(scratch_copy(model).train(training), fixed)
    except UntraceableError:
        try:
            return _Tracer(around=True).trace_copy(scratch_copy(model).train(training), fixed)
        except UntraceableError as error:
            mode = "training" if training else "evaluation"
            given = "".join(f", {name}={value}" for name, value in fixed.items())
            raise UntraceableError(
                f"the forward of {type(model).__name__} cannot be traced (in {mode}{given}): {error}"
            ) from error
