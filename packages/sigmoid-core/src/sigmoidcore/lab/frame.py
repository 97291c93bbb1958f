"""Messages for the page: what a set-up is, and what its networks show at one moment."""

import base64
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sigmoidcore.lab.datasets import DataSet
from sigmoidcore.lab.networks import Network
from sigmoidcore.lab.reading import EDGE, GRID, REACH, Reading
from sigmoidcore.lab.setting import Setting, flat, query

ROWS, COLUMNS = 250, 64
"""Layers and neurons of the picture of saturation, at most; layers are thinned evenly."""
POINTS = 300
"""Points of the data that are drawn."""
PICTURES = 24
"""Test images that are drawn."""


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


def shown(data: DataSet, reading: Reading) -> dict[str, Any]:
    """What a network shows."""
    layers = len(reading.sizes)
    rows = torch.linspace(0, layers - 1, min(ROWS, layers)).round().long()
    strip = reading.relative[rows, :COLUMNS]
    found: dict[str, Any] = {
        "loss": _finite(reading.loss),
        "score": _finite(reading.score),
        "sizes": [round(math.log10(size), 3) if 0 < size < math.inf else None for size in reading.sizes.tolist()],
        "slopes": [float(f"{slope:.4g}") for slope in reading.slopes],
        "strip": {"rows": rows.tolist(), "columns": strip.shape[1], "values": _bytes(strip)},
        "histogram": reading.histogram.int().tolist(),
        "chosen": [float(f"{number:.4g}") for number in reading.chosen],
    }
    if data.classes and len(reading.outputs):
        shares = reading.outputs.softmax(1)
        sure, winner = shares.max(1)
        found["surface"] = {"classes": _bytes(winner / 255), "sure": _bytes(sure)}
    elif data.features == 1:
        found["fit"] = _rounded(reading.outputs[:, 0])
    elif data.features == 64 and data.classes:
        found["answers"] = reading.tests[:PICTURES].argmax(1).tolist()
    return found


def _bytes(shares: Tensor) -> str:
    """Numbers from 0 to 1 as bytes, in base64; what is not a number is 0."""
    numbers = (shares.nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8)
    return base64.b64encode(numbers.flatten().numpy().tobytes()).decode()


def _rounded(values: Tensor) -> list[float | None]:
    return [_finite(round(value, 3)) for value in values.tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
