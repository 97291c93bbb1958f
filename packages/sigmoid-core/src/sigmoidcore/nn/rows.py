"""Rows of hidden layers, each computed as one function (`nn.fused`), in any nn.Sequential.

A row is nn.Linear and centered SigmoidCore in turns, at least twice, all of one width.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from sigmoidcore._torch.modules import has_hooks, runs_plainly
from sigmoidcore.core import SigmoidCore
from sigmoidcore.nn.fused import observed, run_as_one


def run(layers: Iterable[nn.Module], input: Tensor) -> Tensor:
    """Apply layers one after the other, and each row as one unless something watches its layers."""
    x, modules, done = input, list(layers), 0
    if runs_plainly(x):
        modules = _unpacked(modules)
        for first, last in _rows(modules):
            for layer in modules[done:first]:
                x = layer(x)
            y = run_as_one(modules[first:last:2], modules[first + 1 : last : 2], x) if runs_plainly(x) else None
            x, done = (x, first) if y is None else (y, last)
    for layer in modules[done:]:
        x = layer(x)
    return x


def has_rows(layers: Iterable[nn.Module]) -> bool:
    """Whether there is a row in layers that run one after the other."""
    return any(_rows(_unpacked(list(layers))))


class Chain(nn.Sequential):
    """Layers one after the other, as `nn.Sequential`, which it may replace anywhere: a training step is faster.

    `nn.Linear` and centered `SigmoidCore` in turns, of one width, are computed as one, to rounding, if that takes less
    time (docs/performance.md). All other layers run as they are.

    Args:
        *layers: the layers in order, or one dict of them.

    Example:
        >>> import torch, sigmoidcore
        >>> tanhs = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
        >>> x = torch.randn(5, 4)
        >>> expected = tanhs(x)
        >>> _ = sigmoidcore.convert(tanhs)
        >>> torch.allclose(Chain(*tanhs)(x), expected, atol=1e-6)
        True
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply all layers; the rows are found at each call: layers may change."""
        return run(self, input)

    def __getitem__(self, index: int | slice) -> Any:
        """A layer, or for a slice the part of the network."""
        layers = list(self)
        return Chain(*layers[index]) if isinstance(index, slice) else layers[index]


def fuse_rows(model: nn.Module) -> None:
    """Make a `Chain` of every nn.Sequential of a model that has rows."""
    for module in model.modules():
        if type(module) is nn.Sequential and "forward" not in vars(module) and has_rows(module):
            module.__class__ = Chain


def _unpacked(modules: list[nn.Module]) -> list[nn.Module]:
    """The modules, with its layers in the place of each nn.Sequential that nothing watches."""
    forwards = nn.Sequential.forward, Chain.forward
    inner = {m for m in modules if type(m).forward in forwards and "forward" not in vars(m) and not has_hooks(m)}
    if not inner or observed([*inner]):
        return modules
    return [layer for m in modules for layer in (_unpacked(list(m.children())) if m in inner else [m])]


def _rows(modules: Sequence[nn.Module]) -> Iterator[tuple[int, int]]:
    """The first index of each row, and the one after its last."""
    first = 0
    while first + 4 <= len(modules):
        last, width = first, getattr(modules[first], "out_features", None)
        while last + 2 <= len(modules) and fit(modules[last], modules[last + 1], width):
            last += 2
        if last - first >= 4:
            yield first, last
        first = max(last, first + 1)


def fit(linear: nn.Module, core: nn.Module, width: int | None) -> bool:
    """Whether a Linear and a core can be two layers of a row of this width."""
    if type(linear) is not nn.Linear or type(core) is not SigmoidCore:
        return False
    alike = linear.out_features == core.num_features == width
    return alike and core.centered and not core.trainable and core.dim == -1
