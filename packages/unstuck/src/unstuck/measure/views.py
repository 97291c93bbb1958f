"""Views and reshapes that take dimensions for others, by their shapes."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise, permutations

from torch import Tensor

Shape = tuple[int, ...]
Shapes = tuple[Shape, Shape]
"""Before and after."""


def swapped_shapes(name: str, before: Shape, features: int, after: Shape) -> Shapes | None:
    """The shapes of a view that takes dimensions for others, as `transpose` would, and moves no number.

    It swaps the sizes of dimensions, splits or merges heads past the positions or frames past the channels, makes steps
    of the columns of an image, an image of tokens or patches, or the other way round, tokens of pixels, or rows of
    channels, or its rows begin inside of the rows before.
    Dimension `features` of its argument counts features.
    """
    if name not in ("view", "reshape"):
        return None
    known = [[size for size in shape if size > 1] for shape in (before, after)]
    swaps = len(before) == len(after) and sorted(before) == sorted(after) and known[0] != known[1]
    rows = features == 1 and len(before) > 2 and len(after) == 2 and after[1] == before[1] not in (1, before[-1])
    heads = _heads(before, after) or _heads(after, before)
    places = _tokens(after, before) if features in (-1, 2) else features == 1 and _pixels(before, after)
    crosses = _crosses(before, after) or _columns(before, after)
    others = _frames(before, after) or _frames(after, before) or _pieces(before, after)
    return (before, after) if swaps or rows or heads or places or crosses or others else None


def moved(before: Shape, after: Shape) -> Callable[[Tensor], Tensor] | None:
    """A view as it is meant, if it takes dimensions for others: it moves them, then merges, or splits, then moves."""
    begins = bool(after) and before[0] != after[0] in before[1:]  # as states [layers, samples, features]
    if not (begins or any(swapped_shapes("view", before, features, after) for features in (-1, 1))):
        return None
    orders = sorted(permutations(range(len(before))), key=lambda order: sum(i != k for i, k in enumerate(order)))
    for order in orders[1:]:
        if _merges([before[i] for i in order], after):
            return lambda x: x.permute(order).reshape(after)
    orders = sorted(permutations(range(len(after))), key=lambda order: sum(i != k for i, k in enumerate(order)))
    for order in orders[1:]:
        split = [after[i] for i in order]
        if _merges(split, before):
            back = [order.index(i) for i in range(len(order))]
            return lambda x: x.reshape(split).permute(back)
    return None


def _merges(parts: Sequence[int], whole: Shape) -> bool:
    """Whether neighbouring dimensions of one shape make up those of another one."""
    left = list(parts)
    for size in whole:
        product = 1
        while left and product < size:
            product *= left.pop(0)
        if product != size:
            return False
    return all(size == 1 for size in left)


def _crosses(before: Shape, after: Shape) -> bool:
    """Whether features are neither split nor merged: rows of one size begin inside of rows of the other.

    The lengths of the rows of all dimensions, of both shapes, then do not all divide each other.
    """
    if 0 in before or before[-1:] == after[-1:]:
        return False
    lengths = {math.prod(shape[i:]) for shape in (before, after) for i in range(len(shape))}
    ordered = sorted(lengths)
    return any(long % short for short, long in pairwise(ordered))


def _pixels(image: Shape, tokens: Shape) -> bool:
    """Whether [samples, channels, height, width] became [samples, height * width, channels]."""
    moved = len(image) == 4 and tokens == (image[0], image[2] * image[3], image[1])
    return moved and image[1] not in (1, image[2] * image[3]) and image[2] * image[3] > 1


def _tokens(image: Shape, tokens: Shape) -> bool:
    """Whether [samples, tokens, features] became [samples, channels, height, width], each token a pixel or a patch."""
    if len(image) != 4 or len(tokens) != 3:
        return False
    (_, channels, height, width), (_, count, features) = image, tokens
    side = math.isqrt(features // max(1, channels))
    fits = side > 0 and features == channels * side**2 and height % side == width % side == 0
    grid = fits and (height // side) * (width // side) == count and (side == 1 or height == width)
    return grid and height > side and width > side and channels != count and width != features


def _pieces(image: Shape, patches: Shape) -> bool:
    """Whether [samples, channels, height, width] became [samples, patches, numbers], which are no squares, nor rows."""
    return _tokens(image, patches) and bool(image[2] * image[3] != patches[1] and patches[2] % image[3])


def _frames(video: Shape, frames: Shape) -> bool:
    """Whether [samples, channels, frames, ...] became [samples * frames, channels, ...], or the other way round."""
    if len(video) < 4 or len(frames) < 3:
        return False
    samples, channels, count, *_rest = video
    return frames[:2] == (samples * count, channels) and channels != count and 1 not in (channels, count)


def _columns(image: Shape, steps: Shape) -> bool:
    """Whether [samples, channels, height, width] became [samples, width, channels * height]."""
    if len(image) != 4:
        return False
    samples, channels, height, width = image
    several = width not in (1, channels, channels * height) and channels > 1
    return several and steps == (samples, width, channels * height)


def _heads(whole: Shape, split: Shape) -> bool:
    """Whether [samples, positions, features] became [samples, heads, positions, features], or the other way round.

    The samples and the heads may be one dimension.
    """
    if len(whole) != 3 or len(split) not in (3, 4) or not whole[0]:
        return False
    positions, heads = whole[1], split[1] if len(split) == 4 else split[0] // whole[0]
    sizes = (whole[0], heads) if len(split) == 4 else (whole[0] * heads,)
    moved = split == (*sizes, positions, whole[2] // max(1, heads)) and heads * split[-1] == whole[2]
    return moved and positions > 1 and heads not in (1, positions)
