"""Sigmoid Core itself: no knob and no rate to choose."""

from torch import nn

import sigmoidcore as sc
from peers.method import Method, Problem


def build(problem: Problem, saturation: float = 0.5) -> nn.Module:
    """A plain network of cores, prepared."""
    model = problem.plain(None)
    loss_fn = nn.functional.cross_entropy
    sc.prepare(model, problem.inputs, targets=problem.targets, loss_fn=loss_fn, saturation=saturation)
    return model


RECIPE = {"rates": sc.depth_scaled_lr, "equalize": True}
METHODS = (Method("sigmoid-core", "this package", build, rates=(0.03,), recipe=RECIPE),)
