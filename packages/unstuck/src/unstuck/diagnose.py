"""diagnose: one batch through a network, forward and backward, and the findings of the rules."""

from dataclasses import replace
from typing import Any

from torch import nn

from unstuck.diagnosis import Diagnosis, judged
from unstuck.measure.again import Again
from unstuck.measure.measurement import Subject
from unstuck.measure.one_batch import measure
from unstuck.names import callers_names
from unstuck.observation.batch import Inputs, LossFn
from unstuck.observation.process_group import Ranks
from unstuck.rules.question import answers
from unstuck.step import Step, state
from unstuck.step.nonfinite import first_nonfinite
from unstuck.trials import Recording, verdict


def diagnose(
    model: nn.Module,
    inputs: Inputs,
    targets: Any = None,
    loss_fn: LossFn | None = None,
    *,
    training: bool = False,
    trials: bool = True,
    trace_nonfinite: bool = False,
) -> Diagnosis:
    """Measure a network on one batch, and say in words what is wrong and what to do.

    One forward and one backward pass, and a few forward passes of four samples. Any network works: with or without
    cores, convolutional, recurrent, transformers. Functions that a forward calls by name are measured like modules.
    Nothing is changed: neither weights nor their `.grad`, buffers, modes, nor the state of the random generators. The
    model runs in evaluation mode, but a BatchNorm in training mode normalises by the batch. A model that refuses
    `eval()`, as exported ones do, runs in the mode that it has.

    Under `torch.distributed` all ranks call it together, each with its own batch, and get the numbers of all batches.

    Args:
        model: any module.
        inputs: one batch: a tensor (batch first), a tuple for `model(*inputs)` or a dict for `model(**inputs)`. With
            fewer than 32 samples, the rules for dead units are skipped.
        targets: second argument of `loss_fn`.
        loss_fn: `loss_fn(outputs, targets)` returns a scalar. Without it, the gradient is that of random cotangents on
            the outputs (fixed seed), and the rules for the loss are skipped.
        training: run the model in training mode, dropout and all, if its forward or loss needs it. Parts that are in
            evaluation mode within a model in training mode stay so.
        trials: with a loss function, train copies of the weights on this batch, with Adam, for ten seconds at most: as
            they are, and with an edit for each finding. A finding whose edit makes it learn is proved. In one process.
        trace_nonfinite: if a number is inf or NaN, repeat the step and name the operation that made the first one, with
            its line and the values that it read, in the forward or in the backward pass.

    Returns:
        A frozen, printable diagnosis: `print(d)`, `d.findings`, `d.layers`, `d.to_json()`, `d.to_html(path)`.

    Raises:
        TypeError: not an nn.Module, or its forward does not accept these inputs; `loss_fn` is a class or does not take
            outputs and targets.
        ValueError: empty inputs; `targets` without `loss_fn`; a loss that is not a scalar. Errors of the model and the
            loss keep their type.

    Example:
        >>> import torch
        >>> import unstuck
        >>> model = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(16, 16), nn.Sigmoid())])
        >>> d = unstuck.diagnose(model, torch.randn(64, 16))
        >>> d.findings[0].rule, d.findings[0].name
        ('US101', 'vanishing gradient')
    """
    names = callers_names(model=model, inputs=inputs, targets=targets, loss_fn=loss_fn)
    subject, ranks = Subject(model, inputs, targets, loss_fn, training, names), Ranks()
    recording = Recording(model) if trials and loss_fn is not None and ranks.count == 1 else None
    found: list[tuple[dict[str, Any] | None, str | None]] = []

    def take(step: Step) -> bool:
        origin = first_nonfinite(step, state(model)) if trace_nonfinite else None
        found.append((answers(Again(step, state(model))) if ranks.count == 1 else None, origin))
        if recording is not None:
            recording.keep(step)
        return recording is not None

    measurement = measure(subject, ranks, take)
    answered, origin = found[-1]
    return judged([replace(measurement, answers=answered, origin=origin)], subject, recording, verdict.SECONDS)
