"""Sigmoid Core itself, as `sigmoid-core train` uses it: no knob and no rate to choose."""

from torch import nn

from sigmoidcore.calibration.calibrate import USUAL, prepare
from sigmoidcore.calibration.learning_rates import depth_scaled_lr
from sigmoidcore.peers.method import Method, Problem
from sigmoidcore.training.networks import SequenceNet


def build(problem: Problem, saturation: float = USUAL) -> nn.Module:
    """A plain network of cores, prepared."""
    return _prepared(problem.plain(None), problem, saturation)


def recurrent(problem: Problem, saturation: float = USUAL) -> nn.Module:
    """Recurrent layers of cores, prepared; an Equalizer does not read them."""
    model = SequenceNet(problem.features, problem.width, problem.depth, problem.outputs)
    return _prepared(model, problem, saturation)


def _prepared(model: nn.Module, problem: Problem, saturation: float) -> nn.Module:
    prepare(model, problem.inputs, targets=problem.targets, loss_fn=problem.loss_fn, saturation=saturation)
    return model


_RATE = (0.03,)
METHODS = (
    Method("sigmoid-core", "this package", build, rates=_RATE, recipe={"rates": depth_scaled_lr, "equalize": True}),
    Method(
        "sigmoid-core-rnn", "this package", recurrent, rates=_RATE, recipe={"rates": depth_scaled_lr}, kinds=("rnn",)
    ),
)
