"""From sums to the measurement: passes and ranks are joined, everything is fetched at once, roots are taken."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sigmoidcore.diagnosis.measurement import BINS, SHUT, STEPS, Layer, Measurement
from sigmoidcore.diagnosis.recording import Recording
from sigmoidcore.diagnosis.statistics import Sums
from sigmoidcore.diagnosis.tracker import Row
from sigmoidcore.diagnosis.weights import Weights, fetch
from sigmoidcore.ranks import Alone, Ranks


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
) -> Measurement:
    """The measurement of one step.

    Args:
        recordings: its forward passes.
        weights: its parameters.
        ranks: the processes that made it together.
        step: its number.
        loss: its value.
        scale: what the loss was multiplied by.
        seconds: time taken.
    """
    joined = _Joined(recordings)
    rows, sums = joined.rows, [*joined.sums, joined.inputs]
    device = next((p.device for p in weights.parameters.values()), torch.device("cpu"))
    scalars = [getattr(s, name) for s in sums for name in Sums.SCALARS]
    numbers = torch.tensor(fetch(scalars), dtype=torch.float64).reshape(len(sums), len(Sums.SCALARS))
    extremes = [v for s in sums for v in (-s.low, s.high, s.largest)]
    limits = torch.tensor(fetch(extremes), dtype=torch.float64).reshape(len(sums), 3)
    notes = list(dict.fromkeys(note for r in recordings for note in r.notes))
    same = torch.tensor([_fingerprint(rows, sums)], dtype=torch.float64)
    together = ranks.same(same.to(device))
    if not together:
        notes.append("the ranks ran different layers: numbers of layers are those of this rank alone")
    alone = ranks if together else Alone()
    numbers = alone.total(numbers, device)
    limits = alone.total(limits, device, "MAX")
    vectors = {name: _vectors(sums, name, alone, device) for name in Sums.VECTORS}
    opened = _vectors(sums, "open", alone, device, "MAX")
    factor = 1.0 / (scale * (ranks.count if together else 1))
    histograms = _histograms(sums, limits, alone, device)
    described = [
        _Facts(
            dict(zip(Sums.SCALARS, numbers[i].tolist(), strict=True)),
            {name: vectors[name][i] for name in Sums.VECTORS},
            opened[i],
            limits[i].tolist(),
            histograms[i],
        )
        for i in range(len(sums))
    ]
    layers = [_layer(row, facts, factor) for row, facts in zip(rows, described[:-1], strict=True)]
    layers = _with_gains(layers)
    used = {name for r in recordings for name in r.tracker.used}
    found = weights.conclude(used, scale, ranks)
    trained = {w.name for w in found if w.gradient is not None}
    hidden = [x.name for x in layers if x.role == "weights" and x.gradient is None and trained & set(x.weights)]
    if hidden:
        notes.append(
            f"the gradients that reach {len(hidden)} layers were not seen, the first of them {hidden[0]}: they run in "
            "reentrant activation checkpoints (use use_reentrant=False), or a function of the user's own hides them"
        )
    inputs = described[-1]
    last = recordings[-1].tracker if recordings else None
    samples = sum(r.samples for r in recordings) * (ranks.count if together else 1)
    return Measurement(
        layers=tuple(layers),
        weights=found,
        samples=samples,
        step=step,
        loss=loss,
        loss_function=last.loss_function if last else None,
        loss_reads=last.loss_reads if last and last.loss_reads >= 0 else None,
        input_rms=inputs.rms if inputs.scalars["count"] else None,
        input_spread=inputs.spread,
        input_nonfinite=int(inputs.scalars["nonfinite"]),
        ranks=ranks.count,
        seconds=seconds,
        notes=tuple(notes),
    )


class _Joined:
    """The layers of several passes: those of one name are one."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self.rows: list[Row] = []
        self.sums: list[Sums] = []
        self.inputs = Sums()
        places: dict[str, int] = {}
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


class _Facts:
    """The numbers of one layer, over all passes and ranks."""

    def __init__(
        self,
        scalars: dict[str, float],
        vectors: dict[str, Tensor | None],
        opened: Tensor | None,
        limits: list[float],
        histogram: tuple[int, ...] | None,
    ) -> None:
        self.scalars = scalars
        self.vectors = vectors
        self.opened = opened
        self.low, self.high, self.largest = -limits[0], limits[1], limits[2]
        self.histogram = histogram

    @property
    def rms(self) -> float:
        return _root(self.scalars["squares"], self.scalars["count"])

    @property
    def spread(self) -> float | None:
        several, seen = self.scalars["several"], self.scalars["seen_squares"]
        if not several or not self.scalars["seen"]:
            return None
        squares = seen * several / self.scalars["seen"]
        return math.sqrt(self.scalars["deviations"] / squares) if squares > 0 else 0.0 if squares == 0 else math.nan


