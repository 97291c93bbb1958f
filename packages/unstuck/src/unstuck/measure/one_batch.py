"""One batch through a network, forward and backward: the measurement of `diagnose`."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from unstuck._torch.autograd import leaves, post_accumulate_hooks
from unstuck.arguments import check
from unstuck.language import _
from unstuck.measure.measurement import Measurement, Subject
from unstuck.measure.probe import Probe
from unstuck.measure.statistics import seen_no_data
from unstuck.observation.batch import BATCH_NORMS, evaluating, loss_of, run, unchanged
from unstuck.observation.process_group import Ranks
from unstuck.step import Step
from unstuck.step.node import mapped, tensors_in
from unstuck.wording import listed


def measure(subject: Subject, ranks: Ranks, take: Callable[[Step], bool] = lambda step: False) -> Measurement:
    """Run one forward and one backward pass and restore the model; all processes of `ranks` call it together.

    `take` is called with the recorded step, and returns whether it has copied its tensors, to keep it.
    """
    model = subject.model
    check(model, subject.inputs, subject.targets, subject.loss_fn)
    unused = fresh_norms(model)
    probe = Probe(model, most=None, ranks=ranks)
    with passes(subject) as batch:
        given = (t for t in tensors_in((batch.inputs, batch.targets)) if t.requires_grad and t.is_leaf)
        of_loss = subject.loss_fn.parameters() if isinstance(subject.loss_fn, nn.Module) else ()
        probe.named_inputs = batch.inputs if isinstance(batch.inputs, Mapping) else None
        with _own_gradients([*model.parameters(), *given, *of_loss]) as own:
            probe.attach()
            try:
                loss = loss_of(run(batch.model, batch.inputs), batch.targets, batch.loss_fn)
                if loss.requires_grad:
                    own(leaves(loss))
                    loss.backward()  # type: ignore[no-untyped-call]
                    if not probe.has_gradients:  # no layer has received one
                        probe.parameters.read_gradients()
                step = probe.take_step(loss)
                kept = take(step)
                measurement = probe.conclude()
                if not kept:
                    step.release()
            except Exception as error:
                if not subject.training and error.__cause__ is None:  # else it says what to do
                    error.add_note("the model ran in evaluation mode; training=True runs it as in training")
                raise
            finally:
                probe.detach()
    loss = loss.detach()
    mean = ranks.total(loss.cpu(), loss.device) / ranks.count
    del batch, own  # the last that keep weights alive that forward has made
    notes, rests = measurement.notes, not subject.training
    if unused and rests and any(step.calls("batch_norm")):
        fresh = _(
            "the model in evaluation mode: {names} have seen no data yet, and normalise by this batch, as in training",
            names=listed(unused),
        )
        notes = (*notes, fresh)
    return dataclasses.replace(
        measurement,
        strays=(*measurement.strays, *probe.made_in_forward),
        notes=notes,
        loss=None if subject.loss_fn is None else float(mean),
        evaluating=rests,
        reads_mode=rests and _reads_mode(model),
    )


def _reads_mode(model: nn.Module) -> bool:
    """Whether a method of the model's own classes, or of its modules', reads an attribute `training`."""
    kinds = {k for m in model.modules() for k in type(m).__mro__ if not k.__module__.startswith("torch.")}
    codes = (getattr(inspect.unwrap(method), "__code__", None) for k in kinds for method in vars(k).values())
    return any(code is not None and "training" in code.co_names for code in codes)


@contextmanager
def passes(subject: Subject) -> Iterator[Subject]:
    """Passes in the subject's mode that leave the model as it was; yields the subject with a batch of leaves."""
    model = subject.model
    with torch.inference_mode(False), torch.enable_grad():
        inputs, targets = _cut_off(subject.inputs), _cut_off(subject.targets)
        mode = _training if subject.training else _evaluation
        with unchanged(model, inputs), own_buffers(model), mode(model):
            yield dataclasses.replace(subject, inputs=inputs, targets=targets)


def _cut_off(values: Any) -> Any:
    """The same values with tensors that are ordinary leaves, so that the backward pass ends at them."""

    def leaf(tensor: Tensor) -> Tensor:
        if tensor.is_inference():
            return tensor.clone()
        return tensor if tensor.is_leaf else tensor.detach().requires_grad_(tensor.requires_grad)

    return mapped(dict(values) if isinstance(values, Mapping) else values, Tensor, leaf)


@contextmanager
def own_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the buffers after a forward pass; a buffer of another shape stays: a cache that has grown."""
    kept = [(m, n, b, b.clone()) for m in model.modules() for n, b in m.named_buffers(recurse=False)]
    try:
        yield
    finally:
        for module, name, buffer, copy in kept:
            now = getattr(module, name, None)
            if now is not None and now.shape == buffer.shape:
                if now is not buffer:
                    setattr(module, name, buffer)
                if buffer.layout is torch.strided and not torch.equal(buffer, copy):
                    buffer.copy_(copy)


@contextmanager
def _own_gradients(leaves: Iterable[Tensor]) -> Iterator[Callable[[Iterable[Tensor]], None]]:
    """Let a backward pass fill `.grad` of leaves, as FSDP and checkpoints need it, and restore it afterwards.

    Yields a function that takes leaves that are known after the forward pass only.
    """
    kept: dict[int, tuple[Tensor, Tensor | None]] = {}
    hooks: list[tuple[dict[int, Any], dict[int, Any]]] = []

    def keep(leaves: Iterable[Tensor]) -> None:
        for leaf in leaves:
            if id(leaf) not in kept:
                kept[id(leaf)] = leaf, leaf.grad
                leaf.grad = None
                stepping = post_accumulate_hooks(leaf)  # of optimizers that step in the backward pass
                hooks.append((stepping, dict(stepping)))
                stepping.clear()

    keep(leaves)
    try:
        yield keep
    finally:
        for leaf, gradient in kept.values():
            leaf.grad = gradient
        for stepping, before in hooks:
            stepping.update(before)


def fresh_norms(model: nn.Module) -> list[str]:
    """Names of the batch normalisations of a model in evaluation mode that have seen no data, and normalise nothing."""
    norms = ((name, m) for name, m in model.named_modules() if isinstance(m, BATCH_NORMS))
    known = ((name, m, m.running_mean, m.running_var) for name, m in norms if not isinstance(m, nn.SyncBatchNorm))
    found = [(n, m) for n, m, mean, var in known if mean is not None and var is not None and seen_no_data(mean, var)]
    return [name for name, m in found if not m.training and not model.training]


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; normalisations that have seen no data normalise by the batch: a training would not see others.

    `unchanged` restores modes, and `own_buffers` running statistics.
    """
    fresh = set(fresh_norms(model))
    for name, module in model.named_modules():
        if name in fresh:
            module.training = True
    with evaluating(model):
        yield


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Training mode; in a model that is in it, parts that are not stay so: frozen norms."""
    if not model.training:
        with suppress(NotImplementedError):
            model.train()
    yield
