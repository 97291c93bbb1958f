"""Hidden layers in a row, each a Linear and a centered core, computed as one function of PyTorch's autograd.

With t = tanh(z/2), of which a core's output is the multiple c = scale/2, a layer is

    t_l = tanh(factor_l * (W_l t_{l-1}) + offset_l),
    factor_l = alpha_l c_{l-1} / 2,  offset_l = alpha_l (b_l - mu_l) / 2,

which takes a matrix product and a tanh in place, and keeps t alone for the way back. The numbers are those of the
modules, to rounding; docs/performance.md has what this gives.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sigmoidcore._torch.modules import global_hooks, has_hooks, registered
from unstuck.observation import accumulates

BLOCK = 24 << 20  # most bytes of outputs in one tensor: C's allocator takes larger ones from the system, every time
BATCH = 1 << 20  # bytes of gradients from which those of their weights are computed, as one batched product
FEW_THREADS = 4  # up to so many threads NumPy's tanh, which has one, is faster than PyTorch's
SMALL = 1 << 15  # elements from which on PyTorch shares an elementwise operation among threads
OF_A_LAYER, WORTH_IT = 10_000, 160_000  # price of a module, counted in numbers; how many make one function worth it
_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
_PLAIN = {nn.Parameter, Tensor}
_tanh_backward = torch.ops.aten.tanh_backward


def observed(modules: Sequence[nn.Module]) -> bool:
    """Whether global hooks need these modules to run one by one; those of an `unstuck.observation.Observer` tell."""
    owners: Iterator[Any] = (getattr(hook, "__self__", None) for hook in global_hooks())
    return any(not hasattr(owner, "needs") or owner.needs(modules) for owner in owners)


def parameters_of(linears: Sequence[nn.Module], others: Sequence[nn.Module], x: Tensor) -> list[Any] | None:
    """All weights, then all biases; None if something watches or replaces a module, or x or one of them is special."""
    modules = [*linears, *others]
    if has_hooks(*modules) or any(["forward" in vars(m) for m in modules]) or observed(modules):
        return None
    parameters = [*registered(linears, "weight"), *registered(linears, "bias")]
    plain = {*map(type, (x, *parameters))} <= _PLAIN and {p.layout for p in (x, *parameters)} == {torch.strided}
    return parameters if plain else None


def run_as_one(linears: Sequence[Any], cores: Sequence[Any], x: Tensor) -> Tensor | None:
    """The last core's output of these hidden layers, or None if they have to run one by one, or had better do."""
    width, samples = linears[0].out_features, x.numel() // max(1, linears[0].in_features)
    small = not x.is_cuda and len(cores) * (OF_A_LAYER + samples * width) < WORTH_IT
    parameters = None if small else parameters_of(linears, cores, x)
    if parameters is None:
        return None
    (first, *others), biases = parameters[: len(linears)], parameters[len(linears) :]
    if x.dim() < 2 or x.numel() == 0 or x.dtype not in _DTYPES or (x.dtype, x.device) != (first.dtype, first.device):
        return None
    if first.shape != (width, x.shape[-1]) or any(w.shape != (width, width) for w in others):
        return None
    frozen = torch.is_grad_enabled() and not all(p.requires_grad for p in parameters)
    slopes, shifts = torch.stack(registered(cores, "slope")), torch.stack(registered(cores, "shift"))
    if frozen or slopes.requires_grad or shifts.requires_grad:
        return None
    scales = [core.scale / 2 for core in cores]
    with torch.no_grad():
        half = slopes / 2
        offset = (half * (torch.stack(biases) - shifts)).to(x.dtype)
        factor = _shortened((half * half.new_tensor([1.0, *scales[:-1]]).unsqueeze(1)).to(x.dtype))
    rows = x.flatten(0, -2)
    if torch.is_grad_enabled():
        apply: Any = _Layers.apply
        *_, last = apply(rows, factor, offset, scales, *parameters)
        y: Tensor = last.squeeze(0)
    else:
        pair = [x.new_empty(len(rows), width) for _ in range(2)]
        buffers = (pair[i % 2] for i in range(len(cores)))
        y = _forward(rows, factor, offset, [first, *others], buffers) * scales[-1]
    return y.reshape(*x.shape[:-1], width)


