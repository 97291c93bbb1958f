"""Diagnoses with any numbers, made without a network."""

import math
from dataclasses import replace

import numpy as np
from torch import nn

from unstuck.diagnosis import Diagnosis
from unstuck.findings import Finding, Severity
from unstuck.measure.measurement import BINS, Layer, Measurement, Subject, Weight


def counts(values, low, high):
    bins = np.clip((values - low) / (high - low) * BINS, 0, BINS - 1).astype(int)
    return tuple(np.bincount(bins, minlength=BINS).tolist())


def measurement(depth=20, decay=3.0, seed=0, step=None, name="layers.{}.linear"):
    """A plain network of sigmoids; a layer makes the gradient `decay` times smaller."""
    random = np.random.default_rng(seed)
    layers, weights = [], []
    pool = random.normal(0, 1, (50, 200))
    for i in range(depth):
        gradient = float(0.1 * decay ** (i + 1 - depth) * math.exp(random.normal(0, 0.1)))
        weight = name.replace("{}", str(i))
        inside = (1 + 3 * i / depth) * pool[i % len(pool)]
        slope = 4 / (2 + 2 * np.cosh(inside))
        layers.append(
            Layer(
                weight, weight, "Linear", "weights", (2 * i - 1,) if i else (), (f"{weight}.weight", f"{weight}.bias"),
                shape=(64, 200), gradient=gradient, gain=1 / decay, rms=float(inside.std()), spread=0.9,
                rows=64,
            )
        )  # fmt: skip
        outside = 1 / (1 + np.exp(-inside))
        layers.append(
            Layer(
                weight.replace("linear", "act"), weight.replace("linear", "act"), "Sigmoid", "activation", (2 * i,),
                shape=(64, 200), gradient=gradient * decay**0.5, gain=decay**-0.5, rms=float(outside.std()),
                spread=0.5, rows=64, neurons=200, relative_slope=float(slope.mean()),
                saturated=float((slope < 0.05).mean()), slopes=counts(slope, 0, 1),
            )
        )  # fmt: skip
        update = float(np.exp(random.normal(-7, 0.7)))
        weights.append(Weight(f"{weight}.weight", (200, 200), size=10.0, gradient=gradient, update=update))
        weights.append(Weight(f"{weight}.bias", (200,), size=1.0, gradient=gradient, update=None))
    return Measurement(tuple(layers), tuple(weights), samples=64, step=step, loss=2.3, loss_function="cross_entropy")


def finding(*layers, rule="US101", severity=Severity.ERROR, call="sigmoidcore.prepare(model, inputs)"):
    return Finding(
        rule, "vanishing gradient", severity, tuple(layers), 1e-9, 1e-3,
        f"The gradient of {layers[0] if layers else 'the model'} is 1e-9 of that next to the loss.",
        "Convert the sigmoids, then prepare the weights for this depth.", call,
    )  # fmt: skip


def broken(depth=20, **options):
    """A network whose gradient vanishes, with one finding of each severity."""
    measured = replace(measurement(depth, **options), notes=("a fused kernel hides what is inside it",))
    names = [layer.name for layer in measured.layers]
    findings = (
        finding(*names[: max(1, depth // 2) : 2]),
        finding(*names[2 * depth - 1 : depth : -2], rule="US201", severity=Severity.WARNING, call=None),
        finding(measured.weights[0].name, "nowhere.weight", rule="US301", severity=Severity.NOTE),
    )
    return Diagnosis(measured, findings, subject=Subject(nn.Sequential()))


def trained(depth=20, steps=12, **options):
    """A training in which the gradient vanishes step by step."""
    history = tuple(measurement(depth, 1 + 0.2 * k, seed=k, step=10 * k, **options) for k in range(steps))
    return Diagnosis(history[-1], (finding(history[-1].layers[0].name),), history)


def with_layer(diagnosis, place, **changes):
    """The same with another layer at a place."""
    layers = list(diagnosis.measurement.layers)
    layers[place] = replace(layers[place], **changes)
    return replace(diagnosis, measurement=replace(diagnosis.measurement, layers=tuple(layers)))
