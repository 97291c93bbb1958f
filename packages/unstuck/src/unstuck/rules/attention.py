"""Attention that has collapsed: each query sees several keys, and attends to one."""

import inspect
from collections.abc import Callable
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
from unstuck.step.node import reached
from unstuck.wording import listed

ONE_KEY = 0.94
"""Mean over the queries of the sum of the squares of the weights: 1 if all of the attention goes to one key."""
SEES_ONE = 0.75
"""A query of which this sum is above it with equal scores sees one key only."""
MASKED = -5000.0
"""A score below this belongs to a masked key: masks are added to the scores (-1e4 in half precision)."""
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


def attending_to_one(evidence: Evidence) -> list[str]:
    """The layers with an attention of which every head has collapsed."""
    modules = {attention.module for attention in evidence.ask(attentions) or () if attention.share > ONE_KEY}
    known = (x for x in evidence.layers if x.role == "attention" or x.plain_kind == "multiheadattention")
    return [x.name for x in known if x.module in modules and not x.gate]


@dataclass(frozen=True)
class Attention:
    """How much of the attention goes to one key, in the head that spreads it most."""

    module: str  # in which it runs
    share: float  # mean over the queries that see several keys, of the sum of the squares of the weights


@question
def attentions(again: Again) -> tuple[Attention, ...]:
    """The attentions of the step."""
    known = dict[Node, tuple[Tensor, Tensor]]()

    def watched(node: Node) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            result = node.target(*args, **kwargs)
            known[node] = _squares(node, result, args, kwargs)
            return result

        return run

    found, nodes = [], list(filter(_attends, again.step.calls("softmax", calls.ATTENTION, calls.DOT_PRODUCT)))
    again.run(nodes, edits={node: watched(node) for node in nodes})
    for node, (squares, equal) in known.items():
        several = (equal < SEES_ONE).expand(squares.shape)
        heads = (0, *range(2, squares.dim())) if squares.dim() == 3 else tuple(range(squares.dim()))
        means = torch.where(several, squares, 0.0).sum(heads) / several.sum(heads)
        found += [Attention(node.module or "", float(means.min()))] if several.any() else []
    return tuple(found)


def _attends(node: Node) -> bool:
    """Whether a call is an attention, or a softmax that weighs what a product adds up."""
    if node.function != "softmax":
        return True
    readers = reached([node], lambda n: n.users if n is node or n.function in calls.MOVES else ())
    last = len(node.shape) > 1 and calls.softmax_dim(node) == len(node.shape) - 1
    return last and any(n.function in calls.PRODUCTS for n in readers)


def _squares(node: Node, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The sum of the squares of the weights of each query, [samples, heads, queries], and that with equal scores."""
    if node.function == "softmax":
        scores = args[0] if args else kwargs["input"]
        return result.square().sum(-1), 1 / (scores > MASKED).sum(-1).clamp_min(1)
    of = _of_projected if node.function == calls.ATTENTION else _of_dot_product
    return of(1.0, *args, **kwargs), of(0.0, *args, **kwargs)


def _of_projected(factor: float, *args: Any, **kwargs: Any) -> Tensor:
    """The squares for `multi_head_attention_forward`; with a factor of 0 all keys are equal."""
    call = inspect.signature(functional.multi_head_attention_forward).bind(*args, **kwargs).arguments
    call.update(key=factor * call["key"], training=False, need_weights=True, average_attn_weights=False)
    _, weights = functional.multi_head_attention_forward(**call)
    assert weights is not None
    return (weights if weights.dim() == 4 else weights.unsqueeze(0)).square().sum(-1)


def _of_dot_product(factor: float, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The same for `scaled_dot_product_attention`.

    If the values are random signs, the expectation of the square of what it returns is the sum of the squares of its
    weights, which stay in its kernel.
    """
    signs = torch.randn_like(value).sign()
    return functional.scaled_dot_product_attention(query, factor * key, signs, *args, **kwargs).square().mean(-1)
