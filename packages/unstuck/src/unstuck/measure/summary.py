"""From sums to the measurement: joins passes and ranks, fetches all numbers at once, applies the formulas.

The numbers of all layers are computed together, in NumPy: one at a time would take longer than the training step.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unstuck._torch.modes import unfollowed
from unstuck.language import _
from unstuck.measure import comparisons, losses
from unstuck.measure.activations import ACTIVATIONS
from unstuck.measure.calls import LOSSES, softmax_dim
from unstuck.measure.flow import bits
from unstuck.measure.forward_pass import ForwardPass
from unstuck.measure.layer_call import LayerCall
from unstuck.measure.measurement import BINS, SHUT, Layer, Measurement, Swap
from unstuck.measure.parameters import Parameters
from unstuck.measure.statistics import SCALARS, Sums, fetch
from unstuck.measure.wiring import wire
from unstuck.observation.process_group import Alone, Ranks
from unstuck.step.recorder import TRANSFORMS
from unstuck.wording import listed

Array = NDArray[np.float64]
Totals = Callable[..., Array]
"""Sums, or maxima, over the ranks."""


@unfollowed
@torch.no_grad()
def summarize(
    passes: Sequence[ForwardPass], parameters: Parameters, ranks: Ranks, *, scale: float, differentiated: bool
) -> Measurement:
    """The measurement of one step, over all ranks, from its forward passes; the loss was multiplied by `scale`."""
    for one in passes:
        one.batches.flush()
        wire(one.flow, one.training)
    calls, inputs, places = _joined(passes)
    device = next((p.device for p in parameters.named.values()), torch.device("cpu"))
    notes = list(dict.fromkeys(note for r in passes for note in r.notes))
    if any(TRANSFORMS in r.step.unfollowed for r in passes):
        notes.append(_("calls inside torch.func.vmap, grad and the like"))
    together: Ranks = ranks
    if ranks.count > 1 and not ranks.same(torch.tensor([_fingerprint(calls)], dtype=torch.float64, device=device)):
        why = _("layers of other ranks: the ranks ran different layers, and numbers of layers are those of this rank")
        notes.append(why)
        together = Alone()
    totals = partial(_total, together, device)
    *facts, of_inputs = _facts([*(call.sums for call in calls), inputs], totals)
    layers = _layers(calls, facts, factor=1.0 / (scale * together.count))
    weights = parameters.summarize({name for r in passes for name in r.used}, scale, ranks)
    values = list({node: value for r in passes for node, value in r.ends_at if value is not None}.values())
    sums = np.array([sum(r.samples for r in passes), differentiated, sum(fetch(values))])
    samples, any_differentiated, loss = totals(sums).tolist()
    trained = {w.name for w in weights if w.gradient is not None}
    hidden = [x.name for x in layers if x.role == "weights" and x.gradient is None and trained & set(x.weights)]
    if any_differentiated:
        why = _(
            "whether the gradient explodes (US102): the loss contains derivatives of the outputs, and their gradients "
            "reach earlier layers past the later ones"
        )
        notes.append(why)
    elif hidden:
        why = _(
            "the gradient at {names}, whose weights have one: it is hidden where layers also run without gradients "
            "(torch.no_grad, detach), in reentrant activation checkpoints (use use_reentrant=False), and behind a "
            "custom autograd function",
            names=listed(hidden),
        )
        notes.append(why)
    if trained and not layers and not notes:
        why = _(
            "any layer, although parameters get gradients: calls of PyTorch from Python are measured, calls inside "
            "TorchScript, C++, Triton or a torch.autograd.Function are not"
        )
        notes.append(why)
    ends = {loss: None for r in passes for loss, _value in r.ends_at}
    constants = (losses.constant_term(r.flow, loss) for r in passes for loss, _value in r.ends_at)
    added = {node for loss in ends for node in losses.terms(loss) if node.function in LOSSES}
    called = (r.flow.loss for r in passes if r.flow.loss is not None)
    loss_function, loss_reads = max(called, key=lambda loss: bool(loss[1]), default=(None, ""))
    alike = fetch([flag for r in passes for flag in r.alike])  # inputs of whole numbers, for all samples of a pass
    return Measurement(
        layers=tuple(layers),
        weights=weights,
        samples=int(samples),
        loss=loss / (scale * ranks.count) if values else None,
        loss_function=loss_function,
        loss_reads=places.get(loss_reads),
        added=tuple(dict.fromkeys(n.function for r in passes for n in r.flow.calls if n in added)),
        constant_terms=tuple(dict.fromkeys(filter(None, constants))),
        moves_value=any(map(losses.moves_its_value, ends)),
        comparisons=comparisons.joined([r.compared for r in passes], places),
        input_rms=of_inputs["rms"] if inputs.count else None,
        input_spread=of_inputs["spread"] if inputs.count else 0.0 if alike and all(alike) else None,
        input_nonfinite=of_inputs["nonfinite"],
        ranks=ranks.count,
        notes=tuple(notes),
        dropouts=tuple(share for r in passes for share in r.flow.dropouts),
        strays=tuple(dict.fromkeys(place for r in passes for place in r.strays)),
        differentiated=any_differentiated > 0,
        swaps=tuple({name: Swap(name, *shapes) for r in passes for name, shapes in r.flow.swaps.items()}.values()),
    )


def _joined(passes: Sequence[ForwardPass]) -> tuple[list[LayerCall], Sums, dict[str, int]]:
    """The layers of several passes (layers of one name are one), the sums of the inputs, and the layers' places."""
    if len(passes) == 1:
        layers = passes[0].layers
        return layers, passes[0].of_inputs, {layer.name: i for i, layer in enumerate(layers)}
    calls: list[LayerCall] = []
    inputs = Sums()
    places: dict[str, int] = {}
    for one in passes:
        inputs.add(one.of_inputs)
        for call in one.layers:
            place = places.setdefault(call.name, len(calls))
            if place == len(calls):
                sources = sum(1 << places[one.layers[i].name] for i in bits(call.sources))
                reads = places[one.layers[call.reads].name] if call.reads >= 0 else -1
                calls.append(dataclasses.replace(call, sources=sources, reads=reads, sums=Sums()))
            calls[place].sums.add(call.sums)
            calls[place].read_by = call.read_by or calls[place].read_by
    return calls, inputs, places


