"""Batch normalisations are another network in use than in training: by how much, a step shows that runs again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.again import Again
from unstuck.rules.copies import teacher_norms
from unstuck.rules.evidence import FEWEST_MEASUREMENTS, Evidence
from unstuck.rules.question import question
from unstuck.rules.rule import Found, rule, shown
from unstuck.step import Node, Step
from unstuck.wording import listed, number, verb

DRIFT, DRIFT_OF_ONE, STEPS_TO_SETTLE = 1.0, 0.2, 20
"""Squared distance of a running mean from those of batches, or of single samples, over the variance of these; steps."""
LOST = 0.1
"""Share of what a training has gained that is lost in use."""

NORMALISE = "Use GroupNorm or LayerNorm, which do not depend on the batch, or one normalisation for each place."
UPDATE = "Use PyTorch's default, 0.1: momentum is the share of the new batch, not of the old statistics."
TRAIN_MODE = "Call `model.train()` before the steps, also after each evaluation."
COPY_BUFFERS = "Copy the buffers of the model, too: `AveragedModel(..., use_buffers=True)`, or over `model.buffers()`."


@rule("US509", "normalisation differs in use", remedy=NORMALISE)
def normalisation(evidence: Evidence) -> Found | None:
    """Training normalises by the batch, use by running statistics: the network is another one when it is used."""
    if names := evidence.ask(resting):
        text = _(
            "The model trains in evaluation mode: {names} {verb} the running statistics of earlier steps.",
            names=listed(names), verb=verb(names, "keeps", "keep"),
        )  # fmt: skip
        return shown(text, TRAIN_MODE, value=len(names))
    if count := evidence.ask(teacher_norms):
        text = _("A network whose outputs are targets normalises by statistics that saw no data.")
        return shown(text, COPY_BUFFERS, value=count)
    found, before = evidence.ask(in_use), evidence.measurements[0].loss
    if found is None or before is None or (evidence.latest.step or 0) < STEPS_TO_SETTLE:
        return None
    norms = {"names": listed(found.names), "verb": verb(found.names, "normalises", "normalise")}
    worse = found.loss_in_use - found.loss > LOST * (before - found.loss)
    if found.alone:
        text = _("{names} {verb} batches of a single sample: in use, running statistics replace its own.", **norms)
    elif found.still:
        text = _("The momentum of {names} is 0: running statistics stay as they were initialised.", **norms)
    else:
        text = _("The running means of {names} are far from those of the batch.", **norms)
    if worse:
        losses = {"worse": number(found.loss_in_use), "loss": number(found.loss)}
        text += _(" With running statistics, as in use, the loss of a batch is {worse} in place of {loss}.", **losses)
    return shown(text, UPDATE if found.still else None, value=found.loss_in_use) if worse or found.alone else None


@dataclass(frozen=True)
class InUse:
    """A step whose batch normalisations normalise by their running statistics, as in use."""

    names: tuple[str, ...]  # modules of those whose running means are far from those of the batch
    alone: bool  # each sample is normalised by itself
    still: bool  # the running statistics never change
    loss: float
    loss_in_use: float


@question
def in_use(again: Again) -> InUse | None:
    """What the loss becomes if batch normalisations use running statistics whose means are far from the batch's."""
    steps = (again, *map(again.other, again.earlier))
    one = max(steps, key=lambda step: step.samples)  # the last batch may be small
    norms = _in_training(one.step)
    alone = {given["input"].shape[0] for _node, given in norms} == {1}
    apart = [item for step in (steps if alone else (one,)) for item in _drifts(step)]
    names = dict.fromkeys(name for name, drift in apart if drift > (DRIFT_OF_ONE if alone else DRIFT))
    if not (again.trained and names):
        return None
    still = all(given.get("momentum") == 0 for _node, given in norms)
    changes = dict.fromkeys((node for node, _given in norms), _with_running_statistics)
    losses = [sum(float(x.sum()) for x in one.run(one.step.losses, edits=edits)) for edits in ({}, changes)]
    return InUse(tuple(names), alone, still, *losses)


@question
def resting(again: Again) -> tuple[str, ...]:
    """Batch normalisations that have trained, and are in evaluation mode in all recorded steps, as the whole model."""
    steps = [*again.earlier, again.step]
    if len(steps) < FEWEST_MEASUREMENTS or any(step.training for step in steps):
        return ()
    trains = [(n, given["running_mean"].target) for n, given in _norms(again.step) if n.requires_grad]
    moved = (n for n, name in trains if name in again.first and _has_trained(again, name))
    return tuple(dict.fromkeys(str(node.module) for node in moved))


def _has_trained(again: Again, name: str) -> bool:
    """Whether a running mean has moved since the first recorded step, or in it, and never before."""
    count = again.first.get(name.removesuffix("running_mean") + "num_batches_tracked", 0)
    return int(count) == 1 or not torch.equal(again.first[name], again.values[name])


@question
def fewest_rows(again: Again) -> int:
    """The size of a batch that is normalised by itself; 0 without one."""
    return min((given["input"].shape[0] for _node, given in _in_training(again.step)), default=0)


def _norms(step: Step) -> list[tuple[Node, dict[str, Any]]]:
    """Batch normalisations with running statistics, and their arguments."""
    found = [(node, calls.given(node, *calls.BATCH_NORM)) for node in step.of_loss("batch_norm")]
    return [(n, given) for n, given in found if n.target is functional.batch_norm and given.get("running_mean")]


def _in_training(step: Step) -> list[tuple[Node, dict[str, Any]]]:
    return [(node, given) for node, given in _norms(step) if given.get("training")]


def _drifts(again: Again) -> Iterator[tuple[str, float]]:
    """How far the running mean of each normalisation is, squared, over the variance of the batch."""
    norms = _in_training(again.step)
    results = again.run([given[key] for _node, given in norms for key in ("input", "running_mean")])
    for (node, _given), x, running in zip(norms, results[::2], results[1::2], strict=True):
        dims = [0, *range(2, x.dim())]
        drift = ((x.mean(dims) - running).square() / (x.var(dims, correction=0) + 1e-5)).mean()
        yield str(node.module), float(drift)


def _with_running_statistics(
    x: Tensor, mean: Tensor, var: Tensor, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
