"""Sigmoid Core as docs/physics.md has it, without a knob; the same with an Equalizer; and a plain network of cores."""

from torch import Tensor, nn

import sigmoidcore as sc
from physics.methods.method import Method
from sigmoidcore.integrations.physics import PhysicsMLP


def build(points: Tensor, width: int, depth: int, outputs: int) -> nn.Module:
    """Residual layers of cores behind waves."""
    model = PhysicsMLP(points.shape[1], width, depth, outputs)
    model.prepare(points)
    return model


def plain(points: Tensor, width: int, depth: int, outputs: int) -> nn.Module:
    """A plain network of cores that reads the inputs themselves, prepared."""
    model = sc.MLP(points.shape[1], width, depth, outputs)
    sc.prepare(model, points, saturation="auto")
    return model


RATES = (0.0003, 0.001, 0.003)
METHODS = (
    Method("sigmoid-core", "this package", build, RATES),
    Method("sigmoid-core-equalizer", "this package", build, RATES, equalizes=True),
    Method("sigmoid-core-plain", "this package", plain, (0.003, 0.01, 0.03), sc.depth_scaled_lr),
)
