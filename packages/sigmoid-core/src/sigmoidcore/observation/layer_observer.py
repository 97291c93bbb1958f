"""An observer of layers that reads their inputs and outputs, and may replace both."""

from typing import Any

from torch import nn

from unstuck.observation.observer import Observer


class LayerObserver(Observer):
    """An observer of layers that read one tensor or one sequence: it may replace this and the output.

    A layer that is called by keyword runs a second time, with its arguments by position: PyTorch's global hooks do not
    show keywords before a layer runs.
    """

    def arrives(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Hand the input on to `reads`."""
        return (self.reads(name, layer, args[0]), *args[1:]) if args else None

    def leaves(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Hand the output on to `makes`."""
        if output is None:
            return None
        if not args:
            keyword = next(key for key in ("input", "inputs", "query") if key in kwargs)
            args = (self.reads(name, layer, kwargs[keyword]),)
            kwargs = {key: value for key, value in kwargs.items() if key != keyword}
            output = layer.forward(*args, **kwargs)
        return self.makes(name, layer, args, kwargs, output)

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        """Called with the input of a layer; returns the input to use."""
        return x

    def makes(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Called with the arguments and the output of a layer; returns the output to use."""
        return output