def _shortened(factor: Tensor) -> list[Tensor | float]:
    """The factor of every layer, as a number if all neurons have the same one; on a GPU, asking would take time."""
    if factor.is_cuda:
        return list(factor.unbind())
    alike = (factor == factor[:, :1]).all(1).tolist()
    # Copies: a row would keep those of all layers for the way back.
    each = zip(alike, factor[:, 0].tolist(), factor.unbind(), strict=True)
    return [number if same else row.clone() for same, number, row in each]


def _forward(
    x: Tensor, factor: Sequence[Tensor | float], offset: Tensor, weights: Sequence[Tensor], buffers: Iterator[Tensor]
) -> Tensor:
    """Write the t of every layer into its buffer, and return the last."""
    t = x
    with np.errstate(all="ignore"):
        for weight, a, b, out in zip(weights, factor, offset.unbind(), buffers, strict=True):
            if isinstance(a, Tensor):
                torch.mm(t, weight.t(), out=out)
                torch.addcmul(b, out, a, out=out)
            else:
                torch.addmm(b, t, weight.t(), alpha=a, out=out)
            t = _tanh_(out)
    return t


def _tanh_(t: Tensor) -> Tensor:
    """Tanh in place: on CPUs without Intel's library, NumPy's is five times as fast as PyTorch's, and as exact."""
    if t.is_cuda or t.dtype == torch.bfloat16 or (t.numel() > SMALL and torch.get_num_threads() > FEW_THREADS):
        return t.tanh_()
    values = t.numpy()
    np.tanh(values, out=values)
    return t


