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

from sigmoidcore.observation.profile import Profile

Role = Literal["weights", "activation", "attention"]
"""Something with weights; an activation; a softmax or scaled dot product without weights of its own."""

BINS = 20
"""Bins of a histogram."""
STEPS = 64
"""Largest number of time steps of a recurrent layer: evenly thinned, with the first and the last."""
SHUT = 0.05
"""A neuron whose mean relative slope is below this is saturated: the floor of the Equalizer."""


@dataclass(frozen=True)
class Layer:
    """One layer in one forward and backward pass.

    Attributes:
        name: unique: the module's name, with the function unless the module is a plain PyTorch layer
            (`encoder.relu`), and with `@2`, `@3`, ... for later calls.
        module: name of the module that it ran in; "" is the model itself.
        kind: class of the module, or "relu()" for a function.
        role: see `Role`.
        sources: positions, in `Measurement.layers`, of the layers whose outputs reach this one with no other layer in
            between. Empty: it reads the model's inputs.
        weights: names of its parameters.
        reads: position of the layer whose output it reads, moved or reshaped at most, if both have weights.
        gate: its result multiplies another signal (squeeze-excite, GLU).
        scaled_by: names of parameters that multiply what is computed from this layer alone (LayerScale, ReZero).
        shape: shape of the output, samples included.
        softmax_dim: the dimension over which a softmax that is not attention normalises.
        dtype: dtype of the output, such as "float32".
        gradient: gradient size g (`gain.gradient_size`) at the output; for a recurrent layer also at its last states.
            None: no gradient came back. May be inf or nan.
        gain: largest gradient of the `sources` over the layer's gradient (1 is level). None: unknown.
        nonfinite: number of non-finite numbers in the output.
        nonfinite_gradient: number of non-finite numbers in the gradient of the output.
        rms: root mean square of the output.
        spread: standard deviation *across samples* over the rms, in [0, 1]: root of the sum over features of the
            variance, over that of the mean squares. 0: all samples became one point. None: a single sample.
        largest: largest absolute value of the output; in half precision only.
        rows: samples times positions over which the numbers of neurons are taken.
        neurons: number of neurons (channels) of an activation.
        relative_slope: mean local derivative, over the largest of the activation. 1: the middle of a sigmoid; 0: no
            gradient passes.
        saturated: fraction of neurons whose mean relative slope is below `SHUT`. None for the ReLU and ELU families.
        dead: fraction of neurons whose derivative is 0 for all rows. None for activations without a flat part.
        slopes: histogram of the neurons' mean relative slopes, `BINS` bins over [0, 1].
        entropy: mean entropy of the attention weights relative to the largest possible, in [0, 1]; of a few samples,
            and of the queries that see more than one key.
        sharp: fraction of heads whose mean relative entropy is below `SHUT`.
        steps: gradient size at the input of every time step of a recurrent layer, first to last; at most `STEPS`.
        histogram: of finite numbers of the output, `BINS` bins from `low` to `high`.
        low: smallest number in the histogram; a large output is thinned evenly for it.
        high: largest number in the histogram.
    """

    name: str
    module: str
    kind: str
    role: Role
    sources: tuple[int, ...] = ()
    weights: tuple[str, ...] = ()
    reads: int | None = None
    gate: bool = False
    scaled_by: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    softmax_dim: int | None = None
    dtype: str = "float32"
    gradient: float | None = None
    gain: float | None = None
    nonfinite: int = 0
    nonfinite_gradient: int = 0
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

    @property
    def plain_kind(self) -> str:
        """The kind, the same for a module and its function: "leakyrelu" for `LeakyReLU` and `leaky_relu()`."""
        return self.kind.removesuffix("()").replace("_", "").lower()


@dataclass(frozen=True)
class Weight:
    """One parameter.

    Attributes:
        name: as in `model.named_parameters()`; for a shared parameter, the first name.
        shape: of the whole parameter, also if it is sharded.
        trains: `requires_grad`.
        used: the forward pass used it.
        size: its L2 norm.
        gradient: L2 norm of its `.grad` over all micro-batches and ranks, unscaled and before clipping. None: no grad.
        update: size of the last step's change over its size before. None: no step was measured, or its size was 0.
        rate: learning rate of its optimizer in the last step. None: no optimizer that made a step holds it.
        decay: size of the weight decay in the last step over that of the gradient, or over the rest of the
            change if the decay is decoupled from the gradient. None: without a decay.
        uncleared: its gradient was not emptied between the step before and the last step.
        nonfinite: number of non-finite entries.
        nonfinite_gradient: number of non-finite entries of the gradient.
        fresh: it is frozen, and its numbers are those of PyTorch's default initialisation.
        alike: all rows are equal and not 0: the neurons that they feed compute the same.
    """

    name: str
    shape: tuple[int, ...]
    trains: bool = True
    used: bool = True
    size: float = math.nan
    gradient: float | None = None
    update: float | None = None
    rate: float | None = None
    decay: float | None = None
    uncleared: bool = False
    nonfinite: int = 0
    nonfinite_gradient: int = 0
    fresh: bool = False
    alike: bool = False


