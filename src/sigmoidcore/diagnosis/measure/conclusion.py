"""From sums to the measurement: passes and ranks are joined, everything is fetched at once, roots are taken."""

import dataclasses
import math
import operator
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from sigmoidcore.diagnosis.measure.measurement import BINS, SHUT, STEPS, Layer, Measurement
from sigmoidcore.diagnosis.measure.parameters import Weights, fetch
from sigmoidcore.diagnosis.measure.recording import Recording
from sigmoidcore.diagnosis.measure.statistics import SCALARS, VECTORS, Sums
from sigmoidcore.diagnosis.measure.tracker import Row
from sigmoidcore.observation.process_group import Alone, Ranks

Array = NDArray[np.float64]


@torch.no_grad()
def conclude(
    recordings: Sequence[Recording],
    weights: Weights,
    ranks: Ranks,
    *,
    step: int | None,
    loss: float | None,
    scale: float,
    seconds: float | None,
    differentiated: bool,
) -> Measurement:
    """The measurement of one step.

    Args:
        recordings: its forward passes.
        weights: its parameters.
        ranks: the processes that made it together.
        step: its number.
        loss: its value; the mean of the ranks' values is that of the measurement.
        scale: what the loss was multiplied by.
        seconds: time taken.
        differentiated: whether the loss contains derivatives of the outputs.
    """
    for recording in recordings:
        recording.flush()
    joined = _Joined(recordings)
    rows, sums = joined.rows, [*joined.sums, joined.inputs]
    device = next((p.device for p in weights.parameters.values()), torch.device("cpu"))
    notes = list(dict.fromkeys(note for r in recordings for note in r.notes))
    together = ranks.count == 1 or ranks.same(
        torch.tensor([_fingerprint(rows, sums)], dtype=torch.float64, device=device)
    )
    if not together:
        notes.append("the ranks ran different layers: numbers of layers are those of this rank alone")
    over = _Over(ranks if together else Alone(), device)
    *facts, inputs = _facts(sums, over)
    layers = _layers(rows, facts, factor=1.0 / (scale * over.count))
    used = {name for r in recordings for name in r.tracker.used}
    found = weights.conclude(used, scale, ranks)
    trained = {w.name for w in found if w.gradient is not None}
    samples, ranks_differentiated = map(int, over.total(np.array([sum(r.samples for r in recordings), differentiated])))
    hidden = [x.name for x in layers if x.role == "weights" and x.gradient is None and trained & set(x.weights)]
    if ranks_differentiated:
        notes.append(
            "whether the gradient explodes (SC102): the loss contains derivatives of the outputs, and gradients reach "
            "a layer also through these, past the layers behind it"
        )
    elif hidden:
        notes.append(
            f"no gradient was seen at {len(hidden)} layers whose weights have one, the first of them {hidden[0]}: they "
            "also run without gradients (torch.no_grad, detach), in reentrant activation checkpoints (use "
            "use_reentrant=False), or behind a function of the user's own"
        )
    last = next((r.tracker for r in reversed(recordings) if r.tracker.loss_function), None)
    read = last.rows[last.loss_reads].name if last and last.loss_reads >= 0 else None
    return Measurement(
        layers=tuple(layers),
        weights=found,
        samples=samples,
        step=step,
        loss=None if loss is None else float(over.total(np.array([loss]))[0]) / over.count,
        loss_function=last.loss_function if last else None,
        loss_reads=next((i for i, row in enumerate(rows) if row.name == read), None),
        input_rms=inputs.rms if inputs.count else None,
        input_spread=inputs.spread,
        input_nonfinite=inputs.nonfinite,
        ranks=ranks.count,
        seconds=seconds,
        notes=tuple(notes),
        strays=tuple(dict.fromkeys(name for r in recordings for name in r.tracker.strays)),
        differentiated=ranks_differentiated > 0,
    )


