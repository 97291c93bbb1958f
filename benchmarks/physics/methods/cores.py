"""Sigmoid Core as docs/physics.md has it, without a knob; the same with an Equalizer; and without waves."""

from torch import Tensor, nn

from physics.methods.method import Method
from sigmoidcore.integrations.physics import PhysicsMLP


def build(points: Tensor, width: int, depth: int, outputs: int) -> nn.Module:
    """A plain network of cores that reads waves, prepared."""
    return _prepared(PhysicsMLP(points.shape[1], width, depth, outputs), points)


def of_inputs(points: Tensor, width: int, depth: int, outputs: int) -> nn.Module:
    """The same that reads the inputs themselves."""
    return _prepared(PhysicsMLP(points.shape[1], width, depth, outputs, fourier=0), points)


def _prepared(model: PhysicsMLP, points: Tensor) -> nn.Module:
    model.prepare(points)
    return model


RATES = (0.0003, 0.001, 0.003)
METHODS = (
    Method("sigmoid-core", "this package", build, RATES),
    Method("sigmoid-core-equalizer", "this package", build, RATES, equalizes=True),
    Method("sigmoid-core-inputs", "this package", of_inputs, RATES),
)
