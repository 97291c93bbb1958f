"""The measurement of one training step: numbers in frozen dataclasses, without any judgement.

Vocabulary: docs/method.md. A *layer* is here one call of a function with weights (Linear, a convolution, a recurrent
layer, an embedding, attention), of an activation or of a softmax, by a module or in a forward.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from unstuck.observation.profile import Profile

Role = Literal["weights", "activation", "attention"]
"""Something with weights; an activation; a softmax or scaled dot product without weights of its own."""

BINS = 20
"""Bins of a histogram."""
SHUT = 0.05
"""A neuron whose mean relative slope is below this is saturated: the floor of the Equalizer."""


@dataclass(frozen=True)
class Layer:
    """One layer in one forward and backward pass; docs/diagnosis-schema.json describes all fields."""

    name: str  # unique: the module's; with the function unless that is the whole layer, and "@2" for a second call
    module: str  # name of the module that it ran in; "" is the model itself
    kind: str  # class of the module, or "relu()" for a function
    role: Role  # see `Role`
    sources: tuple[int, ...] = ()  # positions of the layers that reach it directly; empty: it reads the model's inputs
    weights: tuple[str, ...] = ()  # names of its parameters
    reads: int | None = None  # position of the layer that it reads, moved or reshaped at most, if both have one role
    gate: bool = False  # its result multiplies another signal (squeeze-excite, GLU)
    read_by: str = ""  # a softmax, log_softmax or logsumexp that reads its output, moved or reshaped at most
    in_loss: bool = False  # the loss reads its output, moved or reshaped at most
    scaled_by: tuple[str, ...] = ()  # parameters that multiply what is computed from this layer alone (LayerScale)
    shape: tuple[int, ...] = ()  # of the output, samples included
    softmax_dim: int | None = None  # the dimension over which a softmax normalises that is no attention
    dtype: str = "float32"  # of the output
    # gradient size g (`gain.gradient_size`) at the output, for a recurrent layer also at its last states; may be inf
    # or nan. None: no gradient came back.
    gradient: float | None = None
    gain: float | None = None  # largest gradient of the `sources` over the layer's gradient (1 is level); None: unknown
    nonfinite: int = 0  # number of non-finite numbers in the output
    nonfinite_gradient: int = 0  # and in its gradient
    rms: float = math.nan  # root mean square of the output
    read_rms: float | None = None  # and of what it reads, if that are the model's inputs, or embeddings beside them
    # standard deviation *across samples* over the rms, in [0, 1]: root of the sum over features of the variance, over
    # that of the mean squares. 0: all samples became one point. None: a single sample.
    spread: float | None = None
    rows: int = 0  # samples times positions over which the numbers of neurons are taken
    neurons: int | None = None  # number of neurons (channels) of an activation
    relative_slope: float | None = None  # mean local derivative over the largest; 0: no gradient passes
    saturated: float | None = None  # fraction of neurons with a mean relative slope below `SHUT`; None for ReLU and ELU
    dead: float | None = None  # fraction of neurons with derivative 0 for all rows; None without a flat part
    slopes: tuple[int, ...] | None = None  # histogram of the neurons' mean relative slopes, `BINS` bins over [0, 1]
    function: str = ""  # the function of which a layer of another package is a kind, as its class says

    @property
    def plain_kind(self) -> str:
        """The kind, the same for a module and its function: "leakyrelu" for `LeakyReLU` and `leaky_relu()`."""
        return (self.function or self.kind).removesuffix("()").replace("_", "").lower()


@dataclass(frozen=True)
class Weight:
    """One parameter; docs/diagnosis-schema.json describes all fields."""

    name: str  # as in `model.named_parameters()`; for a shared parameter, the first name
    shape: tuple[int, ...]  # of the whole parameter, also if it is sharded
    trains: bool = True  # `requires_grad`
    used: bool = True  # the forward pass used it
    size: float = math.nan  # its L2 norm
    gradient: float | None = None  # L2 norm of `.grad`, of all micro-batches and ranks, unscaled, unclipped
    update: float | None = None  # size of the last step's change over its size before; None: no step, or its size was 0
    still: float | None = None  # share of numbers of half precision with a gradient that the step left as they were
    taken: float | None = None  # norm of the gradient that the step has seen over that after the backward pass
    rate: float | None = None  # learning rate in the last step; None: no optimizer that made a step holds it
    # size of the weight decay in the last step over that of the gradient, or over the rest of the change if the decay
    # is decoupled from the gradient. None: without a decay.
    decay: float | None = None
    uncleared: bool = False  # its gradient was not emptied between the step before and the last step
    nonfinite: int = 0  # number of non-finite entries
    nonfinite_gradient: int = 0  # and of non-finite entries of the gradient
    fresh: bool = False  # it is frozen or of the loss, and its numbers are those of PyTorch's default initialisation
    normal: bool = False  # it is frozen, and its numbers are normal with a deviation of 0.02, as of a new layer
    alike: bool = False  # all rows are equal and not 0: the neurons that they feed compute the same


@dataclass(frozen=True)
class Swap:
    """A view or reshape that takes dimensions for others, as `transpose` would, which moves no number."""

    layer: str  # or function that reads it
    before: tuple[int, ...]  # the shape of what is viewed
    after: tuple[int, ...]  # the shape of the view


@dataclass(frozen=True)
class Comparison:
    """A call in which the loss compares outputs of the model with targets: a loss function, or a difference."""

    function: str  # its name, such as "mse_loss", or "sub" for a difference
    reads: int | None = None  # position of the layer whose output, or a part of it, is compared; None: of no layer
    shape: tuple[int, ...] = ()  # of the outputs
    target_shape: tuple[int, ...] = ()  # of the targets
    classes: bool = False  # the targets are whole numbers
    swapped: bool = False  # the targets are where the function expects the outputs
    low: float = math.nan  # smallest target
    high: float = math.nan  # largest target
    target_rms: float = math.nan  # root mean square of the targets
    target_deviation: float = math.nan  # of the targets from the mean over the samples of each output, as a root
    varied: bool = False  # the targets of a call are not all the same
    output_rms: float = math.nan  # root mean square of the outputs


@dataclass(frozen=True)
class Measurement:
    """The numbers of one step; docs/diagnosis-schema.json describes all fields."""

    layers: tuple[Layer, ...]  # in the order in which they ran, input to loss
    weights: tuple[Weight, ...]  # every parameter of the model
    samples: int  # of all ranks and micro-batches
    step: int | None = None  # the optimizer's, from 0; None: outside of training
    loss: float | None = None  # in a training the sum of the losses whose `backward()` was called; None: unknown
    loss_function: str | None = None  # the last loss function that was called, such as "cross_entropy"
    loss_reads: int | None = None  # position of the layer whose output it reads, or a part of it; None: of no layer
    comparisons: tuple[Comparison, ...] = ()  # of outputs with targets, in order; the first of each kind
    added: tuple[str, ...] = ()  # the loss functions whose results the loss adds up
    # loss functions and functions such as "detach" whose results have no gradient and were added to the loss
    constant_terms: tuple[str, ...] = ()
    moves_value: bool = False  # it multiplies a log-probability by data minus an output, which has a gradient
    input_rms: float | None = None  # root mean square of the model's floating-point inputs; None: it has none
    input_spread: float | None = None  # as `Layer.spread`, of the inputs
    input_nonfinite: int = 0  # number of non-finite numbers in the inputs
    unused: int = 0  # without a step: backward passes whose gradients no optimizer of the model has used
    discarded: int = 0  # forward passes whose gradients were emptied before the step could use them
    foreign_steps: int = 0  # steps since the last one of the model, of optimizers that hold none of its parameters
    mixed: bool = False  # the gradients hold those of a loss that such a step has used, and of another one
    renewed: tuple[str, ...] = ()  # parameters in whose places there were others when the training began
    replaced: int = 0  # optimizers that made a step of the model, had a state and are gone
    ranks: int = 1  # processes that trained together
    notes: tuple[str, ...] = ()  # what was not measured, in words
    dropouts: tuple[float, ...] = ()  # shares that calls of dropout drop; in training mode once for each tensor
    evaluating: bool = False  # the model was in evaluation mode, as `diagnose` runs it
    reads_mode: bool = False  # and code of the model reads `training`: parts may run in training mode only
    loss_weights: tuple[Weight, ...] = ()  # parameters that train, that the loss takes and the model lacks
    # places such as "layers[0].weight" of weights that train and are not parameters of the model, because a module
    # keeps them in a list, a dict or as a plain tensor
    strays: tuple[str, ...] = ()
    swaps: tuple[Swap, ...] = ()  # views that swap the sizes of dimensions
    # what questions to the recorded step have found, by their names; None: it was not recorded, or cannot run again
    answers: Mapping[str, Any] | None = field(default=None, hash=False)
    differentiated: bool = False  # the loss contains derivatives: gradients reach a layer also past those behind it
    origin: str | None = None  # the operation that made the first NaN or infinity; of `diagnose(trace_nonfinite=True)`

    @property
    def profile(self) -> Profile:
        """The gradient profile: gradient sizes of the layers with weights that a gradient came back to."""
        known = [(layer.name, layer.gradient) for layer in self.weighted if layer.gradient is not None]
        return Profile(tuple(name for name, _ in known), torch.tensor([g for _, g in known], dtype=torch.float64))

    @property
    def loss_functions(self) -> str:
        """The loss functions that it sums, with commas; "" if none is known."""
        return ", ".join(self.added if len(self.added) > 1 else filter(None, [self.loss_function]))

    @property
    def weighted(self) -> Iterator[Layer]:
        """The layers with weights."""
        return (layer for layer in self.layers if layer.role == "weights")


@dataclass(frozen=True, eq=False)
class Subject:
    """The diagnosed model, its batch and its mode, as for `diagnose`; unknown parts are None."""

    model: nn.Module
    inputs: Any = None
    targets: Any = None
    loss_fn: Callable[[Any, Any], Any] | None = None
    training: bool = False
    names: Mapping[str, str] = field(default_factory=dict)  # the caller's, for calls; else those of the attributes

    def name(self, attribute: str) -> str:
        """The caller's name of an attribute."""
        return self.names.get(attribute, attribute)
