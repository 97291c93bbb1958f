"""What edits put in the place of a recorded call: functions of its node and its arguments."""

from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unstuck.measure import calls
from unstuck.measure.statistics import HALVES
from unstuck.rules.samples import sums_to_1
from unstuck.step import Node
from unstuck.step.node import mapped, tensors_in

QUOTIENTS = frozenset({"div", "truediv", "divide", "true_divide"})
LEAST = 1e-6
"""Smallest argument of a logarithm, a root or a quotient in a trial."""


def left_out(node: Node, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What the call reads."""
    return x


def with_gradients(node: Node, *args: Any, **kwargs: Any) -> Any:
    """The call, in a graph."""
    with torch.enable_grad():
        return node.target(*args, **kwargs)


def away_from_0(node: Node, *args: Any, **kwargs: Any) -> Any:
    """The call with an argument, or a denominator, of at least `LEAST`."""
    at = int(node.function in QUOTIENTS)
    if len(args) > at and isinstance(args[at], Tensor):
        args = (*args[:at], args[at].clamp_min(LEAST), *args[at + 1 :])
    return node.target(*args, **kwargs)


def with_logits(node: Node, x: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A binary cross-entropy of logits."""
    options = {name: kwargs[name] for name in ("weight", "reduction") if name in kwargs}
    options = options if node.function in calls.BINARY_LOSSES else {"reduction": kwargs.get("reduction", "mean")}
    return functional.binary_cross_entropy_with_logits(x, y.to(x.dtype), **options)


def with_logarithms(dim: int, node: Node, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The loss of the logarithms of what it reads, if these are probabilities, or else of their softmax."""
    odds = bool((x >= 0).all()) and sums_to_1(x, min(dim, x.dim() - 1))
    return node.target(x.clamp_min(LEAST).log() if odds else x.log_softmax(min(dim, x.dim() - 1)), *args, **kwargs)


def standardised(x: Tensor) -> Tensor:
    """Numbers with mean 0 and standard deviation 1: of each column, of each channel, or of all together."""
    if x.dim() == 0 or x.numel() < 2:
        return x
    dims = (0,) if x.dim() == 2 else (0, *range(2, x.dim())) if x.dim() > 3 else tuple(range(x.dim()))
    deviation, mean = torch.std_mean(x.detach(), dims, correction=0, keepdim=True)
    return ((x - mean) / torch.where(deviation > 0, deviation, 1)).detach()


def between_0_and_1(x: Tensor) -> Tensor:
    """Numbers from 0 to 1."""
    low, high = x.aminmax()
    return (x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)


def leaves_nothing(node: Node) -> bool:
    """Whether a normalisation sees one or two values at a time: their signs are left, or nothing."""
    of = calls.given(node, "input", "of").get("of")  # the dimensions, or the number of groups
    if isinstance(of, tuple | list):
        return prod(of) <= 2
    return prod(node.shape[1:]) // of <= 2 if isinstance(of, int) else prod(node.shape[2:]) <= 2


def is_half(node: Node) -> bool:
    """Whether a call, or what comes from outside, is in half precision."""
    return node.autocast is not None or (node.dtype in HALVES and node.op not in ("parameter", "buffer"))


def single(x: Tensor) -> Tensor:
    """Numbers in float32, if they were in half precision; what trains is a leaf."""
    return x.detach().float().requires_grad_(x.requires_grad) if x.dtype in HALVES else x


def in_single(node: Node, *args: Any, **kwargs: Any) -> Any:
    """The call, where nothing becomes half precision."""
    if node.function in ("half", "bfloat16"):
        return args[0].float()
    args, kwargs = (mapped(x, torch.dtype, lambda d: torch.float32 if d in HALVES else d) for x in (args, kwargs))
    with torch.autocast("cpu" if node.autocast is None else node.autocast[0], enabled=False):
        return node.target(*args, **kwargs)


def with_samples_first(node: Node, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A recurrent layer, or an attention, whose samples are in the first dimension."""
    if node.function == calls.ATTENTION:
        query, key, value = (tensor.transpose(0, 1) for tensor in (x, *args[:2]))
        result, *weights = node.target(query, key, value, *args[2:], **kwargs)
        return result.transpose(0, 1), *weights
    state, *rest = args
    begin = [tensor.new_zeros(tensor.shape[0], len(x), tensor.shape[2]) for tensor in tensors_in((state,))]
    result, *last = node.target(
        x.transpose(0, 1).contiguous(), tuple(begin) if node.function == "lstm" else begin[0], *rest, **kwargs
    )
    return result.transpose(0, 1), *last


def with_positions(node: Node, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
    """An attention whose queries and keys know their positions: by sines."""

    def added(x: Tensor, dim: int) -> Tensor:
        at, number = torch.arange(x.shape[dim]), torch.arange(x.shape[-1])
        angles = at[:, None] / 10000 ** (number // 2 * 2 / x.shape[-1]) + number % 2 * torch.pi / 2
        return x + angles.sin().to(x).reshape([n if i in (dim, x.dim() - 1) else 1 for i, n in enumerate(x.shape)])

    places = 0 if node.function == calls.ATTENTION else query.dim() - 2
    return node.target(added(query, places), added(key, places), *args, **kwargs)


def halves(rows: Tensor) -> Tensor:
    """The other view of each row, if views are in two halves."""
    return (rows + len(rows) // 2) % len(rows)


def neighbours(rows: Tensor) -> Tensor:
    """The other view of each row, if views are side by side."""
    return rows ^ 1


def one_later(shape: tuple[int, int], node: Node, x: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A cross-entropy with the label of the next token."""
    outputs, labels = by_token(x, y).reshape(*shape, -1)[:, :-1], y.reshape(shape)[:, 1:]
    return node.target(outputs.flatten(0, 1), labels.flatten(), *args, **kwargs)


def without_padding(shape: tuple[int, int], node: Node, x: Tensor, y: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A cross-entropy without the label that most rows end with, where they end with it."""
    labels = y.reshape(shape)
    ends = (labels == labels[:, -1].mode().values).flip(1).long().cumprod(1).flip(1).bool()
    kept = ~ends.flatten()
    return node.target(by_token(x, y)[kept], y.flatten()[kept], *args, **kwargs)


def by_token(x: Tensor, y: Tensor) -> Tensor:
    """What a cross-entropy reads as [tokens, classes]."""
    return x.movedim(1, -1).flatten(0, -2) if x.dim() > y.dim() > 1 else x


def scores(node: Node) -> tuple[int, ...] | None:
    """The shape [..., queries, keys] of the scores of an attention of tokens to each other; None of another call."""
    if node.function == calls.DOT_PRODUCT:
        shape: tuple[int, ...] = (node.reads[0].shape[-2], node.reads[1].shape[-2])
    elif node.function == calls.ATTENTION:
        shape = (node.reads[0].shape[0], node.reads[1].shape[0])
    else:
        shape = node.shape[-2:]
    return shape if len(shape) == 2 and shape[0] == shape[1] > 1 else None


def causal(node: Node, *args: Any, **kwargs: Any) -> Any:
    """An attention whose queries see no later keys."""
    length = (scores(node) or (0,))[-1]
    later = torch.ones(length, length, dtype=torch.bool, device=args[0].device).triu(1)
    if node.function == "softmax":
        return node.target(args[0].masked_fill(later, -torch.inf), *args[1:], **kwargs)
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = kwargs if node.function == calls.ATTENTION else dict(zip(names, args, strict=False)) | kwargs
    mask = given.get("attn_mask")
    bias = torch.zeros(length, length, device=later.device).masked_fill(later, -torch.inf)
    if mask is not None:
        hidden = mask if node.function == calls.ATTENTION else ~mask if mask.dtype == torch.bool else mask
        bias = bias + (torch.zeros(mask.shape).masked_fill(hidden, -torch.inf) if mask.dtype == torch.bool else mask)
    given = {**given, "attn_mask": bias, "is_causal": False}
    return node.target(*(args if node.function == calls.ATTENTION else ()), **given)
