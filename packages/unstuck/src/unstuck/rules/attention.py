"""Attention that has collapsed: each query sees several keys, and attends to one."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.again import EQUAL, Again, differ
from unstuck.rules.evidence import Evidence
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule
from unstuck.rules.standstill import NEAR_CHANCE, chance, falling, untaught
from unstuck.step import Node
from unstuck.step.node import numbered, reached
from unstuck.wording import listed

ONE_KEY = 0.96
"""Of `Attention.share`: 1 if all of the attention goes to one key."""
MASKED = -5000.0
"""A score below this belongs to a masked key: masks are added to the scores (-1e4 in half precision)."""

SOFTEN = (
    "Scale the scores by 1/sqrt(head size), start with smaller weights, normalise queries and keys, or lower the "
    "learning rate."
)


@rule("US204", "attention collapsed to one key", remedy=SOFTEN, hidden_by=("US302", "US401"), signal=True)
def sharp_attention(evidence: Evidence) -> Found | None:
    """A softmax that selects one key passes no gradient back to queries and keys, or a very steep one."""
    names = attending_to_one(evidence)
    if not names:
        return None
    text = _(
        "The attention of {names} goes to a single key: queries and keys get almost no gradient.", names=listed(names)
    )
    known = evidence.ask(attentions) or ()
    trained = len(evidence.measurements) > 1 and all(a.at_first <= ONE_KEY for a in known)
    learns = falling(evidence, NEAR_CHANCE * chance(evidence))  # from far above chance to there is no learning
    learns = learns or (trained and not untaught(evidence, steps=1))  # what it has learned may be one key
    largest = max(attention.share for attention in known)
    return Found(tuple(names), largest, ONE_KEY, text, severity=Severity.NOTE if learns else None)


def attending_to_one(evidence: Evidence, *, newly: bool = False) -> list[str]:
    """The layers with an attention that has collapsed, in the training or also before."""
    found = (a for a in evidence.ask(attentions) or () if a.share > ONE_KEY and not (newly and a.at_first > ONE_KEY))
    return [evidence.layer_of_call(a.module, "weights" if a.weighted else "attention", a.number) for a in found]


@dataclass(frozen=True)
class Attention:
    """How much of the attention goes to one key: such attention returns the same if its scores are doubled."""

    module: str  # in which it runs
    number: int  # of the call among those there
    weighted: bool  # it projects what it reads
    share: float  # 1 less what doubled scores change, over what equal scores do; 0: about as much to each key
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
            with suppress(Exception):  # such as that of nested tensors
                equal, own, sharper = (_with_scores(node, factor, again.devices, args, kwargs) for factor in (0, 1, 2))
                if differ(own, equal, EQUAL):  # else each query sees one key, or all values are the same
                    shares[node] = 1 - float((sharper - own).abs().sum() / (equal - own).abs().sum())
            return node.target(*args, **kwargs)

        return run

    again.run(nodes, edits={node: watched(node) for node in nodes})
    return shares


def _attends(node: Node) -> bool:
    """Whether a call is an attention, or a softmax that weighs what a product adds up."""
    readers = reached([node], lambda n: n.users if n is node or n.function in calls.MOVES else ())
    last = len(node.shape) > 1 and calls.softmax_dim(node) == len(node.shape) - 1
    return node.function != "softmax" or (last and any(n.function in calls.PRODUCTS for n in readers))


def _with_scores(node: Node, factor: float, devices: list[int], args: Any, kwargs: Any) -> Tensor:
    """What an attention returns with its scores times a factor; masked ones stay."""
    place, name = (0, "input") if node.function == "softmax" else (1, "key")
    x = args[place] if len(args) > place else kwargs[name]
    x = torch.where(x > MASKED, factor * x, x) if node.function == "softmax" else factor * x
    if len(args) > place:
        args = *args[:place], x, *args[place + 1 :]
    else:
        kwargs = {**kwargs, name: x}
    with torch.random.fork_rng(devices=devices):  # the same dropout for all
        result = node.target(*args, **kwargs)
    return torch.as_tensor(result[0] if isinstance(result, tuple) else result).float()