@dataclass(frozen=True)
class BatchNorm:
    """A call of batch normalisation in training mode.

    Attributes:
        name: of the module.
        samples: in the batch.
        momentum: share of the batch in the running statistics. None: a mean over all batches.
        drift: mean over the channels of the squared difference between the means of the batch and of the running
            statistics, over the variance of the batch.
    """

    name: str
    samples: int
    momentum: float | None = None
    drift: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """A call in which the loss compares outputs of the model with targets: a loss function, or a difference.

    Attributes:
        function: its name, such as "mse_loss", or "sub" for a difference.
        reads: position of the layer whose output, or a part of it, is compared; None: it is the output of no layer.
        shape: of the outputs.
        target_shape: of the targets.
        classes: the targets are whole numbers.
        low: smallest target.
        high: largest target.
        target_rms: root mean square of the targets.
        output_rms: root mean square of the outputs.
    """

    function: str
    reads: int | None = None
    shape: tuple[int, ...] = ()
    target_shape: tuple[int, ...] = ()
    classes: bool = False
    low: float = math.nan
    high: float = math.nan
    target_rms: float = math.nan
    output_rms: float = math.nan


@dataclass(frozen=True)
class Dependence:
    """What outputs depend on: of a few samples, in evaluation mode. None: it was not, or cannot be, found out.

    Attributes:
        samples: the output of a sample depends on the other samples of its batch.
        positions: the output at a position depends on other positions; looked at only if samples are mixed.
        ordered: outputs depend on the order of the positions; looked at only with attention.
        later: the output at a position depends on later positions; looked at only with a `shift`.
        shift: the targets are the tokens of the input this many positions later, 0 or 1.
    """

    samples: bool | None = None
    positions: bool | None = None
    ordered: bool | None = None
    later: bool | None = None
    shift: int | None = None


@dataclass(frozen=True)
class Measurement:
    """The numbers of one step.

    Attributes:
        layers: in the order in which they ran, input to loss.
        weights: every parameter of the model.
        samples: number of samples, of all ranks and micro-batches.
        step: the optimizer's step, from 0; None: outside of training.
        loss: in a training the sum of the losses whose `backward()` was called, unscaled; None: unknown.
        loss_function: name of the last loss function that was called, such as "cross_entropy"; None: none was seen.
        loss_reads: position of the layer whose output, or a part of it, is that function's first argument; None: it
            is the output of no layer.
        comparisons: of outputs with targets, in the order in which the loss made them; the first of each kind.
        input_rms: root mean square of the model's floating-point inputs; None: it has none.
        input_spread: as `Layer.spread`, of the inputs.
        input_nonfinite: number of non-finite numbers in the inputs.
        unused: of a training without a step: backward passes whose gradients no optimizer of the model has used.
        discarded: forward passes whose gradients were emptied before the step could use them.
        foreign_steps: steps since the last one of the model, of optimizers that hold none of its parameters.
        replaced: optimizers that made a step of the model, had a state and are gone.
        ranks: processes that trained together.
        notes: what was not measured, in words.
        dropouts: shares that calls of dropout in training mode drop.
        batch_norms: calls of batch normalisation in training mode.
        strays: places such as "layers[0].weight" of weights that train and are not parameters of the model, because a
            module keeps them in a list, a dict or as a plain tensor.
        dependence: which inputs the outputs depend on; of `diagnose` only.
        differentiated: the loss contains derivatives of the outputs: gradients reach a layer also past the layers
            behind it.
        quantized: names of modules with quantized weights, which are no parameters and do not train.
        scripted: names of modules of TorchScript, whose layers are not measured.
        origin: the operation that made the first NaN or infinity, in a sentence; of `diagnose(trace_nonfinite=True)`.
    """

    layers: tuple[Layer, ...]
    weights: tuple[Weight, ...]
    samples: int
    step: int | None = None
    loss: float | None = None
    loss_function: str | None = None
    loss_reads: int | None = None
    comparisons: tuple[Comparison, ...] = ()
    input_rms: float | None = None
    input_spread: float | None = None
    input_nonfinite: int = 0
    unused: int = 0
    discarded: int = 0
    foreign_steps: int = 0
    replaced: int = 0
    ranks: int = 1
    notes: tuple[str, ...] = ()
    dropouts: tuple[float, ...] = ()
    batch_norms: tuple[BatchNorm, ...] = ()
    strays: tuple[str, ...] = ()
    dependence: Dependence | None = None
    differentiated: bool = False
    quantized: tuple[str, ...] = ()
    scripted: tuple[str, ...] = ()
    origin: str | None = None

    @property
    def profile(self) -> Profile:
        """The gradient profile: gradient sizes of the layers with weights that a gradient came back to."""
        known = [(layer.name, layer.gradient) for layer in self.weighted if layer.gradient is not None]
        return Profile(tuple(name for name, _ in known), torch.tensor([g for _, g in known], dtype=torch.float64))

    @property
    def weighted(self) -> Iterator[Layer]:
        """The layers with weights."""
        return (layer for layer in self.layers if layer.role == "weights")


@dataclass(frozen=True, eq=False)
class Subject:
    """The diagnosed model, its batch and its mode, as for `diagnose`; unknown parts are None.

    Attributes:
        names: the caller's names of these, for calls; without one, the name of the attribute is used.
    """

    model: nn.Module
    inputs: Any = None
    targets: Any = None
    loss_fn: Callable[[Any, Any], Any] | None = None
    training: bool = False
    names: Mapping[str, str] = field(default_factory=dict)

    def name(self, attribute: str) -> str:
        """The caller's name of an attribute."""
        return self.names.get(attribute, attribute)
