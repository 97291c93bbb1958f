"""What the outputs and the loss of a recorded step depend on: some of its inputs change, and the step runs again."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unstuck._torch.modes import unfollowed
from unstuck.measure.again import EQUAL, FEWEST, MIXED, Again, by_position, differ, kinds, rolled, with_others_in
from unstuck.measure.axes import of_axes
from unstuck.measure.calls import DIFFERENCES, REGRESSION_LOSSES
from unstuck.measure.choices import of_choices
from unstuck.measure.copies import of_groups, of_teachers, of_twins, of_zero_inputs
from unstuck.measure.measurement import Dependence, Effect
from unstuck.measure.noise import of_noise
from unstuck.measure.pairs import of_pairs
from unstuck.measure.shown import of_patches, of_reconstructions
from unstuck.measure.tokens import of_tokens
from unstuck.step import Node, Step
from unstuck.step.node import reached

MOST_CALLS = 3000
"""In longer steps, a few more forward passes take too long."""


@unfollowed
def depend(
    step: Step, values: Mapping[str, Tensor], trained: bool = False, earlier: Sequence[Step] = ()
) -> Dependence | None:
    """What the outputs and the loss depend on; None if the step cannot run again.

    Args:
        step: a recorded step.
        values: parameters and buffers, by name.
        trained: whether they were trained: an input whose weights start at 0 has no effect before.
        earlier: recorded steps before this one, oldest first.
    """
    again, found = Again(step, values, trained), dict[str, Any]()
    needed = step.needed(step.outputs)
    own = any(isinstance(x, torch.Generator) for node in needed for x in (*node.args, *node.kwargs.values()))
    if own or step.unfollowed or len(step.nodes) > MOST_CALLS or again.samples < FEWEST:
        return None
    of_outputs = [_of_samples, of_tokens, of_patches, of_reconstructions, *([_effects] if trained else [])]
    of_steps = [partial(question, earlier=earlier) for question in (of_twins, of_teachers, of_zero_inputs, of_noise)]
    others = [of_groups, of_axes, of_pairs, of_choices, _without_running]
    for question in (*(of_outputs if again.outputs else ()), *of_steps, *others):
        # A call of the step may raise anything.
        with torch.no_grad(), torch.random.fork_rng(devices=again.devices), suppress(Exception):
            found |= question(again)
    return Dependence(**found)


def _of_samples(again: Again) -> dict[str, Any]:
    """What the other samples matter to the outputs of a sample."""
    mixed = _mixed(again)
    return {"samples": mixed, "positions": _positions(again) if mixed else None}


def _mixed(again: Again) -> bool | None:
    """Whether a sample's output depends on the other samples or on its place among them; None if it is unknown."""
    if _is_graph(again):
        return None
    last = again.samples - 1

    def with_one_other(x: Tensor) -> Tensor:
        return torch.cat([x[:1].expand(last, *x.shape[1:]), x[last:]])

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
    sequences = next((n for n in own if n.dtype is not None and len(n.shape) == 2 + n.dtype.is_floating_point), None)
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


def _effects(again: Again) -> dict[str, Any]:
    """What the loss becomes if one input, or the targets, are those of other samples."""
    losses, found = again.step.losses, list[Effect]()
    before = sum(float(x.sum()) for x in again.run(losses))
    read, needed = set(again.read), set(again.step.needed(losses))
    targets = [n for n in again.given if n not in read and n in needed]
    several = [node for node in again.given if _varies(node)]
    for nodes in [*([node] for node in several if node in read), [node for node in several if node in targets]]:
        if not nodes or len(several) < 2:
            continue
        results = again.run([*losses, *again.outputs], dict.fromkeys(nodes, rolled))
        after, outputs = sum(float(x.sum()) for x in results[: len(losses)]), results[len(losses) :]
        if nodes[0] in read and any(n.module is None and n in needed for n in nodes[0].users):
            after = math.nan  # it is its own target, and belongs to no other input
        moved = any(differ(a, b, 0.0) for a, b in zip(again.before, outputs, strict=True))
        first = next(user for user in nodes[0].users)
        found.append(Effect(nodes[0].shape, first.function, first.module, nodes[0] in targets, moved, before, after))
    return {"effects": tuple(found)}


def _varies(node: Node) -> bool:
    """Whether samples differ, and the numbers are no mask."""
    value = node.value
    if value is None or value.dtype == torch.bool:
        return False
    mask = not value.is_floating_point() and value.dim() > 1 and kinds(value) <= {0, 1}
    return not mask and bool((value != value[:1]).any())


def _without_running(again: Again) -> dict[str, Any]:
    """What the calls tell as they are."""
    step = again.step
    return {"unread": tuple(step.unread), "unused": tuple(_unused(step)), "predicted": _predicted(step)}


def _unused(step: Step) -> Iterator[str]:
    """Calls of the model whose result, one number with a gradient, nothing reads and the loss does not take."""
    needed = set(step.needed())
    numbers = (n for n in step.calls() if n.module is not None and n.requires_grad and n.shape == ())
    for node in numbers:
        if not node.users and node not in needed:
            yield f"{node.function} in {node.module}" if node.module else node.function


def _is_squared(node: Node) -> bool:
    """Whether a difference is an error, squared or as a norm."""
    return any(user.function in ("square", "pow", "norm", "abs") or user.reads == (node, node) for user in node.users)


def _predicted(step: Step) -> str | None:
    """The function that compares outputs with targets that have a gradient, too; None without any.

    Of a regression, the weights of the one are those of the other and at least one more, as of a prediction, or others,
    as of a teacher: of the same shapes, or nothing else is in the loss.
    """
    for node in step.calls("cross_entropy", "cosine_similarity", "kl_div", *REGRESSION_LOSSES, *DIFFERENCES):
        pair = [read for read in node.reads if read.requires_grad][:2]
        if node.module is not None or len(pair) < 2:
            continue
        own = [{n for n in step.needed([read]) if n.op == "parameter"} for read in pair]
        shapes = [Counter(n.shape for n in weights) for weights in own]
        alone = set(step.needed()) == {*step.needed([node]), *reached([node], lambda n: n.users)}
        copied = (shapes[0] <= shapes[1] or shapes[1] <= shapes[0]) and pair[0].shape == pair[1].shape
        alike = copied or node.function == "kl_div" or alone
        taught = own[0] < own[1] or own[1] < own[0] or (alike and not own[0] & own[1])
        if node.function in DIFFERENCES and not (alone and _is_squared(node)):
            continue
        if node.function == "cross_entropy" or (own[0] and own[1] and taught):
            return node.function
    return None