class _Layers(torch.autograd.Function):
    """The t of all layers in blocks, as outputs for second derivatives; the last is the output of the last core."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, factor: list[Tensor | float], offset: Tensor, factors: list[float], *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        weights = parameters[: len(parameters) // 2]
        shape = x.shape[0], offset.shape[1]
        size = max(1, BLOCK // (shape[0] * shape[1] * x.element_size()))
        sizes = [min(size, len(weights) - 1 - start) for start in range(0, len(weights) - 1, size)]
        blocks = [x.new_empty(n, *shape) for n in [*sizes, 1]]
        buffers = chain.from_iterable(block.unbind() for block in blocks)
        _forward(x, factor, offset, weights, buffers).mul_(factors[-1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, *blocks, *weights)
        ctx.blocks, ctx.factor, ctx.factors = len(blocks), factor, factors
        return tuple(blocks)

    @staticmethod
    def backward(ctx: Any, *of_blocks: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        blocks, weights = rest[: ctx.blocks], rest[ctx.blocks :]
        added: list[Tensor | None] = []  # the gradient that comes to every layer's t from outside
        for gradient, block in zip(of_blocks, blocks, strict=True):
            added += [None] * len(block) if gradient is None else gradient.unbind()
        *before, last = ctx.factors
        blocks[-1] = blocks[-1] / last
        added[-1] = None if added[-1] is None else added[-1] * last
        way = _differentiable_backward if torch.is_grad_enabled() else _backward
        of_parameters = (node for node, _ in ctx.next_functions[-2 * len(weights) :])
        to_parameters = any(node is not None and accumulates(node, unknown=True) for node in of_parameters)
        saved = x, ctx.factor, [1.0, *before], blocks, weights, ctx.needs_input_grad[0], to_parameters
        of_inputs, rest = way(saved, added)
        nothing: list[None] = [None] * (2 * len(weights))
        return of_inputs, None, None, None, *(rest or nothing)


_Saved = tuple[Tensor, Sequence[Tensor | float], Sequence[float], list[Tensor], list[Tensor], bool, bool]
"""The inputs, factors, c of the layer before (1 for the first), blocks and weights; whether the gradients go to the
inputs, and to the parameters."""
_Gradients = tuple[Tensor | None, list[Tensor]]  # by the inputs; by all weights, then all biases


def _backward(saved: _Saved, added: Sequence[Tensor | None]) -> _Gradients:
    """Some layers at a time: the gradients of their weights are one batched product."""
    x, factor, before, blocks, weights, to_inputs, to_parameters = saved
    outputs = [t for block in blocks for t in block.unbind()]
    size = max(1, min(len(weights), BATCH // (outputs[0].numel() * x.element_size())))
    gradients = outputs[0].new_empty(size, *outputs[0].shape)
    slots = gradients.unbind()
    pair = [torch.empty_like(outputs[0]) for _ in range(2)]
    of_weights: list[Tensor] = []
    of_biases: list[Tensor] = []
    g: Tensor | None = None  # the gradient by the layer's t, times its factor
    end = len(weights)
    for block in reversed(blocks):
        first = end - len(block)
        while end > first:
            start = max(first, end - size)
            for layer in range(end - 1, start - 1, -1):
                g = _with(g, added[layer], factor[layer], outputs[layer])
                at = slots[layer - start]
                _tanh_backward.grad_input(g, outputs[layer], grad_input=at)
                if layer:
                    a = factor[layer - 1]
                    if isinstance(a, Tensor):
                        g = torch.mm(at, weights[layer], out=pair[layer % 2]).mul_(a)
                    else:
                        g = pair[layer % 2].addmm_(at, weights[layer], beta=0, alpha=a)
            here = gradients[: end - start]
            if to_parameters:
                of_biases[:0] = here.sum(1).div_(x.new_tensor(before[start:end]).unsqueeze(1)).unbind()
                if start > first:
                    of_weights[:0] = torch.bmm(here.mT, block[start - first - 1 : end - first - 1]).unbind()
                else:
                    found = [torch.mm(slots[0].t(), outputs[start - 1] if start else x)]
                    if end - start > 1:
                        found += torch.bmm(here[1:].mT, block[: end - first - 1]).unbind()
                    of_weights[:0] = found
            end = start
    return torch.mm(slots[0], weights[0]) if to_inputs else None, of_weights + of_biases


def _with(g: Tensor | None, more: Tensor | None, a: Tensor | float, like: Tensor) -> Tensor:
    """Add a * more to g, in place."""
    if g is None:
        return torch.zeros_like(like) if more is None else more * a
    if more is None:
        return g
    return g.addcmul_(more, a) if isinstance(a, Tensor) else g.add_(more, alpha=a)


def _differentiable_backward(saved: _Saved, added: Sequence[Tensor | None]) -> _Gradients:
    """The same, layer by layer, in operations that can be differentiated."""
    x, factor, before, blocks, weights, to_inputs, to_parameters = saved
    outputs = [t for block in blocks for t in block.unbind()]
    of_weights: list[Tensor] = []
    of_biases: list[Tensor] = []
    g: Tensor | None = None
    for layer in range(len(weights) - 1, -1, -1):
        parts = [part for part in (g, added[layer]) if part is not None]
        arriving = sum(parts[1:], parts[0]) if parts else torch.zeros_like(outputs[layer])
        at, a = _tanh_backward(arriving, outputs[layer]), factor[layer]
        rows = a.unsqueeze(1) if isinstance(a, Tensor) else a
        if to_parameters:
            of_weights.insert(0, at.t() @ (outputs[layer - 1] if layer else x) * rows)
            of_biases.insert(0, at.sum(0) * (a / before[layer]))
        if layer or to_inputs:
            g = at @ (weights[layer] * rows)  # and not at * a: there are more samples than neurons where this is used
    return g if to_inputs else None, of_weights + of_biases
