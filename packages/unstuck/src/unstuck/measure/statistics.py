"""Statistics of one layer's output: sums that can be added over micro-batches and ranks.

They stay on the tensor's device as 0-dim tensors and short vectors until all of them are fetched at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

LARGEST_SUBSET = 2**16
"""Numbers of one layer that are compared across samples, if there are enough samples and positions."""
FEWEST_SAMPLES = 16
SMALL = 2**16
"""Numbers that are few enough to be summed in float32."""
CHUNK = 2**10
"""Of more numbers, so many at a time are summed in float32, and their sums in float64."""
SAFE = 1e-15, 1e15
"""Sizes whose squares float32 holds, with room for those of single numbers."""
HALVES = frozenset({torch.float16, torch.bfloat16})
LARGEST_MASK = 2**22
"""Numbers; more are data, of which two more passes would cost time."""

Number = Tensor | float


@dataclass(slots=True)
class Sums:
    """Statistics of one layer, of one pass; `add` joins several."""

    # of the output
    count: float = 0.0  # numbers
    squares: Number = 0.0
    nonfinite: Number = 0.0
    # of the part of the output that is compared across samples
    deviations: Number = 0.0  # sum of squares of the differences from the mean over the samples, by feature
    several: float = 0.0  # numbers, if there is more than one sample
    # of what a layer reads that reads the model's inputs
    read: float = 0.0  # numbers
    read_squares: Number = 0.0
    # of the gradient
    samples: float = 0.0
    gradient: Number = 0.0  # sum of squares
    nonfinite_gradient: Number = 0.0
    arrivals: float = 0.0  # gradients that came back
    # of an activation
    rows: float = 0.0  # of `slopes`
    slopes: Tensor | None = None  # by neuron, sum over the rows of the relative slope

    def add(self, other: "Sums") -> None:
        """Join another pass of the same layer."""
        for name in SCALARS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        vectors = [v for v in (self.slopes, other.slopes) if v is not None]
        # One may be longer: sequences of another length.
        self.slopes = pad_sequence(vectors).sum(1) if len(vectors) > 1 else next(iter(vectors), None)


SCALARS = tuple(f.name for f in fields(Sums) if f.name != "slopes")
"""Fields of `Sums` with a number that is added."""


def fetch(values: Sequence[Number]) -> list[float]:
    """Numbers of 0-dim tensors and numbers: one transfer for each device and dtype."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for i, value in enumerate(values):
        if isinstance(value, Tensor):
            groups.setdefault((value.device, value.dtype), []).append(i)
    result: list[Any] = list(values)
    for places in groups.values():
        for i, number in zip(places, torch.stack([result[i] for i in places]).tolist(), strict=True):
            result[i] = float(number)
    return result


def squared_size(x: Tensor) -> tuple[Number, Number]:
    """Sum of the squares of a tensor, and how many of its numbers are not finite."""
    row = _row(x)
    squares = _squares(row)
    return squares[0], _nonfinite(row, squares)[0]


def _row(x: Tensor) -> Tensor:
    """A tensor as one row, [1, numbers], in the order of its memory."""
    if not x.is_contiguous():
        x = x.permute(sorted(range(x.dim()), key=x.stride, reverse=True))
    return x.reshape(1, -1)


def _squares(x: Tensor) -> list[Number]:
    """Sums of the squares of rows."""
    norm_of = torch.linalg.vector_norm
    if not x.is_cpu:
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        return list(norm_of(x, dim=1, dtype=wide).square().unbind())
    # On a CPU float32 is four times as fast as float64, and is used as far as it is precise.
    narrow = torch.float32 if x.dtype in HALVES else None
    if x.shape[1] <= SMALL:
        sizes = norm_of(x, dim=1, dtype=narrow).tolist()
    else:
        whole = x.shape[1] - x.shape[1] % CHUNK
        parts = norm_of(x[:, :whole].reshape(len(x), -1, CHUNK), dim=2, dtype=narrow)
        rest = norm_of(x[:, whole:], dim=1, keepdim=True, dtype=narrow)
        sizes = norm_of(torch.cat([parts, rest], 1), dim=1, dtype=torch.float64).tolist()
    if not all(SAFE[0] < size < SAFE[1] for size in sizes):
        sizes = norm_of(x, dim=1, dtype=torch.float64).tolist()
    return [size * size for size in sizes]


def _nonfinite(x: Tensor, squares: list[Number]) -> list[Number]:
    """How many numbers of each row are not finite; on a CPU they are counted only if the sum of squares tells."""
    if not x.is_cpu:
        return list((~torch.isfinite(x)).sum(1).unbind())
    return [0.0 if math.isfinite(s) else float((~torch.isfinite(x[i])).sum()) for i, s in enumerate(squares)]