def _layer(row: Row, facts: _Facts, factor: float) -> Layer:
    numbers = facts.scalars
    slopes, opened = facts.vectors["slopes"], facts.opened
    means = None if slopes is None or not numbers["rows"] else slopes / numbers["rows"]
    heads = facts.vectors["heads"]
    attends = row.attends or row.function != "softmax"
    knows_attention = heads is not None and numbers["queries"] > 0 and attends
    seen = math.isfinite(facts.low) and math.isfinite(facts.high)
    dtype = str(row.data["dtype"]).removeprefix("torch.")
    return Layer(
        name=row.name,
        module=row.module,
        kind=row.kind,
        role="attention" if row.attends else row.role,
        sources=tuple(bits(row.sources)),
        weights=row.weights,
        gate=row.gate,
        shape=row.data["shape"],
        dtype=dtype,
        gradient=_root(numbers["gradient"], numbers["samples"]) * factor if numbers["arrivals"] else None,
        nonfinite=int(numbers["nonfinite"]),
        nonfinite_gradient=int(numbers["nonfinite_gradient"]),
        mean=numbers["total"] / numbers["seen"] if numbers["seen"] else math.nan,
        rms=facts.rms,
        spread=facts.spread,
        largest=facts.largest if dtype in ("float16", "bfloat16") else None,
        rows=int(numbers["rows"]),
        neurons=None if means is None else len(means),
        relative_slope=None if means is None else float(means.mean()),
        saturated=None if means is None or not row.data["shuts"] else float((means < SHUT).double().mean()),
        dead=None if opened is None else float((opened <= 0).double().mean()),
        slopes=None if means is None else _counts(means, 0.0, 1.0),
        entropy=numbers["entropy"] / numbers["queries"] if knows_attention else None,
        sharp=float((heads / numbers["looks"] < SHUT).double().mean())
        if knows_attention and heads is not None
        else None,
        steps=_steps(facts, factor),
        histogram=facts.histogram,
        low=facts.low if seen else None,
        high=facts.high if seen else None,
    )


def _steps(facts: _Facts, factor: float) -> tuple[float, ...] | None:
    squares, samples = facts.vectors["steps"], facts.vectors["step_samples"]
    if squares is None or samples is None or not len(squares):
        return None
    sizes = ((squares / samples.clamp_min(1)).sqrt() * factor).tolist()
    count = min(STEPS, len(sizes))
    return tuple(sizes[round(i * (len(sizes) - 1) / max(1, count - 1))] for i in range(count))


def _with_gains(layers: list[Layer]) -> list[Layer]:
    result = []
    for layer in layers:
        before = [layers[i].gradient for i in layer.sources]
        known = [g for g in before if g is not None]
        gain = max(known) / layer.gradient if known and layer.gradient else None
        result.append(dataclasses.replace(layer, gain=gain) if gain is not None else layer)
    return result


def _vectors(
    sums: Sequence[Sums], name: str, ranks: Ranks, device: torch.device, op: str = "SUM"
) -> list[Tensor | None]:
    """One kind of vector of all layers, over the ranks, on the CPU in float64."""
    present = [(i, v) for i, s in enumerate(sums) if (v := getattr(s, name)) is not None]
    result: list[Tensor | None] = [None] * len(sums)
    if not present:
        return result
    flat = torch.cat([v.detach().to("cpu", torch.float64) for _, v in present])
    parts = torch.split(ranks.total(flat, device, op), [len(v) for _, v in present])
    for (i, _), part in zip(present, parts, strict=True):
        result[i] = part
    return result


def _histograms(
    sums: Sequence[Sums], limits: Tensor, ranks: Ranks, device: torch.device
) -> list[tuple[int, ...] | None]:
    counts = torch.zeros(len(sums), BINS, dtype=torch.float64)
    for i, s in enumerate(sums):
        low, high = -float(limits[i, 0]), float(limits[i, 1])
        if s.kept and math.isfinite(low) and math.isfinite(high):
            values = torch.cat([k.detach().to("cpu", torch.float64) for k in s.kept])
            counts[i] = torch.tensor(_counts(values[torch.isfinite(values)], low, high), dtype=torch.float64)
    counts = ranks.total(counts, device)
    return [tuple(int(c) for c in row) if sum(row) else None for row in counts.tolist()]


def _counts(values: Tensor, low: float, high: float) -> tuple[int, ...]:
    """Histogram in `BINS` bins; all in the first if there is no width."""
    if high <= low:
        return (len(values), *[0] * (BINS - 1))
    places = ((values - low) * (BINS / (high - low))).floor().clamp(0, BINS - 1)
    places = places[torch.isfinite(places)]
    return tuple(torch.bincount(places.long(), minlength=BINS).tolist())


def _root(squares: float, count: float) -> float:
    return math.sqrt(squares / count) if count and squares >= 0 else math.nan


def _fingerprint(rows: Sequence[Row], sums: Sequence[Sums]) -> float:
    """A number that is the same where layers and vectors are the same."""
    value = 0
    for row, of_row in zip(rows, sums, strict=False):
        lengths = [len(v) for name in (*Sums.VECTORS, "open") if (v := getattr(of_row, name)) is not None]
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
