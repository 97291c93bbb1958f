"""Every way in which a forward may run, as graphs: a constant may go where all of them allow it."""

import inspect
from typing import Any

from torch import Tensor, fx, nn

from sigmoidcore._torch.proxy import TensorProxy
from sigmoidcore.conversion.eligibility import is_core
from sigmoidcore.conversion.tracing import Tracer, UntraceableError, is_leaf, scratch_copy


def variants(model: nn.Module) -> list[fx.Graph]:
    """The graphs of a model's forward in training and evaluation, with optional arguments at their defaults and not.

    Each flag is turned over, and each argument with default None is given a value, one at a time and all together.
    """
    arguments = inspect.signature(type(model).forward).parameters.values()
    defaults = {p.name: p.default for p in arguments if p.default is None or isinstance(p.default, bool)}

    def others(*names: str) -> dict[str, Any]:
        """The values with these turned over; an argument without a value here is given."""
        return {n: (not v if n in names else v) for n, v in defaults.items() if not (v is None and n in names)}

    ways = [others(), *map(others, defaults), *([others(*defaults)] if len(defaults) > 1 else [])]
    return [_trace(model, training, way) for training in (True, False) for way in ways]


def has_cores(module: nn.Module) -> bool:
    """Whether a module is a core or contains one."""
    return any(map(is_core, module.modules()))


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


def _trace(model: nn.Module, training: bool, fixed: dict[str, Any]) -> fx.Graph:
    """One way; a module without cores whose forward cannot be followed is a node of the graph."""
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
