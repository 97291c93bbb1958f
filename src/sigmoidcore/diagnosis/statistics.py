"""What the probe computes of one layer's output: sums that can be added up over micro-batches and ranks.

Everything stays on the tensor's device as 0-dim tensors and short vectors, until all of it is fetched at once.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from sigmoidcore.gain import norm

LARGEST_SUBSET = 2**20
"""Numbers of one layer that statistics across samples are taken from, if there are enough samples."""
FEWEST_SAMPLES = 16
SMALL = 2**16
"""Numbers that are few enough to be summed in float32."""
KEPT = 200
"""Numbers of one layer that are kept for its histogram."""
QUERIES = 2**20
"""Attention weights that are computed anew at most, where PyTorch's kernel does not show them."""
_HALF = (torch.float16, torch.bfloat16)

Number = Tensor | float


@dataclass(slots=True)
class Sums:
    """Statistics of one layer, of one pass; `add` joins several.

    Attributes:
        count: numbers of the output.
        squares: sum of their squares.
        nonfinite: those that are not finite.
        seen: numbers that the following are taken from.
        total: sum of these.
        seen_squares: sum of their squares.
        deviations: sum of squares of what differs from the mean over the samples, feature by feature.
        several: `seen`, where there was more than one sample.
        samples: samples whose gradients are in the next ones.
        gradient: sum of the squares of the gradient.
        nonfinite_gradient: its numbers that are not finite.
        rows: rows that the neurons' sums are taken over.
        entropy: sum over `queries` of the entropy over its largest.
        queries: number of queries of all heads.
        looks: times that attention weights were seen.
        arrivals: gradients that have come back.
        slopes: by neuron, sum over the rows of the relative slope.
        heads: by head, sum over the looks of the mean entropy over its largest.
        steps: by time step, sum of the squares of the derivative by what is read.
        step_samples: by time step, samples.
        open: by neuron, largest relative slope.
        largest: largest absolute value, in half precision.
        kept: some of the numbers.
    """

    count: float = 0.0
    squares: Number = 0.0
    nonfinite: Number = 0.0
    seen: float = 0.0
    total: Number = 0.0
    seen_squares: Number = 0.0
    deviations: Number = 0.0
    several: float = 0.0
    samples: float = 0.0
    gradient: Number = 0.0
    nonfinite_gradient: Number = 0.0
    rows: float = 0.0
    entropy: Number = 0.0
    queries: float = 0.0
    looks: float = 0.0
    arrivals: float = 0.0
    slopes: Tensor | None = None
    heads: Tensor | None = None
    steps: Tensor | None = None
    step_samples: Tensor | None = None
    open: Tensor | None = None
    largest: Number = 0.0
    kept: list[Tensor] = field(default_factory=list)

    def add(self, other: "Sums") -> None:
        """Take another pass of the same layer in."""
        for name in SCALARS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in VECTORS:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, theirs if mine is None else mine if theirs is None else _joined(mine, theirs))
        if self.open is None or other.open is None:
            self.open = other.open if self.open is None else self.open
        elif self.open.shape == other.open.shape:
            self.open = torch.maximum(self.open, other.open)
        self.largest = largest_of(self.largest, other.largest)
        self.kept = self.kept + other.kept


SCALARS = (
    *("count", "squares", "nonfinite", "seen", "total", "seen_squares", "deviations", "several", "samples"),
    *("gradient", "nonfinite_gradient", "rows", "entropy", "queries", "looks", "arrivals"),
)
"""Fields of `Sums` that are added."""
VECTORS = ("slopes", "heads", "steps", "step_samples")
"""Likewise."""


def _joined(one: Tensor, other: Tensor) -> Tensor:
    """Sum of two vectors, of which one may be longer: sequences of another length."""
    if len(one) < len(other):
        one, other = other, one
    return one + functional.pad(other, (0, len(one) - len(other)))


