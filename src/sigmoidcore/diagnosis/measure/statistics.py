"""What the probe computes of one layer's output: sums that can be added up over micro-batches and ranks.

Everything stays on the tensor's device as 0-dim tensors and short vectors, until all of it is fetched at once.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from sigmoidcore.gain import norm

LARGEST_SUBSET = 2**16
"""Numbers of one layer that statistics across samples are taken from, if there are enough samples and positions."""
FEWEST_SAMPLES = 16
SMALL = 2**16
"""Numbers that are few enough to be summed in float32."""
CHUNK = 2**10
"""Of more numbers, so many at a time are summed in float32, and their sums in float64."""
SAFE = 1e-15, 1e15
"""Sizes whose squares float32 holds, with room for those of single numbers."""
KEPT = 200
"""Numbers of one layer that are kept for its histogram."""
_HALF = (torch.float16, torch.bfloat16)

Number = Tensor | float


@dataclass(slots=True)
class Sums:
    """Statistics of one layer, of one pass; `add` joins several.

    Attributes:
        count: numbers of the output.
        squares: sum of their squares.
        nonfinite: those that are not finite.
        sampled: numbers of the part that the following are taken from.
        total: sum of these.
        deviations: sum of squares of what differs from the mean over the samples, feature by feature.
        several: `sampled`, where there was more than one sample.
        samples: samples whose gradients are in the next ones.
        gradient: sum of the squares of the gradient.
        nonfinite_gradient: its numbers that are not finite.
        rows: rows that the neurons' sums are taken over.
        entropy: sum over `queries` of the entropy over its largest.
        queries: number of queries of all heads.
        calls: calls with attention weights.
        arrivals: gradients that have come back.
        slopes: by neuron, sum over the rows of the relative slope.
        heads: by head, sum over the calls of the mean entropy over its largest.
        steps: by time step, sum of the squares of the derivative by what is read.
        step_samples: by time step, samples.
        largest: largest absolute value, in half precision.
        sample: some of the numbers, for the histogram.
    """

    count: float = 0.0
    squares: Number = 0.0
    nonfinite: Number = 0.0
    sampled: float = 0.0
    total: Number = 0.0
    deviations: Number = 0.0
    several: float = 0.0
    samples: float = 0.0
    gradient: Number = 0.0
    nonfinite_gradient: Number = 0.0
    rows: float = 0.0
    entropy: Number = 0.0
    queries: float = 0.0
    calls: float = 0.0
    arrivals: float = 0.0
    slopes: Tensor | None = None
    heads: Tensor | None = None
    steps: Tensor | None = None
    step_samples: Tensor | None = None
    largest: Number = 0.0
    sample: list[Tensor] = field(default_factory=list)

    def add(self, other: "Sums") -> None:
        """Take another pass of the same layer in."""
        for name in SCALARS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in VECTORS:
            mine, theirs = getattr(self, name), getattr(other, name)
            setattr(self, name, theirs if mine is None else mine if theirs is None else _joined(mine, theirs))
        self.largest = largest_of(self.largest, other.largest)
        self.sample = self.sample + other.sample


SCALARS = (
    *("count", "squares", "nonfinite", "sampled", "total", "deviations", "several", "samples"),
    *("gradient", "nonfinite_gradient", "rows", "entropy", "queries", "calls", "arrivals"),
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
    """Sum of the squares of a tensor, and how many of its numbers are not finite.

    On a CPU both are numbers at once, and what is not finite is counted only if there is any; elsewhere both stay on
    the device, so that nothing has to wait for the answer.
    """
    if not x.is_cpu:
        return norm(x).square(), (~torch.isfinite(x)).sum()
    size = size_on_cpu(x)
    return size * size, 0.0 if math.isfinite(size) else float((~torch.isfinite(x)).sum())


def size_on_cpu(x: Tensor) -> float:
    """L2 norm; float32 is four times as fast as float64, and used as far as it is precise.

    Example:
        >>> f"{size_on_cpu(torch.full((1000, 1000), 1e30)):.6g}"
        '1e+33'
    """
    if not x.is_contiguous():
        x = x.permute(sorted(range(x.dim()), key=x.stride, reverse=True))  # in the order in which they lie
    return _sizes_on_cpu(x.reshape(1, -1))[0]


def _sizes_on_cpu(x: Tensor) -> list[float]:
    """L2 norms of many, [tensors, numbers]."""
    norm_of, narrow = torch.linalg.vector_norm, torch.float32 if x.dtype in _HALF else None
    if x.shape[1] <= SMALL:
        sizes = norm_of(x, dim=1, dtype=narrow).tolist()
    else:
        whole = x.shape[1] - x.shape[1] % CHUNK
        parts = norm_of(x[:, :whole].reshape(len(x), -1, CHUNK), dim=2, dtype=narrow)
        rest = norm_of(x[:, whole:], dim=1, keepdim=True, dtype=narrow)
        sizes = norm_of(torch.cat([parts, rest], 1), dim=1, dtype=torch.float64).tolist()
    if not all(SAFE[0] < size < SAFE[1] for size in sizes):
        sizes = norm_of(x, dim=1, dtype=torch.float64).tolist()
    return sizes  # type: ignore[no-any-return]


def _squared_sizes(x: Tensor) -> list[Number]:
    """Sums of the squares of many, [tensors, numbers]."""
    if x.is_cpu:
        return [size * size for size in _sizes_on_cpu(x)]
    wide = None if x.device.type == "mps" else torch.float64
    return list(torch.linalg.vector_norm(x, dim=1, dtype=wide).square().unbind())


def _numbers(x: Tensor) -> list[Number]:
    return x.tolist() if x.is_cpu else list(x.unbind())


def unmeasured(tensor: Tensor) -> str | None:
    """What kind of tensor it is, if no statistics are taken of it: its numbers have no places, or are elsewhere."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return "sparse"
    return "distributed" if hasattr(tensor, "to_local") else None


