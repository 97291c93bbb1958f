"""A torch.fx proxy that a forward takes for a tensor."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, update_wrapper
from typing import Any

import torch
from torch import fx


class TensorProxy(fx.Proxy):
    """A value that a traced forward takes for a tensor: without it, `isinstance` would lead into another branch."""

    _is_param = False  # nn.Parameter and nn.Buffer ask for these where a value is set as an attribute
    _is_buffer = False

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The class that `isinstance` is told."""
        return torch.Tensor


_NUMBER_FIRST = (
    *("pow", "float_power", "where", "remainder", "xlogy"),
    *(f"bitwise_{name}" for name in ("and", "or", "xor", "left_shift", "right_shift")),
)
"""Functions that also take a number as their first argument."""


@contextmanager
def number_first_functions_traced() -> Iterator[None]:
    """Trace these functions before PyTorch takes a proxy for a tensor: it would read memory that is not there."""
    with ExitStack() as stack:
        for name in _NUMBER_FIRST:
            function = getattr(torch, name)
            stack.callback(setattr, torch, name, function)
            setattr(torch, name, update_wrapper(partial(_call, function), function))  # PyTorch asks for its name
        yield


def _call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    proxy = next((a for a in (*args, *kwargs.values()) if type(a) is TensorProxy), None)
    if proxy is None:
        return function(*args, **kwargs)
    return proxy.tracer.create_proxy("call_function", function, args, kwargs)
