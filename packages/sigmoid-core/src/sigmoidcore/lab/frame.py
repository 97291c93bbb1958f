"""Messages for the page: what a set-up is, and what its networks show at one moment."""

import base64
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import mean_relative_slope
from sigmoidcore.lab.datasets import DataSet
from sigmoidcore.lab.networks import Network
from sigmoidcore.lab.setting import Setting, flat, query
from sigmoidcore.observation.profile import Preactivations
from unstuck.observation.batch import evaluating, unchanged
from unstuck.observation.sizes import norms

PROBED = 128  # training samples on which loss, gradient and saturation are measured
GRID, EDGE = 40, 2.6  # the picture of the outputs has so many points on a side, and shows inputs from -EDGE to EDGE
HUGE = 1e15  # outputs that are larger, or no numbers, have no score
BINS, REACH = 48, 8.0  # of the histogram of z, which shows z from -REACH to REACH; what is outside is in the last bins
ROWS, COLUMNS = 250, 64  # layers and neurons of the picture of saturation, at most; layers are thinned evenly
POINTS, PICTURES = 300, 24  # points of the data, or test images, that are drawn


def built_message(number: int, setting: Setting, data: DataSet, networks: Sequence[Network | None]) -> dict[str, Any]:
    """What stays the same until the next set-up."""
    message: dict[str, Any] = {
        "kind": "built", "id": number, "setting": flat(setting), "query": query(setting),
        "metric": "accuracy" if data.classes else "R2", "classes": data.classes,
        "edge": EDGE, "grid": GRID, "reach": REACH,
        "networks": [None if n is None else {"layers": len(n.layers), "slopes": bool(n.cores)} for n in networks],
    }  # fmt: skip
    if data.features <= 2:
        message["points"] = _rounded(data.train_x[:POINTS].flatten())
        message["targets"] = _rounded(data.train_y[:POINTS].reshape(len(data.train_x[:POINTS]), -1)[:, 0])
    elif data.features == 64:
        low, high = data.test_x.min(), data.test_x.max()
        message["images"] = _bytes((data.test_x[:PICTURES] - low) / (high - low))
        message["targets"] = data.test_y[:PICTURES].tolist()
    return message


def shown(network: Network, data: DataSet, layer: int, neuron: int | None) -> dict[str, Any]:
    """Measure a network, which does not change; the histogram is that of this layer, or of one of its neurons."""
    model, inputs, targets = network.model, data.train_x[:PROBED], data.train_y[:PROBED]
    observer = Preactivations({str(i): layer for i, layer in enumerate(network.layers)})
    with unchanged(model, inputs), evaluating(model), torch.enable_grad(), observer:
        loss = data.loss_fn(model(inputs), targets)
        arrived = [x for _, x in observer.found]
        found: tuple[Tensor | None, ...] = torch.autograd.grad(loss, arrived, allow_unused=True)
    sizes = norms([torch.zeros(1) if g is None else g for g in found]) / len(inputs) ** 0.5
    with torch.no_grad():
        scaled, relative = zip(*map(_scaled, network.layers, arrived), strict=True)
        outputs = model.eval()(torch.cat([data.test_x, _grid(data)]))
        model.train()
        tests, answers = outputs[: len(data.test_x)], outputs[len(data.test_x) :]
        score = data.score(tests) if bool((tests.abs() < HUGE).all()) else math.nan
        z = scaled[layer] if neuron is None else scaled[layer][:, neuron]
        histogram = torch.histc(z[torch.isfinite(z)].clamp(-REACH, REACH), BINS, -REACH, REACH)
        slopes = [float(core.alpha.mean()) for core in network.cores]
        chosen = _slope_and_shift(network.layers[layer], neuron)
    rows = torch.linspace(0, len(sizes) - 1, min(ROWS, len(sizes))).round().long()
    strip = torch.stack(relative)[rows, :COLUMNS]
    message: dict[str, Any] = {
        "loss": _finite(loss.item()),
        "score": _finite(score),
        "sizes": [round(math.log10(size), 3) if 0 < size < math.inf else None for size in sizes.tolist()],
        "slopes": [float(f"{slope:.4g}") for slope in slopes],
        "strip": {"rows": rows.tolist(), "columns": strip.shape[1], "values": _bytes(strip)},
        "histogram": histogram.int().tolist(),
        "chosen": [float(f"{number:.4g}") for number in chosen],
    }
    if data.classes and len(answers):
        sure, winner = answers.softmax(1).max(1)
        message["surface"] = {"classes": _bytes(winner / 255), "sure": _bytes(sure)}
    elif data.features == 1:
        message["fit"] = _rounded(answers[:, 0])
    elif data.features == 64 and data.classes:
        message["answers"] = tests[:PICTURES].argmax(1).tolist()
    return message


def _grid(data: DataSet) -> Tensor:
    """The inputs of the picture: a line or a plane of points; none for data with more features."""
    line = torch.linspace(-EDGE, EDGE, GRID) + data.offset
    if data.features == 1:
        return line[:, None]
    if data.features == 2:
        return torch.cartesian_prod(line.flip(0), line).flip(1)  # row by row, from the upper left
    return torch.empty(0, data.features)


def _scaled(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The scaled preactivations, and the mean relative slopes; of a ReLU, how often it is open."""
    if not isinstance(layer, SigmoidCore):
        return x, (x > 0).float().mean(0)
    alpha, shift = layer.align(x)
    z = alpha * (x - shift)
    return z, mean_relative_slope(z)


def _slope_and_shift(layer: nn.Module, neuron: int | None) -> list[float]:
    if not isinstance(layer, SigmoidCore):
        return [1.0, 0.0]
    parts = layer.alpha, layer.shift
    return [float(part.mean() if neuron is None or part.dim() == 0 else part[neuron]) for part in parts]


def _bytes(shares: Tensor) -> str:
    """Numbers from 0 to 1 as bytes, in base64; what is not a number is 0."""
    numbers = (shares.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8)
    return base64.b64encode(numbers.flatten().numpy().tobytes()).decode()


def _rounded(values: Tensor) -> list[float | None]:
    return [_finite(round(value, 3)) for value in values.tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
