"""Sigmoid Core by the recipe of docs/physics.md, without a knob; and the same with an Equalizer."""

from torch import Tensor, nn

import sigmoidcore as sc
from physics.methods.method import Method


def build(points: Tensor, width: int, depth: int, outputs: int) -> nn.Module:
    """A plain network of cores, prepared."""
    model = sc.MLP(points.shape[1], width, depth, outputs)
    sc.prepare(model, points, saturation="auto")
    return model


RATES = (0.003, 0.01, 0.03)
METHODS = (
    Method("sigmoid-core", "this package", build, RATES, sc.depth_scaled_lr),
    Method("sigmoid-core-equalizer", "this package", build, RATES, sc.depth_scaled_lr, equalizes=True),
)
