"""Attention that has collapsed: each query sees several keys, and attends to one."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.again import Again
from unstuck.rules.evidence import Evidence
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule
from unstuck.rules.standstill import falling
from unstuck.step import Node
from unstuck.step.node import numbered, reached
from unstuck.wording import listed

ONE_KEY = 0.93
"""Of `Attention.share`: 1 if all of the attention goes to one key."""
SEES_ONE = 0.75
"""A query whose equal weights have a sum of squares above it sees one key only."""
MASKED = -5000.0
"""A score below this belongs to a masked key: masks are added to the scores (-1e4 in half precision)."""
MOST_WEIGHTS = 2**25
"""Of a call that returns them; of more it is not looked at."""

SOFTEN = "Scale the scores by 1/sqrt(head size), normalise queries and keys, or lower the learning rate."


@rule("US204", "attention collapsed to one key", remedy=SOFTEN, hidden_by=("US302", "US401"), signal=True)
def sharp_attention(evidence: Evidence) -> Found | None:
    """A softmax that selects one key passes no gradient back to queries and keys, or a very steep one."""
    names = attending_to_one(evidence)
    if not names:
        return None
    text = _(
        "All heads of {names} attend to a single key: queries and keys get almost no gradient.", names=listed(names)
    )
    largest = max(attention.share for attention in evidence.ask(attentions) or ())
    learns = Severity.NOTE if falling(evidence) else None
    return Found(tuple(names), largest, ONE_KEY, text, severity=learns)


def attending_to_one(evidence: Evidence, *, newly: bool = False) -> list[str]:
    """The layers with an attention of which every head has collapsed, in the training or also before."""
    found = (a for a in evidence.ask(attentions) or () if a.share > ONE_KEY and not (newly and a.at_first > ONE_KEY))
    return [evidence.layer_of_call(a.module, "weights" if a.weighted else "attention", a.number) for a in found]


@dataclass(frozen=True)
class Attention:
    """How much of the attention goes to one key, in the head that spreads it most."""

    module: str  # in which it runs
    number: int  # of the call among those there
    weighted: bool  # it projects what it reads
    share: float  # mean over the queries that see several keys; 0: as much to each
    at_first: float = 0.0  # the same with the first weights of the training


@question
def attentions(again: Again) -> tuple[Attention, ...]:
    """The attentions of the step."""
    nodes = list(filter(_attends, again.step.calls("softmax", calls.ATTENTION, calls.DOT_PRODUCT)))
    now = _shares(again, nodes)
    first = _shares(again.other(again.step, again.first), nodes) if again.first else {}
    return tuple(
        Attention(n.module or "", number, n.function == calls.ATTENTION, now.get(n, 0.0), first.get(n, 0.0))
        for n, number in numbered(nodes).items()
    )


def _shares(again: Again, nodes: Sequence[Node]) -> dict[Node, float]:
    """How much of each attention goes to one key; those that cannot be measured are left out."""
    shares = dict[Node, float]()

    def watched(node: Node) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            result = node.target(*args, **kwargs)
            with suppress(Exception):  # such as that of nested tensors
                shares[node] = _share(*_squares(node, result, args, kwargs))
            return result

        return run

    again.run(nodes, edits={node: watched(node) for node in nodes})
    return shares


def _attends(node: Node) -> bool:
    """Whether a call is an attention, or a softmax that weighs what a product adds up."""
    readers = reached([node], lambda n: n.users if n is node or n.function in calls.MOVES else ())
    last = len(node.shape) > 1 and calls.softmax_dim(node) == len(node.shape) - 1
    return node.function != "softmax" or (last and any(n.function in calls.PRODUCTS for n in readers))


def _share(squares: Tensor, equal: Tensor) -> float:
    """The smallest share of the heads, from the sums [samples, heads, queries] and those of equal weights."""
    several = (equal < SEES_ONE).expand(squares.shape)
    heads = (0, *range(2, squares.dim())) if squares.dim() == 3 else tuple(range(squares.dim()))
    counts = several.sum(heads)
    means = torch.where(several, (squares - equal) / (1 - equal), 0.0).sum(heads) / counts
    return float(means[counts > 0].min()) if counts.any() else 0.0


def _squares(node: Node, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The sum of the squares of the weights of each query, [samples, heads, queries], and that with equal scores."""
    if node.function == "softmax":
        scores = args[0] if args else kwargs["input"]
        return result.float().square().sum(-1), 1 / (scores > MASKED).sum(-1).clamp_min(1).float()
    of = _of_projected if node.function == calls.ATTENTION else _of_dot_product
    return of(1.0, *args, **kwargs), of(0.0, *args, **kwargs)


def _of_projected(factor: float, *args: Any, **kwargs: Any) -> Tensor:
    """The squares for `multi_head_attention_forward`; with a factor of 0 all keys are equal."""
    call = inspect.signature(functional.multi_head_attention_forward).bind(*args, **kwargs).arguments
    query, key = call["query"], call["key"]
    if query.numel() // query.shape[-1] * len(key) * call["num_heads"] > MOST_WEIGHTS:
        raise ValueError("too many weights")
    call.update(key=factor * key, training=False, need_weights=True, average_attn_weights=False)
    if factor == 0 and call.get("attn_mask") is not None and call["attn_mask"].is_floating_point():
        call["attn_mask"] = call["attn_mask"] < MASKED  # without what else is added to the scores
    _, weights = functional.multi_head_attention_forward(**call)
    assert weights is not None
    return (weights if weights.dim() == 4 else weights.unsqueeze(0)).float().square().sum(-1)


def _of_dot_product(
    factor: float, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, dropout_p: float = 0.0,
    is_causal: bool = False, **kwargs: Any,
) -> Tensor:  # fmt: skip
    """The same for `scaled_dot_product_attention`, without its dropout.

    If the values are random signs, the expectation of the square of what it returns is the sum of the squares of its
    weights, which stay in its kernel.
    """
    if factor == 0 and attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask > MASKED
    signs = torch.randn_like(value).sign()
    found = functional.scaled_dot_product_attention(query, factor * key, signs, attn_mask, 0.0, is_causal, **kwargs)
    return found.float().square().mean(-1)