def largest_of(one: Number, other: Number) -> Number:
    """The larger of two numbers that are not negative."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.maximum(one, other)
    if isinstance(one, Tensor):
        return one.clamp(min=float(other))
    return other.clamp(min=one) if isinstance(other, Tensor) else max(one, other)


def squared_size(x: Tensor) -> tuple[Number, Number]:
    """Sum of the squares, and how many numbers are not finite.

    On a CPU both are numbers at once, and what is not finite is counted only if there is any; elsewhere both stay on
    the device, so that nothing has to wait for the answer.
    """
    if not x.is_cpu:
        return norm(x).square(), (~torch.isfinite(x)).sum()
    size = size_on_cpu(x)
    return size * size, 0.0 if math.isfinite(size) else float((~torch.isfinite(x)).sum())


def size_on_cpu(x: Tensor) -> float:
    """L2 norm of a tensor on the CPU; in the dtype of `x` where that is precise, which is faster than in float64."""
    if x.numel() <= SMALL and x.dtype not in _HALF:
        size: float = torch.linalg.vector_norm(x).item()
        if 1e-15 < size < 1e15:
            return size
    return float(norm(x))


def _square(x: Tensor) -> Number:
    if x.is_cpu:
        size = size_on_cpu(x)
        return size * size
    return norm(x).square()


def by_sample(x: Tensor, samples: int, most: int | None) -> Tensor:
    """The first samples of a layer's output, sample by sample: [some samples, ...].

    Args:
        x: samples first, or second where time is first, or several rows for every sample.
        samples: how many there are; where no dimension fits, rows are taken for samples.
        most: at most so many; None: all.
    """
    if x.dim() == 0:
        return x.reshape(1, 1)
    if len(x) != samples and x.dim() > 1 and x.shape[1] == samples:
        x = x.movedim(1, 0)
    if most is None:
        return x
    one = max(1, x[:1].numel())
    rows = len(x) // samples if samples and len(x) % samples == 0 else 1
    return x[: rows * max(min(most, FEWEST_SAMPLES), min(most, LARGEST_SUBSET // (one * rows)))]


def see_output(sums: Sums, output: Tensor, samples: int, most: int | None) -> None:
    """Take the statistics of a layer's output.

    Args:
        sums: of the layer.
        output: detached; any shape, floating.
        samples: of this pass.
        most: samples that are looked at for what is said across samples; None: all.
    """
    count = output.numel()
    if not count:
        return
    squares, sums.nonfinite = squared_size(output)
    sums.count, sums.squares = float(count), squares
    some = by_sample(output, samples, most)
    if some.dtype in _HALF:
        sums.largest = some.abs().amax()
    seen = some.numel()
    rows = len(some)
    if rows != samples and samples and rows % samples == 0:
        rows = samples
    flat = some.reshape(rows, -1)
    if flat.dtype in _HALF:
        flat = flat.float()
    sums.kept.append(flat.reshape(-1)[:: max(1, -(-seen // KEPT))].clone())
    sums.seen = float(seen)
    mean = flat.mean()
    sums.total = (mean.item() if mean.is_cpu else _wide(mean)) * seen
    sums.seen_squares = squares if seen == count else _square(flat)
    if rows > 1:
        # Less the first sample, which every number of a collapsed batch is near to: the variance keeps its digits.
        apart = flat - flat[:1]
        sums.several = float(seen)
        sums.deviations = _square(apart) - _square(apart.mean(0)) * rows


def _wide(x: Tensor) -> Tensor:
    """In float64, where there is one."""
    return x if x.device.type == "mps" else x.double()


def see_slopes(sums: Sums, slopes: Tensor, dim: int, flat: bool) -> None:
    """Take the relative slopes of an activation's neurons.

    Args:
        sums: of the layer.
        slopes: [samples, ...].
        dim: the dimension that counts neurons.
        flat: whether neurons that are never open are to be counted.
    """
    slopes = slopes.movedim(dim, -1).flatten(0, -2) if slopes.dim() > 1 else slopes.reshape(-1, 1)
    sums.rows, sums.slopes = float(len(slopes)), slopes.sum(0)
    if flat:
        sums.open = slopes.amax(0)


def see_attention(sums: Sums, weights: Tensor, allowed: Tensor | None = None) -> None:
    """Take attention weights.

    Args:
        sums: of the layer.
        weights: [..., queries, keys]; with four dimensions the second counts heads.
        allowed: keys that a query may see, by number, [..., queries, 1]; None: those with a weight that is not 0,
            all of them if that is one.
    """
    weights = weights.float()
    if allowed is None:
        allowed = torch.full_like(weights[..., :1], weights.shape[-1])
    entropy = -(weights * weights.clamp_min(1e-38).log()).sum(-1, keepdim=True)
    relative = torch.where(allowed > 1, entropy / allowed.clamp_min(2).log(), torch.nan).squeeze(-1)
    known = torch.isfinite(relative)
    relative = relative.nan_to_num(0.0)
    sums.queries, sums.entropy = float(known.sum()), _wide(relative.sum())
    heads = (0, *range(2, relative.dim())) if weights.dim() == 4 else tuple(range(relative.dim()))
    means = relative.sum(heads) / known.sum(heads).clamp_min(1)
    sums.heads, sums.looks = means.reshape(-1), 1.0


def keys_allowed(scores: Tensor) -> Tensor:
    """How many keys each query may see, [..., queries, 1]: masks are large negative scores."""
    count = (scores > -9999).sum(-1, keepdim=True)
    return torch.where(count > 0, count, scores.shape[-1])


def dot_product_weights(
    query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float | None, samples: int
) -> tuple[Tensor, Tensor]:
    """Attention weights of some queries of the first samples, as `scaled_dot_product_attention` has them inside.

    Args:
        query: [batch, ..., queries, features].
        key: [batch, ..., keys, features]; fewer heads than queries have are repeated.
        mask: boolean (True may be seen) or added to the scores; broadcasts.
        causal: query i sees keys 0 to i.
        scale: of the scores; None: 1 / sqrt(features).
        samples: at most so many.

    Returns:
        The weights, and the number of keys that each query may see.
    """
    query, key = query[:samples].float(), key[:samples].float()
    if query.dim() > 2 and query.shape[-3] != key.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    keys, queries = key.shape[-2], query.shape[-2]
    stride = max(1, -(-(query.shape[:-1].numel() * keys) // QUERIES))
    at = torch.arange(0, queries, stride, device=query.device)
    scores = query[..., at, :] @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        later = torch.arange(keys, device=query.device) > at[:, None]
        scores = scores.masked_fill(later, -math.inf)
    if mask is not None:
        mask = mask[:samples] if mask.dim() == query.dim() and len(mask) > 1 else mask
        mask = mask[..., at, :] if mask.shape[-2] == queries else mask
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1), keys_allowed(scores)


def step_squares(gradient: Tensor, batch_sizes: Tensor | None, time_dim: int) -> tuple[Tensor, Tensor]:
    """By time step, sum of the squares of a gradient and the number of samples.

    Args:
        gradient: [steps, samples, features], [samples, steps, features], [steps, features], or packed [rows, features].
        batch_sizes: samples of each step, on the CPU, if it is packed.
        time_dim: the dimension that counts steps.
    """
    squares = _wide(gradient).square()
    if batch_sizes is None:
        moved = squares.movedim(time_dim, 0).flatten(1)
        samples = gradient.shape[1 - time_dim] if gradient.dim() == 3 else 1
        return moved.sum(1), torch.full_like(moved[:, 0], float(samples))
    step = torch.repeat_interleave(torch.arange(len(batch_sizes)), batch_sizes).to(gradient.device)
    rows = squares.sum(1)
    return rows.new_zeros(len(batch_sizes)).index_add_(0, step, rows), batch_sizes.to(rows)