class _Joined:
    """The layers of several passes: those of one name are one."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self.rows: list[Row] = []
        self.sums: list[Sums] = []
        self.inputs = Sums()
        places: dict[str, int] = {}
        if len(recordings) == 1:
            self.rows, self.sums, self.inputs = recordings[0].tracker.rows, recordings[0].sums, recordings[0].inputs
            return
        for recording in recordings:
            self.inputs.add(recording.inputs)
            own: list[int] = []  # where the rows of this pass are among all
            for row, sums in zip(recording.tracker.rows, recording.sums, strict=True):
                place = places.setdefault(row.name, len(self.rows))
                own.append(place)
                if place == len(self.rows):
                    sources = sum(1 << own[i] for i in bits(row.sources))
                    self.rows.append(dataclasses.replace(row, index=place, sources=sources))
                    self.sums.append(Sums())
                self.sums[place].add(sums)


class _Over:
    """The ranks that numbers are taken over."""

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self.ranks = ranks
        self.count = ranks.count
        self._device = device

    def total(self, values: NDArray[Any], op: str = "SUM") -> Array:
        values = values.astype(np.float64, copy=False)
        if self.count == 1:
            return values
        return self.ranks.total(torch.from_numpy(values), self._device, op).numpy()


@dataclasses.dataclass(slots=True)
class _Facts:
    """The numbers of one layer, over all passes and ranks; `Layer` and `Sums` have the meaning of the fields."""

    count: float
    rms: float
    spread: float | None
    nonfinite: int
    mean: float
    size: float | None
    """Of the gradient, not unscaled."""
    nonfinite_gradient: int
    largest: float
    rows: float
    entropy: float | None
    looks: float
    heads: Array | None = None
    steps: Array | None = None
    step_samples: Array | None = None
    neurons: int | None = None
    relative_slope: float | None = None
    saturated: float | None = None
    dead: float | None = None
    slopes: tuple[int, ...] | None = None
    histogram: tuple[int, ...] | None = None
    low: float | None = None
    high: float | None = None


def _facts(sums: Sequence[Sums], over: _Over) -> list[_Facts]:
    """Everything at once: a number at a time would take longer than the training step.

    In NumPy, for the numbers are on the CPU by now, and few: a call of PyTorch's takes five times as long.
    """
    scalars = np.array(fetch([number for s in sums for number in _scalars(s)])).reshape(len(sums), -1)
    of = dict(zip(SCALARS, over.total(scalars).T, strict=True))
    largest = over.total(np.array(fetch([s.largest for s in sums])), "MAX")
    with np.errstate(all="ignore"):
        squares, deviations = of["squares"] * of["several"] / of["count"], of["deviations"]
        share = np.minimum(np.sqrt(np.maximum(deviations, 0) / squares), 1)
        # nan where one of them is not finite
        spread = np.where(squares > 0, share, 0) + (squares - squares) + (deviations - deviations)
        columns = (
            of["count"].tolist(),
            np.sqrt(of["squares"] / of["count"]).tolist(),
            _known(spread, of["several"]),
            of["nonfinite"].astype(int).tolist(),
            (of["total"] / of["seen"]).tolist(),
            _known(np.sqrt(of["gradient"] / of["samples"]), of["arrivals"]),
            of["nonfinite_gradient"].astype(int).tolist(),
            largest.tolist(),
            of["rows"].tolist(),
            _known(of["entropy"] / of["queries"], of["queries"]),
            of["looks"].tolist(),
        )
        facts = [_Facts(*numbers) for numbers in zip(*columns, strict=True)]
        for name in ("heads", "steps", "step_samples"):
            for i, vector in _vectors(sums, name, over):
                setattr(facts[i], name, vector)
        _add_neurons(facts, _vectors(sums, "slopes", over))
        _add_histograms(facts, sums, over)
    return facts


_scalars = operator.attrgetter(*SCALARS)


def _known(values: Array, where: Array) -> list[float | None]:
    """Numbers; None where there is nothing to take them from."""
    return [value if there else None for value, there in zip(values.tolist(), where.tolist(), strict=True)]


def _add_neurons(facts: list[_Facts], slopes: list[tuple[int, Array]]) -> None:
    slopes = [(i, sums) for i, sums in slopes if sums.size and facts[i].rows]
    if not slopes:
        return
    lengths = np.array([sums.size for _, sums in slopes])
    of = np.repeat(np.arange(len(slopes)), lengths)
    means = np.concatenate([sums / facts[i].rows for i, sums in slopes])
    columns = np.stack([means, means < SHUT, means == 0])
    shares = np.add.reduceat(columns, np.cumsum(lengths) - lengths, axis=1) / lengths
    counts = _counts(means, of, len(slopes))
    for (i, sums), mean, shut, dead, histogram in zip(slopes, *shares.tolist(), counts.tolist(), strict=True):
        fact = facts[i]
        fact.neurons, fact.relative_slope, fact.saturated, fact.dead = sums.size, mean, shut, dead
        fact.slopes = tuple(histogram)


def _add_histograms(facts: list[_Facts], sums: Sequence[Sums], over: _Over) -> None:
    kept = [torch.cat(s.kept) if len(s.kept) > 1 else s.kept[0] if s.kept else torch.zeros(0) for s in sums]
    if len({(k.device, k.dtype) for k in kept}) > 1:
        kept = [k.to("cpu", torch.float32) for k in kept]
    kept.append(kept[0].new_full((1,), math.nan))  # one number at least: the largest of none is an error
    values = pad_sequence(kept, batch_first=True, padding_value=math.nan)[:-1].cpu().numpy()
    values = np.where(np.isfinite(values), values, np.nan)
    most = np.fmax.reduce(values, axis=1, initial=-math.inf)
    least = np.fmax.reduce(-values, axis=1, initial=-math.inf)
    most, least = over.total(np.stack([most, least]), "MAX").astype(values.dtype)
    width = most + least
    width = np.where(width > 0, width, 1)
    counts = _counts((values + least[:, None]) / width[:, None], np.arange(len(values))[:, None], len(values))
    for fact, low, high, histogram in zip(
        facts, (-least).tolist(), most.tolist(), over.total(counts).astype(int).tolist(), strict=True
    ):
        if math.isfinite(low):
            fact.low, fact.high, fact.histogram = low, high, tuple(histogram)


def _counts(values: NDArray[Any], of: NDArray[Any], rows: int) -> NDArray[Any]:
    """Histograms [rows, BINS] over [0, 1] of the values of each row; nan is not counted."""
    places = np.minimum(np.maximum(values * BINS, 0), BINS - 1)
    places = np.where(np.isnan(places), BINS, places).astype(int) + of * (BINS + 1)
    return np.bincount(places.ravel(), minlength=rows * (BINS + 1)).reshape(rows, BINS + 1)[:, :BINS]


def _layers(rows: Sequence[Row], facts: Sequence[_Facts], factor: float) -> list[Layer]:
    sources = [tuple(bits(row.sources)) for row in rows]
    gradients = [None if f.size is None else f.size * factor / row.scale for row, f in zip(rows, facts, strict=True)]
    layers = []
    for row, of_row, gradient, places in zip(rows, facts, gradients, sources, strict=True):
        before = [g for g in (gradients[i] for i in places) if g is not None]
        gain = max(before) / gradient if before and gradient else None
        layers.append(_layer(row, of_row, places, gradient, gain, factor))
    return layers


def _layer(
    row: Row, facts: _Facts, sources: tuple[int, ...], gradient: float | None, gain: float | None, factor: float
) -> Layer:
    attends = facts.heads is not None and (row.attends or row.function != "softmax")
    dtype = str(row.data["dtype"]).removeprefix("torch.")
    return Layer(
        name=row.name,
        module=row.module,
        kind=row.kind,
        role="attention" if row.attends else row.role,
        sources=sources,
        weights=row.weights,
        gate=row.gate,
        shape=tuple(row.data["shape"]),
        dtype=dtype,
        gradient=gradient,
        gain=gain,
        nonfinite=facts.nonfinite,
        nonfinite_gradient=facts.nonfinite_gradient,
        mean=row.scale * facts.mean,
        rms=row.scale * facts.rms,
        spread=facts.spread,
        largest=row.scale * facts.largest if dtype in ("float16", "bfloat16") else None,
        rows=int(facts.rows),
        neurons=facts.neurons,
        relative_slope=facts.relative_slope,
        saturated=facts.saturated if row.data.get("shuts") else None,
        dead=facts.dead if row.data.get("flat") else None,
        slopes=facts.slopes,
        entropy=facts.entropy if attends else None,
        sharp=_sharp(facts) if attends else None,
        steps=_steps(facts, factor),
        histogram=facts.histogram,
        low=None if facts.low is None else row.scale * facts.low,
        high=None if facts.high is None else row.scale * facts.high,
    )


def _sharp(facts: _Facts) -> float | None:
    if facts.heads is None or facts.entropy is None:
        return None
    return float((facts.heads / facts.looks < SHUT).mean())


def _steps(facts: _Facts, factor: float) -> tuple[float, ...] | None:
    squares, samples = facts.steps, facts.step_samples
    if squares is None or samples is None or not len(squares):
        return None
    sizes = (np.sqrt(squares / np.maximum(samples, 1)) * factor).tolist()
    count = min(STEPS, len(sizes))
    return tuple(sizes[round(i * (len(sizes) - 1) / max(1, count - 1))] for i in range(count))


def _vectors(sums: Sequence[Sums], name: str, over: _Over) -> list[tuple[int, Array]]:
    """One kind of vector of all layers that have it, over the ranks, each with its layer."""
    present = [(i, v) for i, v in enumerate(map(operator.attrgetter(name), sums)) if v is not None]
    if not present:
        return []
    vectors = [v for _, v in present]
    if len({(v.device, v.dtype) for v in vectors}) > 1:
        vectors = [v.to("cpu", torch.float64) for v in vectors]
    flat = over.total(torch.cat(vectors).to("cpu", torch.float64).numpy())
    ends = list(accumulate(v.numel() for v in vectors))
    return [(i, flat[end - v.numel() : end]) for (i, v), end in zip(present, ends, strict=True)]


def _fingerprint(rows: Sequence[Row], sums: Sequence[Sums]) -> float:
    """A number that is the same where layers and vectors are the same."""
    value = 0
    for row, of_row in zip(rows, sums, strict=False):
        lengths = [len(v) for name in VECTORS if (v := getattr(of_row, name)) is not None]
        for byte in f"{row.name}/{lengths}".encode():
            value = (value * 257 + byte) % 999_999_937
    return float(value)


def bits(number: int) -> list[int]:
    """Places of the bits that are set, ascending.

    Example:
        >>> bits(0b1101)
        [0, 2, 3]
    """
    found = []
    while number:
        lowest = number & -number
        found.append(lowest.bit_length() - 1)
        number ^= lowest
    return found
