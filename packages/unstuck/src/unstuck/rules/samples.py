"""Samples are mixed: the answer for one changes with the others, or numbers are read over the wrong dimension."""

import torch
from torch import Tensor

from unstuck.findings import Severity
from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.again import EQUAL, FEWEST, MIXED, Again, by_position, differ, rolled, with_others_in
from unstuck.rules.evidence import Evidence
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule, shown
from unstuck.step import Node
from unstuck.wording import named

SAMPLES_ONLY = "samples_only"
COLOURS, INTERLEAVED = 3, 0.8
"""How different each third number is at most, beside neighbours, if the colours of a pixel stand side by side: 0.54 in
CIFAR-10, and 2.0 where they do not."""
SUMS = 1e-2
"""How far probabilities may add up to something else than 1."""

SEPARATE = (
    "Check dimensions: `batch_first=True` in attention and recurrent layers, positions added along the sequence, "
    "transpose instead of view, a softmax over the last dimension; samples that were sorted by length need their order "
    "back. Nothing to do if the samples are the steps of one sequence, or one set."
)
TRANSPOSE = "Use `transpose` or `permute`, which move the numbers, in place of `view` or `reshape`."
OVER_FEATURES = "Use `dim=-1`."
TIME_FIRST = "Nothing to do if dimension 0 of the inputs counts time steps; else set `batch_first=True`."


@rule("US506", "samples are mixed", remedy=SEPARATE, mistake=True)
def mixed_samples(evidence: Evidence) -> Found | None:
    """The answer for a sample changes with the company that it is in: training and use are not the same."""
    latest = evidence.latest
    over_samples = [
        x.name
        for x in latest.layers
        if x.softmax_dim == 0 and not x.gate and len(x.shape) > 1 and x.shape[0] == latest.samples > 1
    ]
    if over_samples:
        text = _(
            "{name} is a softmax over dimension 0, which counts the samples: its outputs for one sample depend on all "
            "others.",
            name=named(over_samples[0]),
        )
        return Found(tuple(over_samples), 1.0, 0.0, text, OVER_FEATURES)
    if latest.swaps:
        first = latest.swaps[0]
        text = _(
            "{name} reads a view of {before} as {after}: the numbers stay in their order, so that the axes are mixed.",
            name=named(first.layer), before=list(first.before), after=list(first.after),
        )  # fmt: skip
        return Found(tuple(swap.layer for swap in latest.swaps), len(latest.swaps), 0.0, text, TRANSPOSE)
    if shape := evidence.ask(interleaved):
        text = _(
            "In the inputs {shape}, each third number is more like the next than its neighbour is: the colours of a "
            "pixel stand side by side, so that the axes are mixed.",
            shape=list(shape),
        )  # fmt: skip
        return shown(text, TRANSPOSE)
    if call := evidence.ask(wrong_axis):
        text = _(
            "{call} reads probabilities that sum to 1 over another dimension than the one that it takes them for.",
            call=call,
        )
        return shown(text, OVER_FEATURES)
    what = evidence.ask(mixed)
    text = _("The output for a sample changes with the other samples of the batch or its place among them.")
    if what == SAMPLES_ONLY:
        return shown(text, TIME_FIRST, Severity.NOTE)
    return shown(text) if what else None


@question
def interleaved(again: Again) -> tuple[int, ...] | None:
    """The shape of images [samples, 3, height, width] whose numbers are in the order [samples, height, width, 3]."""
    for node in (n for n in again.read if len(n.shape) == 4 and n.shape[1] == COLOURS):
        (x,) = again.run([node])
        x = x.float().flatten(1)
        one, three = ((x[:, lag:] - x[:, :-lag]).abs().mean() for lag in (1, COLOURS))
        if three < INTERLEAVED * one:
            return node.shape
    return None


@question
def wrong_axis(again: Again) -> str | None:
    """The call that reads probabilities which are normalised over another dimension than the one that it counts on."""
    for call in (n for n in again.step.of_loss(*calls.CLASSES) if n.reads and len(n.reads[0].shape) > 1):
        (logarithms,) = again.run([call.reads[0]])
        if not sums_to_1(logarithms.exp(), calls.CLASSES[call.function]) and any(
            sums_to_1(logarithms.exp(), dim) for dim in range(logarithms.dim())
        ):
            return call.function
    for call in filter(calls.is_product, again.step.needed()):
        softmax = call.reads[0].through(calls.KEEP_PLACES)
        if softmax.function == "softmax" and calls.softmax_dim(softmax) != len(softmax.shape) - 1:
            return call.function
    return None