def unmeasured(tensor: Tensor) -> str | None:
    """The kind of a tensor that has no statistics, because it is not a plain array of numbers; None for others."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return "sparse"
    return "distributed" if hasattr(tensor, "to_local") else None


def samples_first(x: Tensor, samples: int) -> Tensor:
    """A layer's output with its samples in dimension 0; with time first they are in dimension 1."""
    if x.dim() == 0 or (x.dim() == samples == 1):
        return x.reshape(1, -1)
    shape = x.shape
    return x.movedim(1, 0) if shape[0] != samples and len(shape) > 2 and shape[1] == samples else x


def first_rows(x: Tensor, samples: int, most: int | None) -> tuple[int, int]:
    """How many rows of a layer's output belong to its first `most` samples, and how many samples these are.

    There may be several rows a sample. If their number is not a multiple of `samples`, each is a sample.
    """
    length = x.shape[0]
    fits = samples > 0 and length % samples == 0
    count, rows = (samples, length // samples) if fits else (length, 1)
    if most is None or count <= FEWEST_SAMPLES:
        return count * rows, count
    one = max(1, x.numel() // count)
    taken = min(count, max(min(most, FEWEST_SAMPLES), min(most, LARGEST_SUBSET // one)))
    return taken * rows, taken


def thinned(stack: Tensor, dim: int) -> Tensor:
    """Evenly distant positions of tensors with too many numbers, [tensors, samples, ...].

    Positions are in each dimension that counts neither samples nor features; `dim` of a tensor counts features.
    """
    count, features = stack[0].numel(), dim % (stack.dim() - 1) + 1
    places = [i for i in range(2, stack.dim()) if i != features]
    if count <= LARGEST_SUBSET or not places:
        return stack
    step = math.ceil((count / LARGEST_SUBSET) ** (1 / len(places)))
    evenly = slice((step - 1) // 2, None, step)  # begins inside: a first position is at the border of an image
    cut = (evenly if i in places and stack.shape[i] >= step else slice(None) for i in range(stack.dim()))
    return stack[tuple(cut)]


def add_sizes(stack: Tensor, owners: list[Sums]) -> None:
    """Add the sizes of whole outputs, [layers, ...], to the sums of each layer."""
    rows = _row(stack[0]) if len(stack) == 1 else stack.flatten(1)
    squares = _squares(rows)
    for sums, square, nonfinite in zip(owners, squares, _nonfinite(rows, squares), strict=True):
        sums.count, sums.squares, sums.nonfinite = float(rows.shape[1]), square, nonfinite


def add_sample(stack: Tensor, owners: list[Sums]) -> None:
    """Add the statistics across samples of a part of the outputs, [layers, samples, numbers]."""
    stack = stack.float() if stack.dtype in HALVES else stack
    samples = stack.shape[1]
    if samples > 1:
        # Less the first sample, which every number of a collapsed batch is near to: the variance keeps its digits.
        apart = stack - stack[:, :1]
        both = zip(owners, _squares(apart.flatten(1)), _squares(apart.mean(1)), strict=True)
        for sums, squares, of_mean in both:
            sums.several, sums.deviations = float(stack[0].numel()), squares - of_mean * samples


def add_slopes(slopes: Tensor, owners: list[Sums], dim: int) -> None:
    """Add relative slopes, [layers, rows, ...]; `dim` is the dimension of one layer's output that counts neurons."""
    if slopes.dim() == 2:
        slopes = slopes.unsqueeze(-1)
    neurons = dim % (slopes.dim() - 1) + 1
    totals = slopes.sum([i for i in range(1, slopes.dim()) if i != neurons])
    rows = float(slopes[0].numel() // max(1, slopes.shape[neurons]))
    for sums, total in zip(owners, totals.unbind(), strict=True):
        sums.rows, sums.slopes = rows, total


def seen_no_data(mean: Tensor, var: Tensor) -> bool:
    """Whether the running statistics of a batch normalisation are as they were initialised."""
    return not bool(mean.any()) and bool((var == 1).all())


def without_hidden(x: Tensor) -> Tensor:
    """An additive attention mask, of 0 and -inf, with 0 for -inf; other tensors unchanged. Does not synchronise."""
    if x.numel() > LARGEST_MASK:
        return x
    hidden = x == -torch.inf
    return torch.where(((x == 0) | hidden).all() & hidden, 0.0, x)
