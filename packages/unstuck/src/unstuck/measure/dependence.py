"""Which inputs an output depends on: a few samples once more, forward only, with other samples or positions changed."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from unstuck.measure.measurement import Dependence, Measurement, Subject
from unstuck.measure.one_batch import own_buffers
from unstuck.observation.batch import BATCH_NORMS, loss_of, run, unchanged
from unstuck.observation.process_group import Ranks
from unstuck.step.node import mapped, tensors_in

MOST_LAYERS = 300
"""In deeper networks, a few more forward passes take too long."""
FEWEST = 3
"""Samples and positions that a comparison needs."""
EQUAL, LEAK, MIXED = 1e-4, 1e-3, 3e-3
"""Outputs that differ by less of their size are equal; the same beside later tokens, which the largest of all keys may
round in another way; the same beside other samples, which may tell an iteration when to stop."""

Change = Callable[[Tensor], Tensor]


@torch.no_grad()
def depend(subject: Subject, measurement: Measurement, ranks: Ranks) -> Dependence | None:
    """What the outputs depend on; None if the model does not run on a part of the batch, or normalises by the batch."""
    model, samples = subject.model, measurement.samples
    by_batch = any(isinstance(m, BATCH_NORMS) and m.running_mean is None for m in model.modules())
    if ranks.count > 1 or samples < FEWEST or len(measurement.layers) > MOST_LAYERS or by_batch:
        return None
    # A model may raise anything for a part of its batch.
    with unchanged(model, subject.inputs), own_buffers(model), _own_choices(), suppress(Exception):
        model.eval()
        return _judged(_Outputs(subject, samples))
    return None


@dataclass
class _Outputs:
    """The outputs of a model for some samples of a batch."""

    subject: Subject
    samples: int
    drawn: bool = False  # the model has drawn random numbers

    @cached_property
    def sequences(self) -> Tensor | None:
        """The inputs with positions: tokens [samples, positions] or [samples, positions, features].

        Of several it is the one that holds the targets, else the first.
        """
        own = [x for x in tensors_in(self.subject.inputs) if x.dim() in (2, 3) and len(x) == self.samples]
        known = [x for x in own if x.dim() == 2 + x.is_floating_point() and x.shape[1] >= FEWEST]
        return next((x for x in known if _shift(x, self.subject.targets) is not None), known[0] if known else None)

    def of(self, rows: Sequence[int], change: Change | None = None) -> Tensor | None:
        """The first output, [rows or a multiple, ...]; `change` is applied to the sequences."""
        sequences = self.sequences
        torch.manual_seed(0)
        random.seed(0)

        def taken(tensor: Tensor) -> Tensor:
            own = tensor.dim() > 0 and len(tensor) == self.samples
            part = tensor[list(rows)] if own else tensor
            return change(part) if change is not None and tensor is sequences else part

        inputs = self.subject.inputs
        inputs = mapped(dict(inputs) if isinstance(inputs, Mapping) else inputs, Tensor, taken)
        before = torch.get_rng_state()
        outputs = run(self.subject.model, inputs)
        self.drawn |= not torch.equal(before, torch.get_rng_state())
        return next((x for x in _floating(outputs) if len(x) % len(rows) == 0), None)

    def compared(self, sequences: Tensor, donor: int, place: int) -> bool:
        """Whether the loss compares the output at a position with the target at it, and not with a neighbour's.

        If a target of sample 0 becomes that of the donor, the gradient of the loss changes most at its output.
        """
        targets, wanted = self.subject.targets, _wanted(sequences, self.subject.targets)
        assert wanted is not None
        others = wanted.reshape(sequences.shape).clone()
        others[0, place] = others[donor, place]
        both = targets, mapped(targets, Tensor, lambda t: others.reshape(t.shape) if t is wanted else t)
        # The model may be frozen, and its loss may raise anything.
        with torch.enable_grad(), suppress(Exception):
            outputs = run(self.subject.model, self.subject.inputs)
            losses = [loss_of(outputs, given, self.subject.loss_fn) for given in both]
            one, other = (torch.autograd.grad(x, _floating(outputs)[0], retain_graph=True)[0] for x in losses)
            change = _by_position(other - one, self.samples, sequences.shape[1])
            return change is not None and int(change[0].flatten(1).abs().sum(1).argmax()) == place
        return False


@contextmanager
def _own_choices() -> Iterator[None]:
    """Restore the random numbers of Python, which `_Outputs.of` starts anew."""
    before = random.getstate()
    try:
        yield
    finally:
        random.setstate(before)


def _floating(outputs: Any) -> list[Tensor]:
    return [x for x in tensors_in(outputs) if x.is_floating_point() and x.dim()]


def _judged(outputs: _Outputs) -> Dependence:
    """All comparisons, each only if it can tell something."""
    sequences = outputs.sequences
    found = None if sequences is None else _donor(sequences)
    one, place = found or (1, 1)
    three = outputs.of([one, one, 0])
    mixed = None if three is None else _mixed(outputs, three, one)
    if three is None or mixed is None or sequences is None:
        return Dependence(mixed)
    length = sequences.shape[1]
    places = _by_position(three, 3, length)

    def changed(seen: slice, part: slice, tolerated: float = EQUAL) -> bool | None:
        """Whether outputs of the last sequence change if a part of it becomes that of the first one."""
        now = outputs.of([one, one, 0], _with_others_in(part))
        now = None if now is None else _by_position(now, 3, length)
        return None if now is None or places is None else not _equal(now[-1, seen], places[-1, seen], tolerated)

    shift = _shift(sequences, outputs.subject.targets)
    known = shift is not None and places is not None and found is not None
    later = changed(slice(length // 2), slice(length // 2, length), LEAK) if known else None
    here = slice(place, place + 1)
    copies = shift == 0 and later is False and changed(here, here) and outputs.compared(sequences, one, place)
    ends = (slice(1), slice(1, length)), (slice(length - 1, length), slice(length - 1))  # a causal one looks back only
    return Dependence(
        mixed,
        positions=changed(*ends[0]) or changed(*ends[1]) if mixed and places is not None else None,
        later=later,
        shift=shift,
        copies=bool(copies),
    )


def _mixed(outputs: _Outputs, three: Tensor, one: int) -> bool | None:
    """Whether a sample's output depends on the other samples or on its place among them; None if it is unknown."""
    two = 1 if one == 2 else 2
    # The last one is compared: it may depend on earlier ones only.
    four = outputs.of([two, two, two, 0])
    if four is None or len(three) * 4 != len(four) * 3 or three.shape[1:] != four.shape[1:]:
        return None
    if _same((three, 3, 2), (four, 4, 3), MIXED):
        return False
    repeated = outputs.of([two, two, two, 0])
    if repeated is None or not _equal(four, repeated):
        return None  # the model keeps a state or a generator
    again = outputs.of([one, one, one, 0])  # as many random numbers, if the model draws some
    if again is not None and not _same((again, 4, 3), (four, 4, 3), MIXED):
        return True
    first = None if outputs.drawn else outputs.of([0, one, one])
    return first is not None and not _same((first, 3, 0), (three, 3, 2), MIXED)


