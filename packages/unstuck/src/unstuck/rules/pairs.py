"""What a softmax or a choice compares: positives and negatives, the scale of similarities, unused codes and experts."""

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.again import FEWEST, Again, kinds
from unstuck.rules.evidence import Evidence
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule, shown
from unstuck.step import Node
from unstuck.step.node import reached
from unstuck.wording import named, number, percent

REPEATED = 0.25
FLAT, FLATTER, UNSCALED, SHARP = 0.6, 0.8, 0.5, 300.0
"""Least loss of cosines over that of equal ones; the same if the scale trains or targets are shares, and if nothing
scales them; the largest scale of cosines that trains, three times that of CLIP."""
TURNED = frozenset({"T", "mT", "t", "transpose", "permute", "contiguous", "detach", "float", "clone"})
READERS = ("cross_entropy", "log_softmax", "logsumexp")
ALIGNED, UNIT, MASKED = 0.999, 1e-3, -1e4
NEAREST = 0.1
"""Another view of a sample is among this share of all rows that resemble it most."""
CHOOSE = frozenset({"argmax", "argmin", "topk", "max", "min"})
FEWEST_OPTIONS, ROWS_OF_AN_OPTION, FEW_OPTIONS, SMALL_SHARE = 4, 4, 4.0, 0.05
"""Options, and choices of each on average, that tell whether one is used; so many of a codebook, or this share of it,
are enough."""
JOINED = calls.MOVES | {"stack", "cat"}

OTHER_PAIRS = "Check the indices of the positives: views in two halves are `(i + N) % 2N`, side by side `i ^ 1`."
HIDE_ITSELF = "Mask the diagonal: `similarities.fill_diagonal_(-inf)` before the softmax."
EACH_ONCE = "Draw batches in which each occurs once, or mask its copies."
USE_ALL = (
    "Start codes among the encoder's outputs and draw unused ones anew; give a router small first weights, noise, and "
    "a loss that balances it."
)
TEMPERATURE = "Divide cosines by a temperature of 0.05 to 0.2; a learned scale begins at 1 / 0.07 and stays below 100."


@rule("US708", "wrong positives or negatives", remedy=OTHER_PAIRS, hidden_by=("US401", "US705"), mistake=True)
def wrong_pairs(evidence: Evidence) -> Found | None:
    """A loss of all pairs draws samples together that do not belong together, or pushes copies apart."""
    found = evidence.ask(pairing)
    if found is None:
        return None
    if found.itself:
        text = _("Each sample is among its own candidates, is always the most similar, and counts as wrong.")
        return shown(text, HIDE_ITSELF)
    if found.order:
        where = _("in the other half of the batch") if found.order == "halves" else _("next to it")
        return Found((), 1.0, 0.0, _("The other view of a sample is {where}, and the targets are others.", where=where))
    if found.repeated > REPEATED:
        text = _(
            "{share} % of the samples occur several times in the batch, and each copy is a wrong answer for the "
            "others.",
            share=percent(found.repeated),
        )  # fmt: skip
        return shown(text, EACH_ONCE, value=found.repeated)
    return None


@rule("US709", "scale of similarities", remedy=TEMPERATURE, hidden_by=("US401",), mistake=True)
def wrong_scale(evidence: Evidence) -> Found | None:
    """A softmax of cosines that is flat, or picks one, whatever the features are."""
    found = evidence.ask(pairing)
    if found is None or found.scale is None:
        return None
    least = math.log1p((found.columns - 1) * math.exp(-2 * found.scale)) / math.log(found.columns)
    limit = FLATTER if not found.fixed else UNSCALED if abs(found.scale - 1) < UNIT else FLAT
    if least > limit:
        text = _(
            "Cosines are multiplied by {scale} before the softmax: the loss cannot fall below {share} % of that of "
            "equal ones.",
            scale=number(found.scale), share=percent(least),
        )  # fmt: skip
        return Found((), least, limit, text)
    if found.scale > SHARP:
        text = _(
            "Cosines are multiplied by {scale} before the softmax: it picks one candidate, and few pairs have a "
            "gradient.",
            scale=number(found.scale),
        )  # fmt: skip
        return Found((), found.scale, SHARP, text)
    return None


