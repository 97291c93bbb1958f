"""Losses of all pairs of samples: what is compared with what, and how much a similarity counts."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from unstuck.measure import calls
from unstuck.measure.again import FEWEST, Again, kinds
from unstuck.measure.measurement import Pairing
from unstuck.step import Node
from unstuck.step.node import reached

TURNED = frozenset({"T", "mT", "t", "transpose", "permute", "contiguous", "detach", "float", "clone"})
READERS = ("cross_entropy", "log_softmax", "logsumexp")
ALIGNED, UNIT, MASKED = 0.999, 1e-3, -1e4
NEAREST = 0.1
"""Another view of a sample is among this share of all rows that resemble it most."""


def of_pairs(again: Again) -> dict[str, Any]:
    """What a loss of all pairs compares."""
    return {"pairing": next((found for call in again.step.calls(*READERS) for found in _pairing(again, call)), None)}


def _pairing(again: Again, call: Node) -> Iterator[Pairing]:
    """What a softmax over similarities compares; nothing if it reads something else."""
    logits = call.reads[0]
    pairs = product(logits)
    if pairs is None or call not in set(again.step.needed()):
        return
    one, other = map(calls.unscaled, pairs.reads[:2])
    wanted = calls.given(call, "input", "target").get("target") if call.function == "cross_entropy" else None
    read = set(again.step.needed([logits]))
    values = [n.value for n in again.given if n in read and n.value is not None]
    given = [x for x in values if x.is_floating_point() and x.dim() > 1]
    found = again.run([logits, pairs, *pairs.reads[:2], *([wanted] if isinstance(wanted, Node) else [])])
    scores, products, left, right, *targets = found
    rows, columns = scores.shape
    positives = targets[0] if targets and targets[0].shape == (rows,) else None
    scale, same = _scale(scores, products, left, right), one is other and rows == columns
    if positives is None or positives.is_floating_point() or len(kinds(positives)) < rows / 2:
        yield Pairing(rows, columns, scale)
        return
    repeated = max((_repeated(x, rows) for x in given), default=0.0)
    itself, order = same and _is_itself(scores, positives), _order(given, positives) if same else ""
    yield Pairing(rows, columns, scale, itself, repeated, order)


def product(logits: Node) -> Node | None:
    """The product of all pairs of features that logits of the same shape come from."""
    if len(logits.shape) != 2 or min(logits.shape) < FEWEST:
        return None

    def before(node: Node) -> list[Node]:
        product = node.function in calls.PRODUCTS
        return [n for n in node.reads if not product and n.shape in (logits.shape, logits.shape[::-1])]

    for node in reached([logits], before):
        moving = [n.requires_grad and n.through(TURNED).op != "parameter" for n in node.reads[:2]]
        if node.function in calls.PRODUCTS and len(node.reads) == 2 and all(moving):
            return node
    return None


def _scale(scores: Tensor, products: Tensor, left: Tensor, right: Tensor) -> float | None:
    """What the cosines of two features are multiplied by; None if logits are something else."""
    norms = [_norm(x) for x in (left, right.mT if left.shape[-1] == right.shape[-2] else right)]
    products = products if products.shape == scores.shape else products.mT
    kept = (scores > MASKED) & ~torch.eye(*scores.shape, dtype=torch.bool, device=scores.device)
    x, y = products[kept].double(), scores[kept].double()
    if norms[0] is None or norms[1] is None or len(x) < FEWEST or not y.isfinite().all():
        return None
    x, y = x - x.mean(), y - y.mean()
    slope = float((x * y).sum() / x.square().sum().clamp_min(torch.finfo(x.dtype).tiny))
    fits = float((x * y).sum()) >= ALIGNED * float(x.norm() * y.norm())
    return slope * norms[0] * norms[1] if fits and slope > 0 else None


def _norm(features: Tensor) -> float | None:
    """The norm of all rows; None if they differ."""
    norms = features.float().norm(dim=-1)
    mean = float(norms.mean())
    return mean if mean > 0 and float((norms - mean).abs().max()) < UNIT * mean else None


def _is_itself(scores: Tensor, positives: Tensor) -> bool:
    """Whether each sample resembles itself most, and is to be found another one."""
    own = torch.arange(len(scores), device=scores.device)
    return bool((scores.argmax(1) == own).float().mean() > 1 - NEAREST and (positives != own).float().mean() > 0.5)


def _repeated(x: Tensor, rows: int) -> float:
    """The share of the samples of which there is another copy."""
    if len(x) != rows or x[0].numel() < FEWEST:
        return 0.0
    counts = Counter(map(tuple, x.flatten(1).tolist()))
    return sum(count for count in counts.values() if count > 1) / rows


def _order(values: list[Tensor], positives: Tensor) -> str:
    """Where the other view of a sample is, if it is not where it is looked for: in the other half, or next to it."""
    rows = len(positives)
    whole = next((x for x in values if len(x) == rows), None)
    if whole is None and len(values) == 2 and values[0].shape == values[1].shape and 2 * len(values[0]) == rows:
        whole = torch.cat(values)
    if whole is None or rows % 2 or rows < 4 * FEWEST:
        return ""
    x = whole.flatten(1).float()
    x = (x - x.mean(0)) / x.std(0).clamp_min(torch.finfo(x.dtype).tiny)
    x = torch.nn.functional.normalize(x, dim=1)
    alike = (x @ x.T).fill_diagonal_(-2.0)
    places = alike.argsort(1, descending=True).argsort(1)
    own = torch.arange(rows, device=x.device)

    def found(where: Tensor) -> float:
        return float((places[own, where] < NEAREST * rows).float().mean())

    orders = {"halves": found((own + rows // 2) % rows), "neighbours": found(own ^ 1)}
    best = max(orders, key=lambda name: orders[name])
    return best if orders[best] > 0.5 and found(positives) < 2.5 * NEAREST else ""