def sums_to_1(x: Tensor, dim: int) -> bool:
    """Whether probabilities sum to 1 over a dimension of several."""
    return x.shape[dim] > 1 and bool(((x.float().sum(dim) - 1).abs() < SUMS).all())


@question
def mixed(again: Again) -> str | None:
    """What is mixed in the outputs: "samples", or `SAMPLES_ONLY` if those at a position depend on no other position."""
    if not again.outputs or _are_candidates(again) or not _is_mixed(again):
        return None
    return SAMPLES_ONLY if _positions(again) is False else "samples"


def _are_candidates(again: Again) -> bool:
    """Whether samples are compared with each other on purpose: the label of each is its own place, as of CLIP's."""
    labels = (calls.given(n, "input", "target").get("target") for n in again.step.of_loss("cross_entropy"))
    values = again.run([label for label in labels if isinstance(label, Node)])
    return any(torch.equal(x, torch.arange(again.samples, device=x.device)) for x in values)


def _is_mixed(again: Again) -> bool:
    """Whether a sample's output depends on the other samples or on its place among them."""
    time_first = any(again.samples in n.shape[1:2] and n.shape[0] != again.samples for n in again.outputs)
    if time_first or _is_graph(again):
        return False
    last = again.samples - 1
    with_one_other = lambda x: torch.cat([x[:1].expand(last, *x.shape[1:]), x[last:]])  # noqa: E731
    others = again.run(again.outputs, dict.fromkeys(again.read, with_one_other))
    if any(_depends(a, b, again.samples) for a, b in zip(again.before, others, strict=True)):
        return True
    data = (n for n in again.step.needed(again.outputs) if n.op in ("input", "constant") and n not in again.given)
    if again.draws or any(again.samples in node.shape for node in data):  # samples may be in another dimension
        return False
    others = again.run(again.outputs, dict.fromkeys(again.read, rolled))
    return any(
        all(differ(first, second, MIXED) for first, second in zip(_by_sample(a, again.samples), moved, strict=True))
        for a, b in zip(again.before, others, strict=True)
        if (moved := [x.roll(-1, 0) for x in _by_sample(b, again.samples)])
    )


def _depends(before: Tensor, after: Tensor, samples: int) -> bool:
    """Whether the output of the last sample has changed, in whichever order the rows of a sample stand."""
    pairs = zip(_by_sample(before, samples), _by_sample(after, samples), strict=True)
    return all(differ(one[-1], other[-1], MIXED) for one, other in pairs)


def _by_sample(outputs: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Outputs [samples, rows, ...]: if all of a sample stand together, and if each view has those of all samples."""
    shape = outputs.shape[1:]
    return outputs.reshape(samples, -1, *shape), outputs.reshape(-1, samples, *shape).transpose(0, 1)


def _is_graph(again: Again) -> bool:
    """Whether samples are the nodes of a graph: something has all pairs of them, or the numbers of neighbours."""
    needed = [n for n in again.step.needed(again.outputs) if n.op in ("input", "constant", "buffer")]
    others = (n.value for n in needed if n.value is not None and n not in again.given)
    links = (x for x in others if x.numel() > 1 and not x.is_floating_point() and x.dtype != torch.bool)
    pairs = any(n.shape.count(again.samples) > 1 for n in needed)
    return pairs or any(again.samples / 2 <= int(x.max()) < again.samples and int(x.min()) >= 0 for x in links)


def _positions(again: Again) -> bool | None:
    """Whether the output at the first or the last position depends on others; None without positions."""
    own = (n for n in again.read if len(n.shape) > 1 and n.shape[1] >= FEWEST)
    sequences = next((n for n in own if n.dtype is not None and len(n.shape) == 2 + n.floating), None)
    if sequences is None:
        return None
    length = sequences.shape[1]
    known = [by_position(x, again.samples, length) for x in again.before]
    if all(x is None for x in known):
        return None
    for seen, part in ((0, slice(1, length)), (length - 1, slice(length - 1))):  # a causal one looks back only
        after = again.run(again.outputs, {sequences: lambda x, part=part: with_others_in(x, part)})  # type: ignore[misc]
        for one, new in zip(known, after, strict=True):
            other = by_position(new, again.samples, length)
            if one is not None and other is not None and differ(one[:, seen], other[:, seen], EQUAL):
                return True
    return False
