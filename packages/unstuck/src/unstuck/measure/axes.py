"""Axes and places: over which dimension probabilities are normalised, and whether positions reach the attention."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from unstuck.measure import calls
from unstuck.measure.again import EQUAL, Again, differ
from unstuck.step import Node
from unstuck.step.node import reached

CLASSES = {"ctc_loss": -1, "nll_loss": 1, "kl_div": -1}
"""Losses of logarithms of probabilities, with the dimension of the classes."""
SUMS = 1e-2
DROWNED = 100.0
"""How much larger than an embedding of places the rest may be."""
POSITIONS = ("pos", "rot", "freq", "place")
"""Parts of the names of what knows positions."""
MASKS = frozenset({"add", "radd", "masked_fill", "where", "float"})


def of_axes(again: Again) -> dict[str, Any]:
    """Softmaxes over wrong dimensions, texts that have no path, and positions that are lost."""
    found: dict[str, Any] = {"wrong_axis": next(_wrong_axes(again), None)}
    several = sum(n.function in calls.LOSSES for n in again.step.needed()) > 1
    for call in (n for n in again.step.calls("kl_div") if several and n in set(again.step.needed())):
        arguments = calls.given(call, "input", "target", "size_average", "reduce", "reduction")
        if arguments.get("reduction", "mean") == "mean" and call.reads[0].shape[-1:] > (1,):
            found["divided"] = call.reads[0].shape[-1]
    for call in again.step.calls("ctc_loss"):
        found |= _of_texts(again, call)
    found |= {"own_input": _own_input(again), "drowned": _drowned(again)}
    return found | {"lost_places": _lost_places(again)}


def _numbers(again: Again) -> list[Node]:
    """The model's inputs that have one number for each sample, such as a time."""
    floating = (n for n in _inputs(again) if n.dtype is not None and n.dtype.is_floating_point)
    return [n for n in floating if math.prod(n.shape[1:]) == 1]


def _inputs(again: Again) -> list[Node]:
    """What the model reads for each sample."""
    return [n for n in again.given if n.value is not None and any(user.module is not None for user in n.users)]


def _own_input(again: Again) -> bool:
    """Whether a denoiser, which reads a time for each sample, is asked for the very numbers that it reads."""
    if not any(n.value is not None and len(set(n.value.flatten().tolist())) > 2 for n in _numbers(again)):
        return False
    needed, inputs = set(again.step.needed()), [n for n in _inputs(again) if n not in _numbers(again)]
    regressions = (n for n in again.step.calls(*calls.REGRESSION_LOSSES) if n in needed)
    compared = [node.through(calls.KEEP_PLACES).value for call in regressions for node in call.reads[:2]]
    pairs = ((one, x.value) for one in compared for x in inputs)
    return any(one is not None and other is not None and torch.equal(one, other) for one, other in pairs)


def _drowned(again: Again) -> float | None:
    """How many times as large what is added to an embedding of places is, if that is far larger."""
    for node in (n for n in again.step.calls("add", "radd") if n.module is not None and len(n.reads) == 2):
        places = [n for n in node.reads if n.op == "parameter" and len(n.shape) > 1]
        if len(places) == 1:
            sizes = [float(x.float().square().mean().sqrt()) for x in again.run(list(node.reads))]
            sizes = sizes if node.reads[1] is places[0] else sizes[::-1]
            if sizes[0] > DROWNED * sizes[1] > 0:
                return sizes[0] / sizes[1]
    return None


def _of_texts(again: Again, call: Node) -> dict[str, Any]:
    """The shares of texts that contain the blank, and that are longer than their recordings."""
    arguments = calls.given(call, "input", "targets", "input_lengths", "target_lengths", "blank")
    values = [arguments[name] for name in ("targets", "input_lengths", "target_lengths")]
    known = iter(again.run([value for value in values if isinstance(value, Node)]))
    texts, frames, letters = (next(known) if isinstance(x, Node) else torch.as_tensor(x) for x in values)
    ends = letters.cumsum(0)[:-1]
    own = texts.tensor_split(ends) if texts.dim() == 1 else [x[:n] for x, n in zip(texts, letters, strict=True)]
    blank = [bool((text == arguments.get("blank", 0)).any()) for text in own]
    return {"blanks": sum(blank) / len(own), "too_long": float((frames < letters).float().mean())}