def _total(ranks: Ranks, device: torch.device, values: NDArray[Any], operation: str = "SUM") -> Array:
    values = values.astype(np.float64, copy=False)
    return values if ranks.count == 1 else ranks.total(torch.from_numpy(values), device, operation).numpy()


def _fingerprint(calls: Sequence[LayerCall]) -> int:
    """A number that is equal on ranks with equal layers and vectors."""
    kinds = [(call.name, 0 if call.sums.slopes is None else len(call.sums.slopes)) for call in calls]
    return zlib.crc32(repr(kinds).encode())


def _facts(sums: Sequence[Sums], totals: Totals) -> list[dict[str, Any]]:
    """The numbers of each layer over all passes and ranks, by the names of `Layer`; gradients are not unscaled."""
    numbers = attrgetter(*SCALARS)
    scalars = np.array(fetch([number for s in sums for number in numbers(s)])).reshape(len(sums), -1)
    of = dict(zip(SCALARS, totals(scalars).T, strict=True))
    with np.errstate(all="ignore"):
        squares, deviations = of["squares"] * of["several"] / of["count"], of["deviations"]
        share = np.minimum(np.sqrt(np.maximum(deviations, 0) / squares), 1)
        spread = np.where(squares > 0, share, 0.0)
        spread[~(np.isfinite(squares) & np.isfinite(deviations))] = math.nan
        columns = {
            "rms": np.sqrt(of["squares"] / of["count"]).tolist(),
            "read_rms": _known(np.sqrt(of["read_squares"] / of["read"]), of["read"]),
            "spread": _known(spread, of["several"]),
            "nonfinite": of["nonfinite"].astype(int).tolist(),
            "gradient": _known(np.sqrt(of["gradient"] / of["samples"]), of["arrivals"]),
            "nonfinite_gradient": of["nonfinite_gradient"].astype(int).tolist(),
            "rows": of["rows"].astype(int).tolist(),
        }
    facts = [dict(zip(columns, numbers, strict=True)) for numbers in zip(*columns.values(), strict=True)]
    _add_neurons(facts, _slopes(sums, totals))
    return facts


