"""The entropy of attention weights, which are computed again because PyTorch's kernels do not return them."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unstuck._torch.autograd import bare
from unstuck.measure.calls import ATTENTION, DOT_PRODUCT
from unstuck.measure.statistics import Sums

SAMPLES = 4
"""Samples whose attention weights are measured."""
MASKED = -5000.0
"""A score below this belongs to a masked key: masks are added to the scores (-1e4 in half precision)."""
QUERIES = 2**20
"""Attention weights that are computed again at most."""
FUNCTIONS = frozenset({"softmax", ATTENTION, DOT_PRODUCT})


def add_attention(sums: Sums, function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
    """Add the entropy of the attention weights of a call of one of `FUNCTIONS`.

    A softmax over another dimension than the last has none.
    """
    if function == "softmax":
        scores = args[0] if args else kwargs["input"]
        dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
        if scores.shape != output.shape or dim is None or scores.dim() < 2 or dim % scores.dim() != scores.dim() - 1:
            return
        weights, visible = output[:SAMPLES], bare(scores)[:SAMPLES] > MASKED
    else:
        weights, visible = (_multi_head_weights if function == ATTENTION else _dot_product_weights)(args, kwargs)
    _add_entropy(sums, weights.float(), visible)


def _add_entropy(sums: Sums, weights: Tensor, visible: Tensor) -> None:
    """Add attention weights [..., queries, keys] (of four dimensions the second counts heads) to the sums.

    The entropy is relative to its largest, the logarithm of the number of visible keys; all if a mask hides every one.
    """
    count = visible.sum(-1, keepdim=True)
    count = torch.where(count > 0, count, visible.shape[-1])
    tiny = torch.finfo(torch.float32).tiny  # anything smaller may be flushed to 0
    entropy = -(weights * weights.clamp_min(tiny).log()).sum(-1, keepdim=True)
    relative = torch.where(count > 1, entropy / count.clamp_min(2).log(), torch.nan).squeeze(-1)
    known = torch.isfinite(relative)
    relative = relative.nan_to_num(0.0)
    sums.queries, sums.entropy = float(known.sum()), relative.sum()
    heads = (0, *range(2, relative.dim())) if weights.dim() == 4 else tuple(range(relative.dim()))
    means = relative.sum(heads) / known.sum(heads).clamp_min(1)
    sums.heads, sums.calls = means.reshape(-1), 1.0


def _multi_head_weights(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Attention weights of `multi_head_attention_forward`, [samples, heads, queries, keys], and the visible keys."""
    call = inspect.signature(functional.multi_head_attention_forward).bind(*args, **kwargs).arguments
    if call["query"].dim() == 3:
        for name in ("query", "key", "value"):
            call[name] = call[name][:, :SAMPLES]
        if call.get("key_padding_mask") is not None:
            call["key_padding_mask"] = call["key_padding_mask"][:SAMPLES]
        mask = call.get("attn_mask")
        if mask is not None and mask.dim() == 3:
            call["attn_mask"] = mask[: SAMPLES * call["num_heads"]]
    call.update(training=False, need_weights=True, average_attn_weights=False)
    _, found = functional.multi_head_attention_forward(**call)
    assert found is not None
    weights = found if found.dim() == 4 else found.unsqueeze(0)
    visible = torch.ones_like(weights, dtype=torch.bool)
    mask, padding = call.get("attn_mask"), call.get("key_padding_mask")
    if mask is not None:
        heads = () if mask.dim() == 2 else weights.shape[1:2]
        visible[..., : mask.shape[-1]] &= _unmasked(mask).reshape(-1, *heads, *mask.shape[-2:])
    if padding is not None:
        visible[..., : padding.shape[-1]] &= _unmasked(padding).reshape(-1, 1, 1, padding.shape[-1])
    return weights, visible


def _unmasked(mask: Tensor) -> Tensor:
    """A mask of `multi_head_attention_forward`: True, or a large negative number, hides a key."""
    return ~mask if mask.dtype == torch.bool else mask > MASKED


def _dot_product(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> None:  # fmt: skip
    """The arguments of `scaled_dot_product_attention`, which is built in and has no signature."""


def _dot_product_weights(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Attention weights of some queries of the first samples, and the visible keys."""
    call = inspect.signature(_dot_product).bind(*args, **kwargs).arguments
    query, key = bare(call["query"])[:SAMPLES].float(), bare(call["key"])[:SAMPLES].float()
    mask, scale = call.get("attn_mask"), call.get("scale")
    if query.dim() > 2 and query.shape[-3] != key.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    keys, queries = key.shape[-2], query.shape[-2]
    stride = max(1, -(-(query.shape[:-1].numel() * keys) // QUERIES))
    at = torch.arange(0, queries, stride, device=query.device)
    scores = query[..., at, :] @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if call.get("is_causal"):
        later = torch.arange(keys, device=query.device) > at[:, None]
        scores = scores.masked_fill(later, -math.inf)
    if mask is not None:
        mask = mask[:SAMPLES] if mask.dim() == query.dim() and len(mask) > 1 else mask
        mask = mask[..., at, :] if mask.shape[-2] == queries else mask
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1), scores > MASKED