def _wrong_axes(again: Again) -> Iterator[str]:
    """Calls that read probabilities which are normalised over another dimension than the one that they count on."""
    needed = set(again.step.needed())
    for call in (n for n in again.step.calls(*CLASSES) if n in needed and n.reads and len(n.reads[0].shape) > 1):
        (logarithms,) = again.run([call.reads[0]])
        if not _sums_to_1(logarithms.exp(), CLASSES[call.function]) and any(
            _sums_to_1(logarithms.exp(), dim) for dim in range(logarithms.dim())
        ):
            yield call.function
    for call in filter(_is_product, again.step.needed()):
        softmax = call.reads[0].through(calls.KEEP_PLACES)
        if softmax.function == "softmax" and calls.softmax_dim(softmax) != len(softmax.shape) - 1:
            yield call.function


def _is_product(node: Node) -> bool:
    """Whether a call multiplies a matrix of each sample by another one."""
    return node.function in ("matmul", "bmm") and len(node.reads) == 2 and len(node.shape) > 2


def _sums_to_1(x: Tensor, dim: int) -> bool:
    """Whether probabilities sum to 1 over a dimension of several."""
    return x.shape[dim] > 1 and bool(((x.float().sum(dim) - 1).abs() < SUMS).all())


def _lost_places(again: Again) -> str | None:
    """What knows positions, of which queries and keys of the first attention know nothing; None if there is no such.

    If two tokens change their places, so do their queries and keys, and nothing else is different.
    """
    pair = next(_queries_and_keys(again), None)
    if pair is None or not again.trained:  # embeddings of places may start at 0
        return None
    nodes = [node for node, _dim in pair]
    needed = again.step.needed(nodes)
    known = next(filter(None, map(_positions, needed)), None)
    count = pair[1][0].shape[pair[1][1]]
    first = next((n for n in needed if _count(n) in (count, count - 1)), None)
    if known is None or first is None or set(again.given).isdisjoint(again.step.needed([first])):
        return None
    before, after = again.run(nodes), again.run(nodes, {first: lambda x: _swapped(x, *_places(first), 0)})
    swapped = (
        all(
            not differ(_swapped(x, dim, 1, at), y, EQUAL) and differ(x, y, EQUAL)
            for x, y, (_node, dim) in zip(before, after, pair, strict=True)
        )
        for at in {0, count - (_count(first) or 0)}
    )
    return known if any(swapped) else None


def _queries_and_keys(again: Again) -> Iterator[list[tuple[Node, int]]]:
    """Queries and keys of each attention, with the dimension of the places."""
    for node in again.step.needed():
        if node.function == calls.ATTENTION:
            yield [(node.reads[0], 0), (node.reads[1], 0)]
        elif node.function == calls.DOT_PRODUCT:
            yield [(node.reads[0], -2), (node.reads[1], -2)]
        elif _is_product(node) and any(user.function in calls.SOFTMAXES for user in _scaled(node)):
            yield [(node.reads[0], -2), (node.reads[1], -1)]


def _scaled(node: Node) -> Iterator[Node]:
    """What reads scores, also after they were scaled and masked."""
    return reached([node], lambda n: n.users if n is node or n.function in {*calls.SCALINGS, *MASKS} else ())


def _positions(node: Node) -> str | None:
    """What knows positions: a table by its name, angles, or an embedding of numbers that are no tokens."""
    if node.op in ("parameter", "buffer") and any(word in node.target for word in POSITIONS):
        return str(node.target) if len(node.shape) > 1 else None
    return node.function if node.function in ("sin", "cos") else None


def _places(node: Node) -> tuple[int, int]:
    """The dimensions that count places in the result of a call, from the first to so many."""
    return (2, len(node.shape) - 2) if node.function in calls.CONVOLUTIONS else (1, 1)


def _count(node: Node) -> int | None:
    """How many tokens or patches an embedding, a linear layer or a convolution of images returns."""
    if node.function in calls.CONVOLUTIONS:
        return math.prod(node.shape[2:])
    return node.shape[1] if node.function in ("embedding", "linear") and len(node.shape) == 3 else None


def _swapped(x: Tensor, dim: int, dims: int, at: int) -> Tensor:
    """With two neighbouring places in each other's place."""
    dim %= x.dim()
    flat = x.flatten(dim, dim + dims - 1)
    order = list(range(flat.shape[dim]))
    order[at : at + 2] = order[at : at + 2][::-1]
    return flat.index_select(dim, torch.tensor(order, device=x.device)).reshape(x.shape)
