"""Which inputs an output depends on: a few samples once more, forward only, with other samples or positions changed."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.diagnosis.measure.calls import tensors
from sigmoidcore.diagnosis.measure.measurement import Dependence, Measurement, Subject
from sigmoidcore.diagnosis.measure.one_batch import own_buffers
from sigmoidcore.observation.process_group import Ranks
from sigmoidcore.observation.profile import BATCH_NORMS, run, unchanged

MOST_LAYERS = 300
"""In deeper networks, a few more forward passes take too long."""
FEWEST = 3
"""Samples and positions that a comparison needs."""
EQUAL, SAME_SUM = 1e-4, 3e-6
"""Outputs that differ by less of their size are equal; the same, if only the order of a sum has changed."""

Change = Callable[[Tensor], Tensor]


@torch.no_grad()
def depend(subject: Subject, measurement: Measurement, ranks: Ranks) -> Dependence | None:
    """What the outputs depend on; None if the model does not run on a part of the batch, or normalises by the batch."""
    model, samples = subject.model, measurement.samples
    by_batch = any(isinstance(m, BATCH_NORMS) and m.running_mean is None for m in model.modules())
    if ranks.count > 1 or samples < FEWEST or len(measurement.layers) > MOST_LAYERS or by_batch:
        return None
    # A model may raise anything for a part of its batch.
    with unchanged(model, subject.inputs), own_buffers(model), suppress(Exception):
        model.eval()
        attends = any(x.role == "attention" or x.kind == "MultiheadAttention" for x in measurement.layers)
        return _judged(_Outputs(model, subject.inputs, samples, subject.targets, attends))
    return None


@dataclass
class _Outputs:
    """The outputs of a model for some samples of a batch."""

    model: nn.Module
    inputs: Any
    samples: int
    targets: Any
    attends: bool

    @cached_property
    def sequences(self) -> Tensor | None:
        """The inputs with positions: tokens [samples, positions] or [samples, positions, features].

        With attention, single numbers [samples, positions], too.

        Of several it is the one that holds the targets, else the first.
        """
        own = [x for x in tensors(self.inputs) if x.dim() in (2, 3) and len(x) == self.samples]
        found = [x for x in own if x.dim() == 2 + x.is_floating_point()] or [x for x in own if self.attends]
        known = [x for x in found if x.shape[1] >= FEWEST]
        return next((x for x in known if _shift(x, self.targets) is not None), known[0] if known else None)

    def of(self, rows: Sequence[int], change: Change | None = None) -> Tensor | None:
        """The first output, [rows or a multiple, ...]; `change` is applied to the sequences."""
        sequences = self.sequences
        torch.manual_seed(0)

        def taken(values: Any) -> Any:
            if isinstance(values, Tensor):
                own = values.dim() > 0 and len(values) == self.samples
                part = values[list(rows)] if own else values
                return change(part) if change is not None and values is sequences else part
            if isinstance(values, Mapping):
                return {key: taken(value) for key, value in values.items()}
            if isinstance(values, tuple | list):
                return type(values)(map(taken, values))
            return values

        outputs = (x for x in tensors(run(self.model, taken(self.inputs))) if x.is_floating_point() and x.dim())
        return next((x for x in outputs if len(x) % len(rows) == 0), None)


def _judged(outputs: _Outputs) -> Dependence:
    """All comparisons, each only if it can tell something."""
    sequences, targets, attends = outputs.sequences, outputs.targets, outputs.attends
    donor = None if sequences is None else _donor(sequences)
    one = donor or 1
    two = 1 if one == 2 else 2
    # The last one is compared: it may depend on earlier ones only.
    three, four = outputs.of([one, one, 0]), outputs.of([two, two, two, 0])
    if three is None or four is None or len(three) * 4 != len(four) * 3 or three.shape[1:] != four.shape[1:]:
        return Dependence()
    rows = len(three) // 3
    mixed = not _equal(three[-rows:], four[-rows:])
    again = outputs.of([one, one, one, 0]) if mixed else None  # as many random numbers, if the model draws some
    mixed = again is not None and not _equal(again[-rows:], four[-rows:])
    if sequences is None:
        return Dependence(mixed)
    length = sequences.shape[1]
    places = _by_position(three, 3, length)
    alone = outputs.of([one, one, 0], _with_others_after(1)) if mixed and places is not None else None
    shift = _shift(sequences, targets)
    known = shift is not None and places is not None and donor is not None
    half = outputs.of([one, one, 0], _with_others_after(length // 2)) if known else None
    # The first and the last position, which a model may read its answer from, stay.
    inner = torch.randperm(length - 2, generator=torch.Generator().manual_seed(0)).add(1).tolist()
    order = [0, *inner, length - 1]
    moves = attends and not mixed and order != sorted(order)
    moved = outputs.of([one, one, 0], lambda x: x[:, order]) if moves else None
    expected = three if places is None else places[:, order]
    found = moved if moved is None or places is None else _by_position(moved, 3, length)
    return Dependence(
        mixed,
        positions=None if alone is None else _changed(alone, places, 1),
        ordered=None if found is None else not _equal(found, expected, SAME_SUM),
        scalars=sequences.dim() == 2 and sequences.is_floating_point(),
        later=None if half is None else _changed(half, places, length // 2),
        shift=shift,
    )


def _donor(sequences: Tensor) -> int | None:
    """The first sample whose second half is not that of sample 0; None if all are alike."""
    halves = sequences[:, sequences.shape[1] // 2 :].flatten(1)
    different = (halves != halves[0]).any(1).nonzero()
    return int(different[0]) if len(different) else None


def _equal(one: Tensor, other: Tensor, tolerated: float = EQUAL) -> bool:
    """Whether outputs are equal up to rounding; those that are not finite tell nothing."""
    return not bool((one - other).abs().max() > tolerated * one.abs().max())


def _by_position(outputs: Tensor, rows: int, length: int) -> Tensor | None:
    """Outputs as [rows, positions, ...]; None if they have no positions."""
    if len(outputs) == rows * length:
        return outputs.reshape(rows, length, *outputs.shape[1:])
    dim = next((i for i in (1, 2) if outputs.dim() > i and outputs.shape[i] == length), None)
    return None if dim is None or len(outputs) != rows else outputs.movedim(dim, 1)


def _with_others_after(start: int) -> Change:
    """The last sequence continues, from a position on, as the first one."""

    def change(sequences: Tensor) -> Tensor:
        sequences = sequences.clone()
        sequences[-1, start:] = sequences[0, start:]
        return sequences

    return change


def _changed(outputs: Tensor, before: Tensor | None, end: int) -> bool | None:
    """Whether the outputs of the last sequence have changed before a position."""
    assert before is not None
    places = _by_position(outputs, len(before), before.shape[1])
    return None if places is None else not _equal(places[-1, :end], before[-1, :end])


def _shift(sequences: Tensor, targets: Any) -> int | None:
    """How many positions later in the sequences of tokens the targets are, 0 or 1; None if they are not."""
    found = (t for t in tensors(targets) if t.numel() == sequences.numel() and not t.is_floating_point())
    wanted = next(found, None)
    if wanted is None or sequences.is_floating_point():
        return None
    wanted = wanted.reshape(sequences.shape)
    equal = [bool((wanted[:, : wanted.shape[1] - shift] == sequences[:, shift:]).all()) for shift in (0, 1)]
    return equal.index(True) if any(equal) else None
