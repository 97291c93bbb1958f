"""Measurements and findings, made without a network."""

import math
from dataclasses import fields, replace

from hypothesis import strategies as st

from unstuck.findings import Finding, Severity
from unstuck.measure.measurement import Layer, Measurement, Weight

TEXTS = st.text(st.characters(codec=None), max_size=20)
"""Any characters, also halves of surrogate pairs."""


def anything(kind, /, **given):
    """Any value of a dataclass, by its annotations; `given` has the fields that need more than these."""
    return st.builds(kind, **{field.name: ... for field in fields(kind)} | given)


def few(values, least=0):
    """A tuple of `least` to three values."""
    return st.lists(values, min_size=least, max_size=3).map(tuple)


def stack(depth, factor=4.0, activation="Sigmoid", name="net.{}"):
    """Linear layers with activations between them; every Linear loses `factor` of the gradient."""
    layers, weights = [], []
    for i in range(2 * depth - 1):
        of = name.format(i)
        size = 1e-2 * math.exp(-(depth - 1 - (i + 1) // 2) * math.log(factor))
        common = {"gradient": size, "sources": (i - 1,) if i else (), "rms": 0.5, "shape": (64, 8), "rows": 64}
        if i % 2:
            share = i / (2 * depth)
            lost = {"dead": share / 3} if activation == "ReLU" else {"saturated": share / 3}
            layers.append(
                Layer(of, of, activation, "activation", gain=1.0, relative_slope=1 - share, neurons=8, **lost, **common)
            )
        else:
            layers.append(
                Layer(of, of, "Linear", "weights", gain=1 / factor if i else None, weights=(f"{of}.weight",), **common)
            )
            weights.append(Weight(f"{of}.weight", (8, 8), size=2.5, gradient=size))
    return Measurement(tuple(layers), tuple(weights), 64, loss=math.log(10), loss_function="cross_entropy")


def changed(measurement, layer, **values):
    """With other values of one layer."""
    layers = list(measurement.layers)
    layers[layer] = replace(layers[layer], **values)
    return replace(measurement, layers=tuple(layers))


def vanishing(*layers, call="sc.prepare(model, inputs)"):
    return Finding(
        "US101", "vanishing gradient", Severity.ERROR, layers, 6.1e-5, 1e-3,
        f"The gradient of '{layers[0]}' is 1.6e+04 times smaller than that of the last layer: it does not learn.",
        "A sigmoid hands back a quarter of its gradient at most: give each layer the slope at which it keeps its size.",
        call,
    )  # fmt: skip


def dead(*layers):
    return Finding(
        "US202", "dead units", Severity.WARNING, layers, 0.6, 0.5,
        f"60% of the neurons of '{layers[0]}' give 0 for every sample.", "Lower the learning rate.",
    )  # fmt: skip


def frozen(*parameters):
    return Finding(
        "US502", "frozen weights", Severity.NOTE, parameters, 1.0, 0.0, f"'{parameters[0]}' has requires_grad=False.",
        "Nothing, if that is meant.",
    )  # fmt: skip
