"""Measurements of invented layers, and the findings of the rules for them."""

from dataclasses import replace

from unstuck.findings import Severity
from unstuck.measure.measurement import Layer, Measurement, Weight
from unstuck.rules import find


def linear(name, gradient, *sources, **others):
    """A layer with weights; by default rms 1 and spread 1."""
    given = {"rms": 1.0, "spread": 1.0, "shape": (64, 10), "weights": (f"{name}.weight",)} | others
    return Layer(name, name, given.pop("kind", "Linear"), "weights", sources=sources, gradient=gradient, **given)


def activation(name, gradient, *sources, **others):
    given = {"rms": 1.0, "spread": 1.0, "shape": (64, 10), "rows": 64} | others
    return Layer(name, name, given.pop("kind", "ReLU"), "activation", sources=sources, gradient=gradient, **given)


def measurement(*layers, weights=None, **others):
    """Of these layers; each weight has size 1 and the gradient of its layer."""
    if weights is None:
        own = {w: layer.gradient for layer in layers for w in layer.weights}
        weights = tuple(Weight(name, (10, 10), size=1.0, gradient=g) for name, g in own.items())
    given = {"samples": 64, "loss": 2.0, "input_spread": 1.0} | others
    return Measurement(tuple(layers), tuple(weights), **given)


def chain(*gradients, activations=True, **others):
    """Layers one after the other, with these gradient sizes; a ReLU after each but the last, which adds nothing."""
    layers = []
    for i, gradient in enumerate(gradients):
        layers.append(linear(str(2 * i), gradient, *([len(layers) - 1] if layers else [])))
        if activations and i < len(gradients) - 1:
            layers.append(activation(str(2 * i + 1), gradients[i + 1], len(layers) - 1))
    return measurement(*layers, **others)


def powers(factor, count):
    """A gradient that falls (or grows) by this factor in each layer on its way back."""
    return [factor ** (count - 1 - i) for i in range(count)]


def residual(inside, stem=1.0, blocks=4):
    """A stem, blocks of two layers beside a skip connection, and a head."""
    layers, stream = [linear("stem", stem)], [0]
    for b in range(blocks):
        at = len(layers)
        layers += [
            linear(f"{b}.up", inside, *stream),
            activation(f"{b}.relu", inside, at),
            linear(f"{b}.down", stem, at + 1),
        ]
        stream.append(at + 2)
    return measurement(*layers, linear("head", 1.0, *stream))


def with_weight(found, name, **values):
    """With other values of one weight."""
    return replace(found, weights=tuple(replace(w, **values) if w.name == name else w for w in found.weights))


def training(updates, losses, rates=None):
    """Measurements of two weights with these updates and losses, and the rates."""
    steps = []
    for i, (update, loss) in enumerate(zip(updates, losses, strict=True)):
        m = replace(chain(1.0, 1.0), loss=loss, step=i)
        for name in ("0.weight", "2.weight"):
            m = with_weight(m, name, update=update, rate=(rates or [1.0] * len(losses))[i])
        steps.append(m)
    return steps


def rules(*measurements):
    """Identifiers of what is found, errors and warnings only."""
    return [f.rule for f in find(measurements) if f.severity is not Severity.NOTE]


def loud(diagnosis):
    """Identifiers of the errors and warnings of a diagnosis."""
    return [f.rule for f in diagnosis.findings if f.severity is not Severity.NOTE]


def only(*measurements):
    (finding,) = find(measurements)
    return finding
