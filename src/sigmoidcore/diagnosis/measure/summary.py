"""From sums to the measurement: joins passes and ranks, fetches all numbers at once, takes roots.

The numbers of all layers are computed together, in NumPy: one at a time would take longer than the training step.
"""

import dataclasses
import math
import operator
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from sigmoidcore.diagnosis.measure.measurement import BINS, SHUT, STEPS, Layer, Measurement
from sigmoidcore.diagnosis.measure.parameters import Parameters, fetch
from sigmoidcore.diagnosis.measure.recorder import Recorder
from sigmoidcore.diagnosis.measure.statistics import SCALARS, VECTORS, Sums
from sigmoidcore.diagnosis.measure.tracker import LayerCall
from sigmoidcore.observation.process_group import Alone, Ranks

Array = NDArray[np.float64]
Totals = Callable[..., Array]
_DIFFERENTIATED = (
    "whether the gradient explodes (SC102): the loss contains derivatives of the outputs, and their gradients reach "
    "earlier layers past the later ones"
)
_HIDDEN = (
    "the gradient at {} layers whose weights have one, the first of them {}: they also run without gradients "
    "(torch.no_grad, detach), in reentrant activation checkpoints (use use_reentrant=False), or behind a custom "
    "autograd function"
)
_RANKS_DIFFER = "layers of other ranks: the ranks ran different layers, and numbers of layers are those of this rank"


@torch.no_grad()
def summarize(
    recorders: Sequence[Recorder],
    parameters: Parameters,
    ranks: Ranks,
    *,
    step: int | None,
    loss: float | None,
    scale: float,
    seconds: float | None,
    differentiated: bool,
) -> Measurement:
    """The measurement of one step, over all ranks, from its forward passes; the loss was multiplied by `scale`."""
    for recorder in recorders:
        recorder.flush()
    calls, sums, inputs = _joined(recorders)
    device = next((p.device for p in parameters.named.values()), torch.device("cpu"))
    notes = list(dict.fromkeys(note for r in recorders for note in r.notes))
    fingerprint = torch.tensor([_fingerprint(calls, sums)], dtype=torch.float64, device=device)
    together: Ranks = ranks
    if ranks.count > 1 and not ranks.same(fingerprint):
        notes.append(_RANKS_DIFFER)
        together = Alone()
    totals = partial(_total, together, device)
    *facts, of_inputs = _facts([*sums, inputs], totals)
    layers = _layers(calls, facts, factor=1.0 / (scale * together.count))
    weights = parameters.summarize({name for r in recorders for name in r.tracker.used}, scale, ranks)
    samples, any_differentiated = totals(np.array([sum(r.samples for r in recorders), differentiated])).tolist()
    trained = {w.name for w in weights if w.gradient is not None}
    hidden = [x.name for x in layers if x.role == "weights" and x.gradient is None and trained & set(x.weights)]
    if any_differentiated:
        notes.append(_DIFFERENTIATED)
    elif hidden:
        notes.append(_HIDDEN.format(len(hidden), hidden[0]))
    last = next((r.tracker for r in reversed(recorders) if r.tracker.loss_function), None)
    read = last.layers[last.loss_reads].name if last and last.loss_reads >= 0 else None
    return Measurement(
        layers=tuple(layers),
        weights=weights,
        samples=int(samples),
        step=step,
        loss=None if loss is None else float(totals(np.array([loss]))[0]) / together.count,
        loss_function=last.loss_function if last else None,
        loss_reads=next((i for i, call in enumerate(calls) if call.name == read), None),
        input_rms=of_inputs["rms"] if inputs.count else None,
        input_spread=of_inputs["spread"],
        input_nonfinite=of_inputs["nonfinite"],
        ranks=ranks.count,
        seconds=seconds,
        notes=tuple(notes),
        strays=tuple(dict.fromkeys(name for r in recorders for name in r.tracker.strays.places)),
        differentiated=any_differentiated > 0,
    )


def _joined(recorders: Sequence[Recorder]) -> tuple[list[LayerCall], list[Sums], Sums]:
    """The layers of several passes (layers of one name are one), their sums, and those of the inputs."""
    if len(recorders) == 1:
        return recorders[0].tracker.layers, recorders[0].sums, recorders[0].inputs
    calls: list[LayerCall] = []
    sums: list[Sums] = []
    inputs = Sums()
    places: dict[str, int] = {}
    for recorder in recorders:
        inputs.add(recorder.inputs)
        own: list[int] = []  # the places of this pass's layers among all
        for call, of_call in zip(recorder.tracker.layers, recorder.sums, strict=True):
            place = places.setdefault(call.name, len(calls))
            own.append(place)
            if place == len(calls):
                sources = sum(1 << own[i] for i in bits(call.sources))
                calls.append(dataclasses.replace(call, index=place, sources=sources))
                sums.append(Sums())
            sums[place].add(of_call)
    return calls, sums, inputs


