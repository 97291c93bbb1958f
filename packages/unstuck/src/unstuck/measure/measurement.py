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
STEPS = 64
"""Largest number of time steps of a recurrent layer: evenly thinned, with the first and the last."""
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
    # mean entropy of the attention weights over the largest possible, in [0, 1]; of a few samples, and of the queries
    # that see more than one key
    entropy: float | None = None
    sharp: float | None = None  # fraction of heads whose mean relative entropy is below `SHUT`
    steps: tuple[float, ...] | None = None  # gradient size at the input of the time steps, at most `STEPS`
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
class BatchNorm:
    """A call of batch normalisation in training mode, or in evaluation mode with statistics that have seen no data."""

    name: str  # of the module
    samples: int  # in the batch
    momentum: float | None = None  # share of the batch in the running statistics; None: a mean over all batches
    # mean over the channels of the squared difference between the means of the batch and of the running statistics,
    # over the variance of the batch
    drift: float = 0.0
    fresh: bool = False  # it is in evaluation mode, and its running statistics are as they were initialised


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
class LossTerm:
    """The calls of a loss function in the loss, of one kind, or a squared difference that is written by hand."""

    function: str  # its name; sub: a difference
    reads: int | None = None  # position of the layer whose output it reads; None: of no layer
    value: float = math.nan  # what it returns, or the mean square; the mean over several calls
    part: float = math.nan  # what it adds to the loss: the sum of its numbers times their gradients
    reconstructs: bool = False  # its targets are the model's inputs
    class_weights: tuple[float, ...] = ()  # the weights of the classes, if it has any
    class_counts: tuple[float, ...] = ()  # labels of each class


@dataclass(frozen=True)
class Effect:
    """What an input of the step, or its targets, matter to the loss, after some training."""

    shape: tuple[int, ...]
    reader: str  # the function that reads it first
    module: str | None = None  # in which it runs; None: the loss
    targets: bool = False  # the loss reads it, and the outputs do not depend on it
    moves: bool = True  # the outputs change if it is that of other samples
    loss: float = math.nan
    loss_of_others: float = math.nan  # the loss if it is that of other samples


@dataclass(frozen=True)
class Twin:
    """Two results that the loss compares, and that are equal."""

    # results: of the same weights, or of equal ones; ratio: the difference is exponentiated; views: the rows of a
    # similarity; old: the old values of a ratio, which are computed anew in each step
    kind: Literal["results", "ratio", "views", "old"]
    function: str  # that compares them
    line: str = ""  # file and line of the call


@dataclass(frozen=True)
class Pairing:
    """A softmax over the similarities of all pairs of samples."""

    rows: int
    columns: int
    scale: float | None = None  # what cosines are multiplied by; None: they are none
    itself: bool = False  # a sample is among its own candidates, and is not the one that is looked for
    repeated: float = 0.0  # share of the samples of which there is another copy, which counts as a wrong candidate
    order: str = ""  # how the two views of a sample stand ("halves", "neighbours"), if the targets expect another order


@dataclass(frozen=True)
class Choice:
    """A choice of codes or experts, among options that the network scores."""

    module: str  # in which it is made
    options: int
    used: float  # as many options, used alike, as are taken: exp(entropy)