@rule("US710", "options that are not used", remedy=USE_ALL, hidden_by=("US401", "US501"), mistake=True)
def unused_options(evidence: Evidence) -> Found | None:
    """A few codes, or one expert, answer for all samples: the others are not trained."""
    for choice in evidence.ask(choices) or ():
        own = choice.options / choice.taken  # one of a choice takes one of so many
        enough = min(math.sqrt(own), max(FEW_OPTIONS, SMALL_SHARE * own))  # at most half of the largest entropy
        if choice.used / choice.taken < enough:
            text = _(
                "{name} takes one or a few of its {options} options: as many as {used} that are used alike.",
                name=named(choice.module), options=choice.options, used=number(choice.used),
            )  # fmt: skip
            return Found((choice.module,), choice.used, enough, text)
    return None


@dataclass(frozen=True)
class Pairing:
    """A softmax over the similarities of all pairs of samples."""

    columns: int
    scale: float | None = None  # what cosines are multiplied by; None: they are none
    fixed: bool = False  # the scale does not train, and each row has one target
    itself: bool = False  # a sample is among its own candidates, and is not the one that is looked for
    repeated: float = 0.0  # share of the samples of which there is another copy, which counts as a wrong candidate
    order: str = ""  # how the two views of a sample stand ("halves", "neighbours"), if the targets expect another order


@question
def pairing(again: Again) -> Pairing | None:
    """What a loss of all pairs compares."""
    for call in again.step.of_loss(*READERS):
        pairs = product(logits := call.reads[0])
        if pairs is None:
            continue
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
            return Pairing(columns, scale)
        fixed = not any(n.op == "parameter" and n.requires_grad and math.prod(n.shape) == 1 for n in read)
        repeated = max((_repeated(x, rows) for x in given), default=0.0)
        itself, order = same and _is_itself(scores, positives), _order(given, positives) if same else ""
        return Pairing(columns, scale, fixed, itself, repeated, order)
    return None


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


@dataclass(frozen=True)
class Choice:
    """A choice of codes or experts, among options that the network scores."""

    module: str  # in which it is made
    options: int
    used: float  # as many options, used alike, as are taken: exp(entropy)
    taken: int = 1  # at once


@question
def choices(again: Again) -> tuple[Choice, ...]:
    """How often each option is taken of what the network chooses among, after some training."""
    found = list[Choice]()
    needed = set(again.step.needed())
    for node in (n for n in again.step.calls(*CHOOSE) if again.trained and n.module is not None and n.reads):
        indices = _indices(node)
        if indices is None or indices not in needed or not _depends(again, node.reads[0]) or _predicts(node.reads[0]):
            continue
        scores, chosen = again.run([node.reads[0], indices])
        names, usual = (("input", "k", "dim"), -1) if node.function == "topk" else (("input", "dim"), None)
        dim = calls.given(node, *names).get("dim", usual)
        if not isinstance(dim, int) or scores.dim() < 2:
            continue
        options, rows = scores.shape[dim], scores.numel() // scores.shape[dim]
        if options < FEWEST_OPTIONS or rows < ROWS_OF_AN_OPTION * options or chosen.numel() % rows:
            continue
        counts = torch.bincount(chosen.flatten(), minlength=options).float()
        shares = counts / counts.sum()
        used = float(torch.special.entr(shares).sum().exp())  # as many that are used alike
        found.append(Choice(node.module or "", options, used, chosen.numel() // rows))
    return tuple(found)


def _indices(node: Node) -> Node | None:
    """Which option a call takes: of several results the second."""
    if node.function in ("argmax", "argmin"):
        return node
    return next((n for n in node.users if n.function == "getitem" and n.args[1] == 1), None)


def _depends(again: Again, node: Node) -> bool:
    """Whether a number depends on samples and weights."""
    needed = again.step.needed([node])
    return any(n.op == "parameter" for n in needed) and not set(again.given).isdisjoint(needed)


def _predicts(node: Node) -> bool:
    """Whether a loss compares the options with labels: then one of them is an answer, which is read again."""
    readers = reached([node], lambda n: n.users if n is node or n.function in JOINED else ())
    return any(n.function in calls.LOSSES for n in readers)
