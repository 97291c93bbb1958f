"""What a probe hands over: numbers of one training step, in frozen dataclasses. Nothing is judged here.

Vocabulary: docs/method.md. A *layer* is here one call of a function with weights (Linear, a convolution, a recurrent
layer, an embedding, attention), of an activation or of a softmax, whether a module makes it or a forward calls it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch

from sigmoidcore.observation.profile import Profile

Role = Literal["weights", "activation", "attention"]
"""Something with weights; an activation; a softmax or scaled dot product without weights of its own."""

BINS = 20
"""Bins of a histogram."""
STEPS = 64
"""Time steps that are kept of a recurrent layer, evenly thinned; the first and the last are among them."""
SHUT = 0.05
"""A neuron whose mean relative slope is below this is saturated: the floor of the Equalizer."""


@dataclass(frozen=True)
class Layer:
    """One layer in one forward and backward pass.

    Attributes:
        name: unique; a module's name, with the function that it calls if it is not a plain PyTorch layer
            (`encoder.relu`), and with `@2`, `@3`, ... for later calls of the same one.
        module: name of the module that it ran in; "" is the model itself.
        kind: class of the module, or "relu()" for a function.
        role: see `Role`.
        sources: positions, in `Measurement.layers`, of the layers whose outputs reach this one with no other layer in
            between. Empty: it reads the model's inputs.
        weights: names of the parameters that it uses.
        gate: its result multiplies another signal (squeeze-excite, GLU).
        shape: of its output, samples included.
        dtype: of its output, such as "float32".
        gradient: gradient size g (`gain.gradient_size`): root mean square over the samples of the L2 norm, per
            sample, of the derivative of the loss by the output (of a recurrent layer: by its last states, too). Of a
            layer before a core that is the core's preactivation. None: no gradient came back. It may be inf or nan.
        gain: largest gradient of its `sources` over its own: what the segment that ends here made of the gradient that
            really came (1 is level). None: unknown.
        nonfinite: numbers of the output that are not finite.
        nonfinite_gradient: numbers of the output's gradient that are not finite.
        mean: of the output.
        rms: root mean square of the output.
        spread: standard deviation *across samples* over the rms: root of the sum over features of the variance
            over the samples, over the root of the sum of the mean squares; in [0, 1]. 0: all samples became one point.
            None: with one sample nothing is known.
        largest: largest absolute value of the output; measured in half precision only.
        rows: samples, times positions, that the numbers about neurons are taken from.
        neurons: number of neurons (channels) of an activation.
        relative_slope: mean over the neurons of their mean relative slope: local derivative over the largest that the
            activation can have; 1 - in the middle of a sigmoid, 0 - where nothing comes back. (The share of active
            ones for the ReLU family.)
        saturated: share of the neurons whose mean relative slope is below `SHUT`. None for the ReLU family.
        dead: share of the neurons whose derivative is 0 for all rows. For activations that have a flat part (ReLU
            family, hard ones); None for others.
        slopes: histogram of the neurons' mean relative slopes, `BINS` bins over [0, 1].
        entropy: of attention: mean over heads and queries of the entropy over its largest, in [0, 1]; of a few
            samples, and of the queries that may see more than one key.
        sharp: share of the heads whose mean entropy, over its largest, is below `SHUT`.
        steps: gradient size at every time step of a recurrent layer, first to last, of the derivative by what it
            reads in that step through all later steps; at most `STEPS`.
        histogram: of the output, `BINS` bins from `low` to `high`, finite values only.
        low: smallest number in the histogram, which is made of an even part of a large output.
        high: largest one.
    """

    name: str
    module: str
    kind: str
    role: Role
    sources: tuple[int, ...] = ()
    weights: tuple[str, ...] = ()
    gate: bool = False
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    gradient: float | None = None
    gain: float | None = None
    nonfinite: int = 0
    nonfinite_gradient: int = 0
    mean: float = math.nan
    rms: float = math.nan
    spread: float | None = None
    largest: float | None = None
    rows: int = 0
    neurons: int | None = None
    relative_slope: float | None = None
    saturated: float | None = None
    dead: float | None = None
    slopes: tuple[int, ...] | None = None
    entropy: float | None = None
    sharp: float | None = None
    steps: tuple[float, ...] | None = None
    histogram: tuple[int, ...] | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Weight:
    """One parameter.

    Attributes:
        name: as in `model.named_parameters()`; of a shared one, the first.
        shape: of the whole, also where it is sharded.
        trains: `requires_grad`.
        used: a layer, or anything else in the forward pass, took it.
        size: its L2 norm.
        gradient: L2 norm of its `.grad`, all micro-batches and ranks included, unscaled and before clipping. None: it
            has none.
        update: size of the last step's change over its size before. None: not known (no step was seen), or its size
            was 0.
        nonfinite: its numbers that are not finite.
        nonfinite_gradient: those of its gradient.
        alike: all of its rows are the same, and not 0: the neurons that they feed compute the same.
    """

    name: str
    shape: tuple[int, ...]
    trains: bool = True
    used: bool = True
    size: float = math.nan
    gradient: float | None = None
    update: float | None = None
    nonfinite: int = 0
    nonfinite_gradient: int = 0
    alike: bool = False


@dataclass(frozen=True)
class Measurement:
    """What one step showed.

    Attributes:
        layers: in the order in which they ran, input to loss.
        weights: every parameter of the model.
        samples: number of samples, of all ranks and micro-batches.
        step: the optimizer's step, from 0; None: outside of training.
        loss: None: not known.
        loss_function: name of the loss function that was called last, such as "cross_entropy"; None: not seen.
        loss_reads: position of the layer whose very output, or a part of it, that function got as its first argument;
            None: of none.
        input_rms: root mean square of the model's floating-point inputs; None: it has none.
        input_spread: as `Layer.spread`, of these.
        input_nonfinite: their numbers that are not finite.
        ranks: processes that trained together.
        seconds: time that the measurement took; None: it was part of a training step.
        notes: what was not seen, in words.
        strays: weights that train and that a module keeps where PyTorch does not look, in a list, a dict or as a plain
            tensor: they are no parameters of the model. Where they are, such as "layers[0].weight".
        differentiated: the loss contains derivatives of the outputs by something: gradients reach a layer also by ways
            that do not lead through the layers behind it.
    """

    layers: tuple[Layer, ...]
    weights: tuple[Weight, ...]
    samples: int
    step: int | None = None
    loss: float | None = None
    loss_function: str | None = None
    loss_reads: int | None = None
    input_rms: float | None = None
    input_spread: float | None = None
    input_nonfinite: int = 0
    ranks: int = 1
    seconds: float | None = None
    notes: tuple[str, ...] = field(default=())
    strays: tuple[str, ...] = ()
    differentiated: bool = False

    @property
    def profile(self) -> Profile:
        """The gradient profile: gradient sizes of the layers with weights that a gradient came back to."""
        known = [(layer.name, layer.gradient) for layer in self.weighted if layer.gradient is not None]
        return Profile(tuple(name for name, _ in known), torch.tensor([g for _, g in known], dtype=torch.float64))

    @property
    def weighted(self) -> Iterator[Layer]:
        """The layers with weights."""
        return (layer for layer in self.layers if layer.role == "weights")
