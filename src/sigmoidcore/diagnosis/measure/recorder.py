"""Takes the statistics of one forward pass, and of the gradients that come back through it."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from sigmoidcore._torch.autograd import (
    NONE,
    accumulates,
    backward_pass,
    bare,
    in_checkpoint,
    keeps_graph,
    nearest_leaf,
    running_node,
)
from sigmoidcore._torch.modes import hidden_from_modes, without_gradients
from sigmoidcore.diagnosis.measure.activations import ACTIVATIONS, Activation
from sigmoidcore.diagnosis.measure.attention import FUNCTIONS, measure_attention
from sigmoidcore.diagnosis.measure.batches import SMALL, Batches
from sigmoidcore.diagnosis.measure.calls import ATTENTION, RECURRENT, tensors
from sigmoidcore.diagnosis.measure.statistics import (
    Number,
    Sums,
    add_sample,
    add_sizes,
    add_slopes,
    first_rows,
    samples_first,
    squared_size,
    step_squares,
    thinned,
    unmeasured,
)
from sigmoidcore.diagnosis.measure.tracker import LayerCall, RunningModule, Tracker


class Recorder:
    """Takes statistics of every layer of a forward pass as it runs, and of the gradients that come back.

    It keeps numbers only. Its hooks are on tensors and vanish with the graph.

    Args:
        parameters: names of the model's parameters by identity.
        stack: the modules that are running.
        samples: of the batch; 0: the length of what the first layer reads.
        most: samples that statistics across samples are taken from; None: all.
        arrived: is called when a gradient arrives that counts.

    Attributes:
        tracker: the mode that follows the pass; enter it while the model runs.
        sums: statistics by layer.
        inputs: statistics of the model's inputs.
        differentiated: a gradient came back that is differentiated again: the loss contains derivatives.
    """

    def __init__(
        self,
        parameters: Mapping[int, str],
        stack: list[RunningModule],
        *,
        samples: int,
        most: int | None,
        arrived: Callable[["Recorder"], None],
    ) -> None:
        self.tracker = Tracker(parameters, stack, self)
        self.sums: list[Sums] = []
        self.inputs = Sums()
        self.samples = samples
        self.differentiated = False
        self._notes: dict[str, None] = {}
        self._most = most
        self._arrived = arrived
        self._leaf: Node | None = None
        self._backward_pass = NONE
        self._batches = Batches()
        self._input: Tensor | None = None
        self._time_steps: TimeSteps | None = None
        self._gradients: list[LayerGradient] = []

    @property
    def counts(self) -> bool:
        """Whether any gradient has come back."""
        return any(s.arrivals for s in self.sums)

    @property
    def notes(self) -> list[str]:
        """What could not be measured, in words."""
        return [*self._notes, *self.tracker.notes]

    def note(self, text: str) -> None:
        """Add something that could not be measured."""
        self._notes[text] = None

    def forget_gradients(self) -> None:
        """Drop the gradients: they were emptied."""
        for gradient in self._gradients:
            gradient.reset()

    @torch.no_grad()
    def take_inputs(self, values: Any) -> None:
        """Take the statistics of the model's inputs."""
        for tensor in tensors(values):
            self.tracker.inputs.add(id(tensor))
            if kind := unmeasured(tensor):
                self.note(f"an input of the model: it is a {kind} tensor")
            elif tensor.is_floating_point() and tensor.numel():
                sums = Sums()
                x = samples_first(bare(tensor), self.samples)
                add_sizes(x.reshape(1, -1), [sums])
                add_sample(x.reshape(1, first_rows(x, self.samples, None)[1], -1), [sums])
                self.inputs.add(sums)

    @hidden_from_modes
    def before(
        self, function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, in_place: bool
    ) -> tuple[Any, ...]:
        """Keep the input of an activation; give a recurrent layer an input whose gradient can be measured."""
        if function in RECURRENT:
            return self._before_recurrent(args)
        x = args[0] if args else kwargs.get("input")
        if not ACTIVATIONS[function].by_output and isinstance(x, Tensor) and not unmeasured(x):
            x = samples_first(bare(x), self.samples)
            x = x[: first_rows(x, self.samples, self._most)[0]]
            self._input = x.clone() if in_place else x
        return args

    @hidden_from_modes
    @without_gradients
    def after(self, layer: LayerCall, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: list[Tensor]) -> None:
        """Take the statistics of a layer, and wait for its gradient."""
        sums = Sums()
        self.sums.append(sums)
        if kind := unmeasured(outputs[0]):
            self.note(f"the output of {layer.name}: it is a {kind} tensor")
            layer.data.update(shape=(), dtype=outputs[0].dtype)
            return
        output = bare(outputs[0])
        if not self.samples:
            first = next((t for t in tensors((args, kwargs)) if not isinstance(t, nn.Parameter)), output)
            self.samples = first.shape[1 if _time_first(layer, args, first) else 0] if first.dim() else 1
        layer.data.update(shape=output.shape, dtype=output.dtype)
        if output.numel():
            if _time_first(layer, args, output) and output.shape[1] == self.samples:
                output = output.movedim(1, 0)  # also where there are as many steps
            self._take_output(layer, sums, output, args[1:], kwargs)
        self._input = None
        if layer.function in FUNCTIONS:
            self._take_attention(layer, sums, args, kwargs, output)
        if self._time_steps is not None:
            self._time_steps.sums, self._time_steps = sums, None
        gradient = LayerGradient(sums)
        self._gradients.append(gradient)
        for place, value in enumerate(outputs):
            if value.requires_grad:
                value.register_hook(partial(self._arrive, gradient, place))  # type: ignore[no-untyped-call]

    def flush(self) -> None:
        """Compute the statistics that wait to be computed together."""
        self._batches.flush()

    def _take_output(
        self, layer: LayerCall, sums: Sums, output: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        x = samples_first(output, self.samples)
        rows, samples = first_rows(x, self.samples, self._most)
        slopes = _Slopes.of(layer, args, kwargs)
        by_output = slopes is not None and slopes.activation.by_output
        alone = slopes is not None and slopes.key is None
        if alone or x.numel() > SMALL:
            sums.count = float(x.numel())
            sums.squares, sums.nonfinite = squared_size(x)
            some = self._thinned(x[:rows], layer.dim)
            add_sample(some.reshape(1, samples, -1), [sums])
            if slopes is not None and by_output:
                slopes.add(some.unsqueeze(0), [sums])
        else:

            def add(stack: Tensor, owners: list[Sums]) -> None:
                add_sizes(stack.flatten(1), owners)
                some = stack[:, :rows]
                add_sample(some.reshape(len(stack), samples, -1), owners)
                if slopes is not None and by_output:
                    slopes.add(some, owners)

            self._batches.put((rows, samples, None if slopes is None else slopes.key), x, sums, add)
        if slopes is not None and not by_output and self._input is not None:
            x = self._thinned(self._input, layer.dim)
            if alone or x.numel() > SMALL:
                slopes.add(x.unsqueeze(0), [sums])
            else:
                self._batches.put(slopes.key, x, sums, slopes.add)

    def _thinned(self, x: Tensor, dim: int) -> Tensor:
        """The positions of the first samples that are measured, in one piece."""
        return x.contiguous() if self._most is None else thinned(x, dim).contiguous()

    def _take_attention(
        self, layer: LayerCall, sums: Sums, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> None:
        try:
            measure_attention(sums, layer.function, args, kwargs, output)
        except (RuntimeError, TypeError, AssertionError, IndexError) as error:
            self.note(f"the attention weights of {layer.name}: {str(error).splitlines()[0]}")

    def _before_recurrent(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not torch.is_grad_enabled() or not args:
            return args
        x = args[0]
        packed = args[1] if isinstance(args[1], Tensor) and not args[1].is_floating_point() else None
        steps = TimeSteps(packed, 1 if packed is None and args[-1] is True and x.dim() == 3 else 0)
        if not x.requires_grad and in_checkpoint():
            return args  # a recomputation may not save more than the first computation saved
        x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        x.register_hook(partial(self._arrive_at_steps, steps))
        self._time_steps = steps
        return (x, *args[1:])

    def _accumulates(self) -> bool:
        """Whether the gradient that arrives is on its way into the `.grad` of a parameter."""
        if self._leaf is not None and accumulates(self._leaf):
            return True
        leaf = nearest_leaf(running_node())
        if accumulates(leaf):
            self._leaf = leaf
            return True
        return False

    def _arrive(self, of_layer: "LayerGradient", place: int, gradient: Tensor) -> None:
        if backward_pass() != self._backward_pass:  # of one backward pass all gradients count, or none
            if not self._accumulates():
                self.differentiated |= torch.is_grad_enabled()
                return
            self._backward_pass = backward_pass()
            self._arrived(self)
        self._add(of_layer, place, gradient)

    @without_gradients
    def _add(self, of_layer: "LayerGradient", place: int, gradient: Tensor) -> None:
        of_layer.add(place, bare(gradient))
        of_layer.sums.samples = float(self.samples)
        of_layer.sums.arrivals += 1

    @without_gradients
    def _arrive_at_steps(self, steps: "TimeSteps", gradient: Tensor) -> None:
        if steps.sums is None or not self._accumulates():
            return
        total = steps.total.add(0, gradient)
        steps.sums.steps, steps.sums.step_samples = step_squares(total, steps.batch_sizes, steps.time_dim)


@dataclass(frozen=True, slots=True)
class _Slopes:
    """How the relative slopes of one activation are computed.

    Attributes:
        activation: its kind.
        options: its arguments.
        dim: the dimension that counts neurons.
        key: layers with the same key are computed together; None: alone, because an option is a tensor.
    """

    activation: Activation
    options: Mapping[str, Any]
    dim: int
    key: Hashable

    @classmethod
    def of(cls, layer: LayerCall, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "_Slopes | None":
        """Of a layer; None if it is not an activation."""
        activation = ACTIVATIONS.get(layer.function)
        if activation is None:
            return None
        layer.data.update(shuts=activation.shuts, flat=activation.flat)
        options = activation.chosen(args, kwargs)
        alike = not any(isinstance(value, Tensor) for value in options.values())
        return cls(activation, options, layer.dim, (layer.function, layer.dim, *options.items()) if alike else None)

    def add(self, stack: Tensor, owners: list[Sums]) -> None:
        """Add the relative slopes of a stack of inputs or outputs [layers, ...] to the sums of each."""
        if self.key is None:
            slopes = self.activation.relative_slopes(stack[0], self.options).unsqueeze(0)
        else:
            slopes = self.activation.relative_slopes(stack, self.options)
        add_slopes(slopes, owners, self.dim)


def _time_first(layer: LayerCall, args: tuple[Any, ...], values: Tensor) -> bool:
    """Whether dimension 0 of what a layer reads or returns counts steps."""
    steps = layer.function == ATTENTION or (layer.function in RECURRENT and args[-1] is not True)
    return steps and values.dim() == 3


class GradientTotal:
    """Gradients by place: through a graph that is kept, several may come, which add up."""

    def __init__(self) -> None:
        self._gradients: dict[int, Tensor] = {}

    def add(self, place: int, gradient: Tensor) -> Tensor:
        """The sum of the gradients at a place so far."""
        before = self._gradients.pop(place, None)
        if before is not None:
            gradient = before + gradient
        if keeps_graph():
            self._gradients[place] = gradient
        return gradient


class LayerGradient:
    """The gradient at the outputs of one layer."""

    def __init__(self, sums: Sums) -> None:
        self.sums = sums
        self.reset()

    def reset(self) -> None:
        """Drop what has arrived."""
        self._total = GradientTotal()
        self._sizes: dict[int, tuple[Number, Number]] = {}
        self.sums.arrivals = 0.0
        self.sums.gradient = self.sums.nonfinite_gradient = 0.0
        self.sums.steps = self.sums.step_samples = None

    def add(self, place: int, gradient: Tensor) -> None:
        """Take the gradient of an output."""
        self._sizes[place] = squared_size(self._total.add(place, gradient))
        if len(self._sizes) == 1:  # without a sum: on a GPU each one is a kernel
            self.sums.gradient, self.sums.nonfinite_gradient = self._sizes[place]
        else:
            self.sums.gradient = sum(size for size, _ in self._sizes.values())
            self.sums.nonfinite_gradient = sum(count for _, count in self._sizes.values())


@dataclass
class TimeSteps:
    """How the input of a recurrent layer counts its steps, and where the sums of their gradients go."""

    batch_sizes: Tensor | None
    time_dim: int
    total: GradientTotal = field(default_factory=GradientTotal)
    sums: Sums | None = None