def _total(ranks: Ranks, device: torch.device, values: NDArray[Any], operation: str = "SUM") -> Array:
    """Sums, or maxima, over ranks."""
    values = values.astype(np.float64, copy=False)
    return values if ranks.count == 1 else ranks.total(torch.from_numpy(values), device, operation).numpy()


def _facts(sums: Sequence[Sums], totals: Totals) -> list[dict[str, Any]]:
    """The numbers of each layer over all passes and ranks, by the names of `Layer`; gradients are not unscaled."""
    numbers = operator.attrgetter(*SCALARS)
    scalars = np.array(fetch([number for s in sums for number in numbers(s)])).reshape(len(sums), -1)
    of = dict(zip(SCALARS, totals(scalars).T, strict=True))
    with np.errstate(all="ignore"):
        squares, deviations = of["squares"] * of["several"] / of["count"], of["deviations"]
        share = np.minimum(np.sqrt(np.maximum(deviations, 0) / squares), 1)
        # nan where one of them is not finite
        spread = np.where(squares > 0, share, 0) + (squares - squares) + (deviations - deviations)
        columns = {
            "rms": np.sqrt(of["squares"] / of["count"]).tolist(),
            "spread": _known(spread, of["several"]),
            "nonfinite": of["nonfinite"].astype(int).tolist(),
            "mean": (of["total"] / of["sampled"]).tolist(),
            "gradient": _known(np.sqrt(of["gradient"] / of["samples"]), of["arrivals"]),
            "nonfinite_gradient": of["nonfinite_gradient"].astype(int).tolist(),
            "largest": totals(np.array(fetch([s.largest for s in sums])), "MAX").tolist(),
            "rows": of["rows"].astype(int).tolist(),
            "entropy": _known(of["entropy"] / of["queries"], of["queries"]),
        }
    facts = [dict(zip(columns, numbers, strict=True)) for numbers in zip(*columns.values(), strict=True)]
    for i, heads in _vectors(sums, "heads", totals):
        facts[i]["sharp"] = float((heads / of["calls"][i] < SHUT).mean())
    samples = dict(_vectors(sums, "step_samples", totals))
    for i, steps in _vectors(sums, "steps", totals):
        if steps.size:
            facts[i]["steps"] = np.sqrt(steps / np.maximum(samples[i], 1))
    _add_neurons(facts, _vectors(sums, "slopes", totals))
    _add_histograms(facts, sums, totals)
    return facts


def _known(values: Array, where: Array) -> list[float | None]:
    """Numbers; None where they are computed from nothing."""
    return [value if there else None for value, there in zip(values.tolist(), where.tolist(), strict=True)]


def _vectors(sums: Sequence[Sums], name: str, totals: Totals) -> list[tuple[int, Array]]:
    """One kind of vector over the ranks, of every layer that has it, with the layer's place."""
    present = [(i, v) for i, v in enumerate(map(operator.attrgetter(name), sums)) if v is not None]
    if not present:
        return []
    vectors = [v for _, v in present]
    if len({(v.device, v.dtype) for v in vectors}) > 1:
        vectors = [v.to("cpu", torch.float64) for v in vectors]
    flat = totals(torch.cat(vectors).to("cpu", torch.float64).numpy())
    ends = list(accumulate(v.numel() for v in vectors))
    return [(i, flat[end - v.numel() : end]) for (i, v), end in zip(present, ends, strict=True)]


def _add_neurons(facts: list[dict[str, Any]], slopes: list[tuple[int, Array]]) -> None:
    """Add what the mean relative slopes of the neurons tell."""
    slopes = [(i, sums) for i, sums in slopes if sums.size and facts[i]["rows"]]
    if not slopes:
        return
    lengths = np.array([sums.size for _, sums in slopes])
    layer = np.repeat(np.arange(len(slopes)), lengths)
    means = np.concatenate([sums / facts[i]["rows"] for i, sums in slopes])
    columns = np.stack([means, means < SHUT, means == 0])
    shares = np.add.reduceat(columns, np.cumsum(lengths) - lengths, axis=1) / lengths
    histograms = _histograms(means, layer, len(slopes))
    for (i, sums), mean, saturated, dead, histogram in zip(slopes, *shares.tolist(), histograms.tolist(), strict=True):
        facts[i].update(neurons=sums.size, relative_slope=mean, saturated=saturated, dead=dead, slopes=tuple(histogram))