def samples_first(x: Tensor, samples: int) -> Tensor:
    """A layer's output with its samples in dimension 0, if they are in dimension 1: where time is first.

    Args:
        x: any shape; of two dimensions, the second counts features.
        samples: how many there are.
    """
    if x.dim() == 0:
        return x.reshape(1, 1)
    shape = x.shape
    return x.movedim(1, 0) if shape[0] != samples and len(shape) > 2 and shape[1] == samples else x


def first_rows(x: Tensor, samples: int, most: int | None) -> tuple[int, int]:
    """How many rows of a layer's output belong to its first samples, and how many samples these are.

    Args:
        x: samples first, perhaps several rows for each.
        samples: how many there are; where the rows do not fit, they are taken for samples.
        most: at most so many; None: all.
    """
    length = x.shape[0]
    fits = samples > 0 and length % samples == 0
    count, rows = (samples, length // samples) if fits else (length, 1)
    if most is None or count <= FEWEST_SAMPLES:
        return count * rows, count
    one = max(1, x.numel() // count)
    taken = min(count, max(min(most, FEWEST_SAMPLES), min(most, LARGEST_SUBSET // one)))
    return taken * rows, taken


def thinned(x: Tensor, dim: int) -> Tensor:
    """Positions that are evenly distant, if there are more numbers than are to be looked at.

    Args:
        x: [samples, ...], with positions in each dimension that counts neither samples nor features.
        dim: that counts features.
    """
    places = [i for i in range(1, x.dim()) if i != dim % x.dim()]
    if x.numel() <= LARGEST_SUBSET or not places:
        return x
    step = math.ceil((x.numel() / LARGEST_SUBSET) ** (1 / len(places)))
    evenly = slice((step - 1) // 2, None, step)  # from within the first step: else borders would be seen too often
    return x[tuple(evenly if i in places and x.shape[i] >= step else slice(None) for i in range(x.dim()))]


def add_sizes(stack: Tensor, owners: list[Sums]) -> None:
    """Take the sizes of layers' whole outputs.

    Args:
        stack: [layers, numbers], floating.
        owners: of each layer, where they go.
    """
    count = float(stack.shape[1])
    for sums, squares in zip(owners, _squared_sizes(stack), strict=True):
        sums.count, sums.squares = count, squares
    if not stack.is_cpu:
        for sums, odd in zip(owners, (~torch.isfinite(stack)).sum(1).unbind(), strict=True):
            sums.nonfinite = odd
    for i, sums in enumerate(owners):
        if isinstance(sums.squares, float) and not math.isfinite(sums.squares):
            sums.nonfinite = float((~torch.isfinite(stack[i])).sum())


def add_sample(stack: Tensor, owners: list[Sums]) -> None:
    """Take what is said across samples from some of them.

    Args:
        stack: [layers, samples, numbers], floating.
        owners: of each layer, where it goes.
    """
    if stack.dtype in _HALF:
        for sums, largest in zip(owners, stack.abs().flatten(1).amax(1).unbind(), strict=True):
            sums.largest = largest
        stack = stack.float()
    samples = stack.shape[1]
    flat = stack.flatten(1)
    seen = flat.shape[1]
    kept = flat[:, :: max(1, -(-seen // KEPT))].clone().unbind()
    for sums, mean, some in zip(owners, _numbers(flat.mean(1)), kept, strict=True):
        sums.sampled, sums.total = float(seen), mean * seen
        sums.sample.append(some)
    if samples > 1:
        # Less the first sample, which every number of a collapsed batch is near to: the variance keeps its digits.
        apart = stack - stack[:, :1]
        whole, common = _squared_sizes(apart.flatten(1)), _squared_sizes(apart.mean(1))
        for sums, squares, of_mean in zip(owners, whole, common, strict=True):
            sums.several, sums.deviations = float(seen), squares - of_mean * samples


def add_slopes(slopes: Tensor, owners: list[Sums], dim: int) -> None:
    """Take the relative slopes of activations.

    Args:
        slopes: [layers, rows, ...].
        owners: of each layer, where they go.
        dim: the dimension of one layer's output that counts neurons.
    """
    if slopes.dim() == 2:
        slopes = slopes.unsqueeze(-1)
    neurons = dim % (slopes.dim() - 1) + 1
    totals = slopes.sum([i for i in range(1, slopes.dim()) if i != neurons])
    rows = float(slopes[0].numel() // max(1, slopes.shape[neurons]))
    for sums, total in zip(owners, totals.unbind(), strict=True):
        sums.rows, sums.slopes = rows, total


def step_squares(gradient: Tensor, batch_sizes: Tensor | None, time_dim: int) -> tuple[Tensor, Tensor]:
    """By time step, sum of the squares of a gradient and the number of samples.

    Args:
        gradient: [steps, samples, features], [samples, steps, features], [steps, features], or packed [rows, features].
        batch_sizes: samples of each step, on the CPU, if it is packed.
        time_dim: the dimension that counts steps.
    """
    wide = torch.float32 if gradient.device.type == "mps" else torch.float64
    squares = gradient.to(wide).square()
    if batch_sizes is None:
        moved = squares.movedim(time_dim, 0).flatten(1)
        samples = gradient.shape[1 - time_dim] if gradient.dim() == 3 else 1
        return moved.sum(1), torch.full_like(moved[:, 0], float(samples))
    step = torch.repeat_interleave(torch.arange(len(batch_sizes)), batch_sizes).to(gradient.device)
    rows = squares.sum(1)
    return rows.new_zeros(len(batch_sizes)).index_add_(0, step, rows), batch_sizes.to(rows)
