"""From sums to the measurement: passes and ranks are joined, everything is fetched at once, roots are taken."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sigmoidcore.diagnosis.measurement import BINS, SHUT, STEPS, Layer, Measurement
from sigmoidcore.diagnosis.recording import Recording
from sigmoidcore.diagnosis.statistics import SCALARS, VECTORS, Sums
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
        loss: its value; the mean of the ranks' values is that of the measurement.
        scale: what the loss was multiplied by.
        seconds: time taken.
    """
    for recording in recordings:
        recording.flush()
    joined = _Joined(recordings)
    rows, sums = joined.rows, [*joined.sums, joined.inputs]
    device = next((p.device for p in weights.parameters.values()), torch.device("cpu"))
    notes = list(dict.fromkeys(note for r in recordings for note in r.notes))
    together = ranks.same(torch.tensor([_fingerprint(rows, sums)], dtype=torch.float64, device=device))
    if not together:
        notes.append("the ranks ran different layers: numbers of layers are those of this rank alone")
    over = _Over(ranks if together else Alone(), device)
    facts = _facts(sums, over)
    factor = 1.0 / (scale * over.count)
    gradients = [_gradient(row, of_row, factor) for row, of_row in zip(rows, facts, strict=False)]
    layers = []
    for row, of_row, gradient in zip(rows, facts, gradients, strict=False):
        before = [g for g in (gradients[i] for i in bits(row.sources)) if g is not None]
        gain = max(before) / gradient if before and gradient else None
        layers.append(_layer(row, of_row, gradient, gain, factor))
    used = {name for r in recordings for name in r.tracker.used}
    found = weights.conclude(used, scale, ranks)
    trained = {w.name for w in found if w.gradient is not None}
    hidden = [x.name for x in layers if x.role == "weights" and x.gradient is None and trained & set(x.weights)]
    if hidden:
        notes.append(
            f"no gradient was seen at {len(hidden)} layers whose weights have one, the first of them {hidden[0]}: they "
            "also run without gradients (torch.no_grad, detach), in reentrant activation checkpoints (use "
            "use_reentrant=False), or behind a function of the user's own"
        )
    inputs = facts[-1]
    last = next((r.tracker for r in reversed(recordings) if r.tracker.loss_function), None)
    read = last.rows[last.loss_reads].name if last and last.loss_reads >= 0 else None
    samples = int(over.total(torch.tensor([float(sum(r.samples for r in recordings))])))
    return Measurement(
        layers=tuple(layers),
        weights=found,
        samples=samples,
        step=step,
        loss=None if loss is None else float(over.total(torch.tensor([loss], dtype=torch.float64))) / over.count,
        loss_function=last.loss_function if last else None,
        loss_reads=next((i for i, row in enumerate(rows) if row.name == read), None),
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

    def total(self, values: Tensor, op: str = "SUM") -> Tensor:
        return self.ranks.total(values, self._device, op)


@dataclasses.dataclass
class _Facts:
    """The numbers of one layer, over all passes and ranks."""

    scalars: dict[str, float]
    heads: Tensor | None
    steps: Tensor | None
    step_samples: Tensor | None
    largest: float
    neurons: int | None = None
    relative_slope: float | None = None
    saturated: float | None = None
    dead: float | None = None
    slopes: tuple[int, ...] | None = None
    histogram: tuple[int, ...] | None = None
    low: float | None = None
    high: float | None = None

    @property
    def rms(self) -> float:
        return _root(self.scalars["squares"], self.scalars["count"])

    @property
    def spread(self) -> float | None:
        several = self.scalars["several"]
        if not several:
            return None
        squares, deviations = self.scalars["squares"] * several / self.scalars["count"], self.scalars["deviations"]
        if not math.isfinite(squares) or not math.isfinite(deviations):
            return math.nan
        return min(1.0, math.sqrt(max(0.0, deviations) / squares)) if squares > 0 else 0.0


def _facts(sums: Sequence[Sums], over: _Over) -> list[_Facts]:
    """Everything at once: a number at a time would take longer than the training step."""
    scalars = torch.tensor(fetch([getattr(s, name) for s in sums for name in SCALARS]), dtype=torch.float64)
    scalars = over.total(scalars).reshape(len(sums), len(SCALARS))
    largest = over.total(torch.tensor(fetch([s.largest for s in sums]), dtype=torch.float64), "MAX").tolist()
    vectors = {name: _vectors(sums, name, over) for name in VECTORS}
    facts = [
        _Facts(
            dict(zip(SCALARS, numbers, strict=True)),
            vectors["heads"][i],
            vectors["steps"][i],
            vectors["step_samples"][i],
            largest[i],
        )
        for i, numbers in enumerate(scalars.tolist())
    ]
    _add_neurons(facts, vectors["slopes"])
    _add_histograms(facts, sums, over)
    return facts


def _add_neurons(facts: list[_Facts], slopes: list[Tensor | None]) -> None:
    present = [i for i, s in enumerate(slopes) if s is not None and len(s) and facts[i].scalars["rows"]]
    if not present:
        return
    lengths = torch.tensor([len(slopes[i]) for i in present])  # type: ignore[arg-type]
    rows = torch.tensor([facts[i].scalars["rows"] for i in present], dtype=torch.float64)
    of = torch.repeat_interleave(torch.arange(len(present)), lengths)
    means = torch.cat([slopes[i] for i in present]) / rows[of]  # type: ignore[misc]
    counts = _counts(means, of, len(present))
    shares = [_by_row(x, of, len(present)) / lengths for x in (means, (means < SHUT).double(), (means == 0).double())]
    for i, n, mean, shut, dead, histogram in zip(
        present, lengths.tolist(), *(share.tolist() for share in shares), counts.tolist(), strict=True
    ):
        fact = facts[i]
        fact.neurons, fact.relative_slope, fact.saturated, fact.dead = n, mean, shut, dead
        fact.slopes = tuple(histogram)


def _add_histograms(facts: list[_Facts], sums: Sequence[Sums], over: _Over) -> None:
    kept = [torch.cat(s.kept) if len(s.kept) > 1 else s.kept[0] if s.kept else torch.zeros(0) for s in sums]
    lengths = torch.tensor([len(k) for k in kept])
    if len({(k.device, k.dtype) for k in kept}) > 1:
        kept = [k.to("cpu", torch.float32) for k in kept]
    values = torch.cat(kept).cpu()
    of = torch.repeat_interleave(torch.arange(len(kept)), lengths)
    if not bool(torch.isfinite(values).all()):
        finite = torch.isfinite(values)
        values, of = values[finite], of[finite]
    limits = torch.full((2, len(kept)), -math.inf, dtype=values.dtype)
    limits[0].scatter_reduce_(0, of, -values, "amax")
    limits[1].scatter_reduce_(0, of, values, "amax")
    limits = over.total(limits, "MAX")
    low, width = -limits[0], (limits[1] + limits[0]).clamp_min(0)
    width = torch.where(width > 0, width, 1.0)
    scaled = (values - low[of].to(values)) / width[of].to(values)
    counts = over.total(_counts(scaled, of, len(kept)).double())
    for fact, least, most, histogram in zip(facts, low.tolist(), limits[1].tolist(), counts.tolist(), strict=True):
        if math.isfinite(least):
            fact.low, fact.high, fact.histogram = least, most, tuple(int(c) for c in histogram)


def _counts(values: Tensor, of: Tensor, rows: int) -> Tensor:
    """Histograms [rows, BINS] over [0, 1] of the values of each row."""
    places = (values * BINS).nan_to_num(0.0).clamp(0, BINS - 1).long() + of * BINS
    return torch.bincount(places, minlength=rows * BINS).reshape(rows, BINS)


def _by_row(values: Tensor, of: Tensor, rows: int) -> Tensor:
    return torch.zeros(rows, dtype=values.dtype).index_add_(0, of, values)


def _gradient(row: Row, facts: _Facts, factor: float) -> float | None:
    numbers = facts.scalars
    return _root(numbers["gradient"], numbers["samples"]) * factor / row.scale if numbers["arrivals"] else None


def _layer(row: Row, facts: _Facts, gradient: float | None, gain: float | None, factor: float) -> Layer:
    numbers = facts.scalars
    attends = facts.heads is not None and numbers["queries"] > 0 and (row.attends or row.function != "softmax")
    dtype = str(row.data["dtype"]).removeprefix("torch.")
    return Layer(
        name=row.name,
        module=row.module,
        kind=row.kind,
        role="attention" if row.attends else row.role,
        sources=tuple(bits(row.sources)),
        weights=row.weights,
        gate=row.gate,
        shape=tuple(row.data["shape"]),
        dtype=dtype,
        gradient=gradient,
        gain=gain,
        nonfinite=int(numbers["nonfinite"]),
        nonfinite_gradient=int(numbers["nonfinite_gradient"]),
        mean=row.scale * numbers["total"] / numbers["seen"] if numbers["seen"] else math.nan,
        rms=row.scale * facts.rms,
        spread=facts.spread,
        largest=row.scale * facts.largest if dtype in ("float16", "bfloat16") else None,
        rows=int(numbers["rows"]),
        neurons=facts.neurons,
        relative_slope=facts.relative_slope,
        saturated=facts.saturated if row.data.get("shuts") else None,
        dead=facts.dead if row.data.get("flat") else None,
        slopes=facts.slopes,
        entropy=numbers["entropy"] / numbers["queries"] if attends else None,
        sharp=float((facts.heads / numbers["looks"] < SHUT).double().mean())
        if attends and facts.heads is not None
        else None,
        steps=_steps(facts, factor),
        histogram=facts.histogram,
        low=None if facts.low is None else row.scale * facts.low,
        high=None if facts.high is None else row.scale * facts.high,
    )


def _steps(facts: _Facts, factor: float) -> tuple[float, ...] | None:
    squares, samples = facts.steps, facts.step_samples
    if squares is None or samples is None or not len(squares):
        return None
    sizes = ((squares / samples.clamp_min(1)).sqrt() * factor).tolist()
    count = min(STEPS, len(sizes))
    return tuple(sizes[round(i * (len(sizes) - 1) / max(1, count - 1))] for i in range(count))


def _vectors(sums: Sequence[Sums], name: str, over: _Over, op: str = "SUM") -> list[Tensor | None]:
    """One kind of vector of all layers, over the ranks, on the CPU in float64."""
    present = [(i, v) for i, s in enumerate(sums) if (v := getattr(s, name)) is not None]
    result: list[Tensor | None] = [None] * len(sums)
    if present:
        flat = torch.cat([v for _, v in present]) if len({(v.device, v.dtype) for _, v in present}) == 1 else None
        flat = torch.cat([v.to("cpu", torch.float64) for _, v in present]) if flat is None else flat
        parts = torch.split(over.total(flat.to("cpu", torch.float64), op), [len(v) for _, v in present])
        for (i, _), part in zip(present, parts, strict=True):
            result[i] = part
    return result


def _root(squares: float, count: float) -> float:
    return math.sqrt(squares / count) if count and squares >= 0 else math.nan


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