@dataclass(frozen=True)
class Dependence:
    """What outputs depend on: of one recorded step. None: it was not, or cannot be, found out."""

    samples: bool | None = None  # the output of a sample depends on the other samples of its batch or its place there
    positions: bool | None = None  # the output at a position depends on others; looked at only if samples are mixed
    later: bool | None = None  # the output at a position depends on later ones; looked at only with a `shift`
    shift: int | None = None  # the labels are the tokens of the input this many positions later, from 0 to 2
    copies: bool = False  # the loss compares the output at a position with the token there, on which it depends
    ignored: float | None = None  # share of the labels that are ignored
    visible: float | None = None  # share of the labels that are the tokens at their positions, which the model sees
    order: bool | None = None  # outputs depend on the order of earlier tokens
    endless: bool | None = None  # rows end with one token that is never a label, behind others that differ
    unstarted: bool = False  # the inputs of a decoder begin with words that are no labels there
    single: bool = False  # all labels that count are one token, and others are ignored
    padded_labels: float | None = None  # share of the labels that count and are of a padded position
    padding: bool | None = None  # outputs depend on padded tokens
    run_on: bool = False  # padding at the left moves the places of the tokens
    first_only: bool = False  # the output for a sample depends on its first token only
    documents: bool | None = None  # outputs depend on other documents of a packed row
    unread: tuple[str, ...] = ()  # inputs of the model that no call reads
    unused: tuple[str, ...] = ()  # calls whose result the model returns, one number with a gradient, and no loss takes
    predicted: str | None = None  # compares a prediction with what it predicts, and both have gradients
    effects: tuple[Effect, ...] = ()  # of a training
    new_rows: tuple[int, ...] = ()  # tokens of the batch whose rows of a frozen embedding are nearly equal
    seen_only: bool = False  # the loss counts only what the model is shown of its input, and hidden parts of it never
    order_of_patches: bool | None = None  # outputs depend on the order of the patches of an image
    same_places: bool = False  # outputs are the same at all places of a sample that count, and the targets are not
    zero_input: tuple[int, ...] = ()  # shape of an input that is 0 in all recorded steps
    teacher_dropout: float | None = None  # share that a network drops which does not train and makes the targets
    twin: Twin | None = None  # equal results that are compared
    mixed_groups: int | None = None  # rows of a group whose advantages are compared, and which have several prompts
    wrong_axis: str | None = None  # reads probabilities that are normalised over another dimension than its own
    noise: tuple[float, ...] | None = None  # correlations of a denoiser's input with the noise at both ends of times
    uniform_noise: bool = False  # it is uniform between 0 and 1
    own_input: bool = False  # a denoiser, which reads a time, is asked for the numbers that it reads
    drowned: float | None = None  # how much larger than an embedding of places that is what it is added to
    divided: int | None = None  # classes by which a kl_div beside other terms is divided, because it is a plain mean
    blanks: float | None = None  # share of the texts of a CTC loss that contain its blank
    too_long: float | None = None  # share of the texts of a CTC loss that have more letters than frames
    lost_places: str | None = None  # knows positions, and queries and keys of the first attention know nothing of them
    pairing: Pairing | None = None  # what a loss of all pairs compares
    choices: tuple[Choice, ...] = ()  # of codes or experts
    constant: str | None = None  # a quotient or a softmax that is always 1, and that has a gradient
    no_curvature: bool = False  # a derivative of a derivative of the outputs is 0 everywhere


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
    terms: tuple[LossTerm, ...] = ()  # of the loss: calls of loss functions, and squared differences
    # loss functions and functions such as "detach" whose results have no gradient and were added to the loss
    constant_terms: tuple[str, ...] = ()
    moves_value: bool = False  # it multiplies a log-probability by data minus an output, which has a gradient
    input_rms: float | None = None  # root mean square of the model's floating-point inputs; None: it has none
    input_spread: float | None = None  # as `Layer.spread`, of the inputs
    input_nonfinite: int = 0  # number of non-finite numbers in the inputs
    unused: int = 0  # without a step: backward passes whose gradients no optimizer of the model has used
    discarded: int = 0  # forward passes whose gradients were emptied before the step could use them
    foreign_steps: int = 0  # steps since the last one of the model, of optimizers that hold none of its parameters
    replaced: int = 0  # optimizers that made a step of the model, had a state and are gone
    ranks: int = 1  # processes that trained together
    notes: tuple[str, ...] = ()  # what was not measured, in words
    dropouts: tuple[float, ...] = ()  # shares that calls of dropout drop; in training mode once for each tensor
    evaluating: bool = False  # the model was in evaluation mode, as `diagnose` runs it
    reads_mode: bool = False  # and code of the model reads `training`: parts may run in training mode only
    loss_weights: tuple[Weight, ...] = ()  # parameters that train, that the loss takes and the model lacks
    batch_norms: tuple[BatchNorm, ...] = ()  # calls of batch normalisation in training mode
    resting_norms: tuple[str, ...] = ()  # modules of those that ran in evaluation mode, as the whole model did
    # places such as "layers[0].weight" of weights that train and are not parameters of the model, because a module
    # keeps them in a list, a dict or as a plain tensor
    strays: tuple[str, ...] = ()
    swaps: tuple[Swap, ...] = ()  # views that swap the sizes of dimensions
    dependence: Dependence | None = None  # which inputs the outputs depend on
    differentiated: bool = False  # the loss contains derivatives: gradients reach a layer also past those behind it
    origin: str | None = None  # the operation that made the first NaN or infinity; of `diagnose(trace_nonfinite=True)`

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