def _add_histograms(facts: list[dict[str, Any]], sums: Sequence[Sums], totals: Totals) -> None:
    """Add the histograms of the outputs, over the range of all ranks."""
    samples = [torch.cat(s.sample) if len(s.sample) > 1 else s.sample[0] if s.sample else torch.zeros(0) for s in sums]
    if len({(x.device, x.dtype) for x in samples}) > 1:
        samples = [x.to("cpu", torch.float32) for x in samples]
    samples.append(samples[0].new_full((1,), math.nan))  # at least one number: the maximum of none is an error
    values = pad_sequence(samples, batch_first=True, padding_value=math.nan)[:-1].cpu().numpy()
    values = np.where(np.isfinite(values), values, np.nan)
    most = np.fmax.reduce(values, axis=1, initial=-math.inf)
    least = np.fmax.reduce(-values, axis=1, initial=-math.inf)
    most, least = totals(np.stack([most, least]), "MAX").astype(values.dtype)
    width = most + least
    width = np.where(width > 0, width, 1)
    counts = _histograms((values + least[:, None]) / width[:, None], np.arange(len(values))[:, None], len(values))
    counts = totals(counts).astype(int)
    for fact, low, high, histogram in zip(facts, (-least).tolist(), most.tolist(), counts.tolist(), strict=True):
        if math.isfinite(low):
            fact.update(low=low, high=high, histogram=tuple(histogram))


def _histograms(values: NDArray[Any], layer: NDArray[Any], layers: int) -> NDArray[Any]:
    """Histograms [layers, BINS] over [0, 1] of the values of each layer; nan is not counted."""
    places = np.minimum(np.maximum(values * BINS, 0), BINS - 1)
    places = np.where(np.isnan(places), BINS, places).astype(int) + layer * (BINS + 1)
    return np.bincount(places.ravel(), minlength=layers * (BINS + 1)).reshape(layers, BINS + 1)[:, :BINS]


def _layers(calls: Sequence[LayerCall], facts: Sequence[dict[str, Any]], factor: float) -> list[Layer]:
    """The layers; sizes of gradients are multiplied by the factor."""
    layers: list[Layer] = []
    for call, of_call in zip(calls, facts, strict=True):
        if of_call["gradient"] is not None:
            of_call["gradient"] *= factor / call.scale
        if "steps" in of_call:
            of_call["steps"] = tuple((_thinned(of_call["steps"]) * factor).tolist())
        for name in ("mean", "rms", "largest", "low", "high"):
            if name in of_call:
                of_call[name] *= call.scale
        sources = tuple(bits(call.sources))
        before = [g for i in sources if (g := layers[i].gradient) is not None]
        absent = _absent(call, of_call)
        layers.append(
            Layer(
                name=call.name,
                module=call.module,
                kind=call.kind,
                role="attention" if call.attends else call.role,
                sources=sources,
                weights=call.weights,
                gate=call.gate,
                shape=tuple(call.data["shape"]),
                dtype=str(call.data["dtype"]).removeprefix("torch."),
                gain=max(before) / of_call["gradient"] if before and of_call["gradient"] else None,
                **{name: value for name, value in of_call.items() if name not in absent},
            )
        )
    return layers


def _absent(call: LayerCall, facts: dict[str, Any]) -> set[str]:
    """Names of numbers that mean nothing for this kind of layer."""
    absent = set()
    if call.data["dtype"] not in (torch.float16, torch.bfloat16):
        absent.add("largest")
    if not call.data.get("shuts"):
        absent.add("saturated")
    if not call.data.get("flat"):
        absent.add("dead")
    if "sharp" not in facts or facts["entropy"] is None or (call.function == "softmax" and not call.attends):
        absent |= {"entropy", "sharp"}
    return absent


def _thinned(steps: Array) -> Array:
    """At most `STEPS` evenly distant steps, the first and the last among them."""
    count = min(STEPS, len(steps))
    return steps[[round(i * (len(steps) - 1) / max(1, count - 1)) for i in range(count)]]


def _fingerprint(calls: Sequence[LayerCall], sums: Sequence[Sums]) -> int:
    """A number that is equal on ranks with equal layers and vectors."""
    lengths = [[len(v) for name in VECTORS if (v := getattr(s, name)) is not None] for s in sums]
    return zlib.crc32(repr([*((call.name, own) for call, own in zip(calls, lengths, strict=True))]).encode())


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