def _same(one: tuple[Tensor, int, int], other: tuple[Tensor, int, int], tolerated: float) -> bool:
    """Whether the outputs of a sample, by the number of samples and its index, are equal: in one of the two orders."""
    return any(_equal(*pair, tolerated) for pair in zip(_of_sample(*one), _of_sample(*other), strict=True))


def _of_sample(outputs: Tensor, samples: int, index: int) -> tuple[Tensor, Tensor]:
    """Its outputs if all of a sample stand together, and if each view or time step has those of all samples."""
    rows = len(outputs) // samples
    return outputs[index * rows : (index + 1) * rows], outputs[index::samples]


def _donor(sequences: Tensor) -> tuple[int, int] | None:
    """The first sample whose second half is not that of sample 0, and where they differ; None if all are alike."""
    half = sequences.shape[1] // 2
    different = (sequences != sequences[0]).reshape(*sequences.shape[:2], -1).any(2)[:, half:].nonzero()
    return (int(different[0, 0]), half + int(different[0, 1])) if len(different) else None


def _equal(one: Tensor, other: Tensor, tolerated: float = EQUAL) -> bool:
    """Whether outputs are equal up to rounding; those that are not finite tell nothing."""
    return not bool((one - other).abs().max() > tolerated * one.abs().max())


def _by_position(outputs: Tensor, rows: int, length: int) -> Tensor | None:
    """Outputs as [rows, positions, ...]; None if they have no positions."""
    if len(outputs) == rows * length:
        return outputs.reshape(rows, length, *outputs.shape[1:])
    dim = next((i for i in (1, 2) if outputs.dim() > i and outputs.shape[i] == length), None)
    return None if dim is None or len(outputs) != rows else outputs.movedim(dim, 1)


def _with_others_in(part: slice) -> Change:
    """A part of the last sequence becomes that of the first one."""

    def change(sequences: Tensor) -> Tensor:
        sequences = sequences.clone()
        sequences[-1, part] = sequences[0, part]
        return sequences

    return change


def _wanted(sequences: Tensor, targets: Any) -> Tensor | None:
    """The targets that are whole numbers, one for each token."""
    found = (t for t in tensors_in(targets) if t.numel() == sequences.numel() and not t.is_floating_point())
    return None if sequences.is_floating_point() else next(found, None)


def _shift(sequences: Tensor, targets: Any) -> int | None:
    """How many positions later in the sequences of tokens the targets are, 0 or 1; None if they are not."""
    wanted = _wanted(sequences, targets)
    if wanted is None:
        return None
    wanted = wanted.reshape(sequences.shape)
    equal = [bool((wanted[:, : wanted.shape[1] - shift] == sequences[:, shift:]).all()) for shift in (0, 1)]
    return equal.index(True) if any(equal) else None