def _known(values: Array, where: Array) -> list[float | None]:
    """Numbers; None where they are computed from nothing."""
    return [value if there else None for value, there in zip(values.tolist(), where.tolist(), strict=True)]


def _slopes(sums: Sequence[Sums], totals: Totals) -> list[tuple[int, Array]]:
    """The sums of the neurons' relative slopes over the ranks, of every layer that has them, with the layer's place."""
    present = [(i, s.slopes) for i, s in enumerate(sums) if s.slopes is not None]
    if not present:
        return []
    flat = totals(torch.cat(_alike([v for _, v in present])).to("cpu", torch.float64).numpy())
    ends = list(accumulate(v.numel() for _, v in present))
    return [(i, flat[end - v.numel() : end]) for (i, v), end in zip(present, ends, strict=True)]


def _alike(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors of one device and dtype."""
    if len({(x.device, x.dtype) for x in tensors}) > 1:
        return [x.to("cpu", torch.float64) for x in tensors]
    return tensors


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


def _histograms(values: NDArray[Any], layer: NDArray[Any], layers: int) -> NDArray[Any]:
    """Histograms [layers, BINS] over [0, 1] of the values of each layer; nan is not counted."""
    places = np.minimum(np.maximum(values * BINS, 0), BINS - 1)
    places = np.where(np.isnan(places), BINS, places).astype(int) + layer * (BINS + 1)
    return np.bincount(places.ravel(), minlength=layers * (BINS + 1)).reshape(layers, BINS + 1)[:, :BINS]


def _layers(calls: Sequence[LayerCall], facts: Sequence[dict[str, Any]], factor: float) -> list[Layer]:
    """The layers; sizes of gradients are multiplied by the factor."""
    layers: list[Layer] = []
    for call, fact in zip(calls, facts, strict=True):
        if fact["gradient"] is not None:
            fact["gradient"] *= factor / call.scale
        if "rms" in fact:
            fact["rms"] *= call.scale
        for name in list(_meaningless(call, fact)):
            fact.pop(name, None)
        sources = tuple(bits(call.sources))
        before = [g for i in sources if (g := layers[i].gradient) is not None]
        layers.append(
            Layer(
                name=call.name,
                module=call.module,
                kind=call.kind,
                role="attention" if call.attends else call.role,
                sources=sources,
                weights=call.weights,
                gate=call.gate,
                read_by=call.read_by,
                in_loss=call.in_loss,
                scaled_by=tuple(dict.fromkeys(call.scaled_by)),
                shape=tuple(call.shape),
                reads=call.reads if call.reads >= 0 and calls[call.reads].role == call.role else None,
                softmax_dim=softmax_dim(call.node) if call.function == "softmax" and not call.attends else None,
                function=call.alike,
                dtype=str(call.dtype).removeprefix("torch."),
                gain=max(before) / fact["gradient"] if before and fact["gradient"] else None,
                **fact,
            )
        )
    return layers


def _meaningless(call: LayerCall, fact: dict[str, Any]) -> Iterator[str]:
    """Names of numbers that mean nothing for this kind of layer."""
    activation = ACTIVATIONS.get(call.function)
    if activation is None or not activation.saturates:
        yield "saturated"
    if activation is None or not activation.flat:
        yield "dead"
