"""Takes the statistics of one forward pass, and of the gradients that come back through it."""

import weakref
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from unstuck._torch import autograd
from unstuck._torch.autograd import NONE, backward_pass, bare, keeps_graph
from unstuck._torch.modes import hidden_from_modes, unfollowed, without_gradients
from unstuck.language import _
from unstuck.measure import calls, loss_graph, statistics
from unstuck.measure.activations import ACTIVATIONS
from unstuck.measure.attention import FUNCTIONS, add_attention, add_values
from unstuck.measure.batches import Batches
from unstuck.measure.calls import ATTENTION, RECURRENT, tensors
from unstuck.measure.comparisons import MOST_KINDS, CallKey, Compared
from unstuck.measure.layer_call import LayerCall
from unstuck.measure.running_module import RunningModule
from unstuck.measure.statistics import Number, Sums
from unstuck.measure.tensor_origin import Origin, bits
from unstuck.measure.terms import Differences, TermCall
from unstuck.measure.tracker import Tracker

_BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
"""Names of the functions' arguments, in order."""
MOST_NUMBERS = 4096
"""Numbers of a channel, about, from which the mean and the variance of a batch normalisation are estimated."""
INPUT = -1
"""The place of a layer's input; the places of its outputs are 0, 1, ..."""


class Recorder(Tracker):
    """Takes the statistics of every layer of a forward pass as it runs, and of the gradients that come back.

    It keeps numbers only. Its hooks are on tensors and vanish with the graph.
    """

    def __init__(
        self,
        parameters: Mapping[int, str],
        stack: list[RunningModule],
        *,
        samples: int,  # of the batch; 0: the length of what the first layer reads
        most: int | None,  # samples that are compared with each other
        arrived: Callable[["Recorder"], None],  # is called when a gradient arrives that counts
    ) -> None:
        super().__init__(parameters, stack)
        self.of_inputs = Sums()
        self.given: list[weakref.ref[Tensor]] = []  # the model's inputs
        self.inputs_train = False  # an input has a gradient
        self.samples = samples
        self.alike: list[Tensor] = []  # for each input of whole numbers: whether all samples are the same
        self.compared: dict[CallKey, Compared] = {}
        self.dropouts: list[float] = []
        self._dropped: list[weakref.ref[Tensor]] = []  # what they read
        self.batch_norms: list[tuple[str, int, float | None, Tensor, bool]] = []
        self.resting_norms: dict[str, None] = {}  # modules of those in evaluation mode, as the whole model is
        self.terms: list[TermCall] = []
        self.flat_derivatives: list[Tensor] = []  # of derivatives that are differentiated again: whether all are 0
        self._paddings: dict[int, int] = {}  # the token that is the padding, by the number of tokens
        self._differences = Differences()
        self.losses: list[Tensor] = []  # whose backward was called
        self.moves_value = False  # a loss is a log-probability times an error of an output that has a gradient
        self.differentiated = False  # a gradient is differentiated again: the loss contains derivatives
        self._most = most
        self._arrived = arrived
        self._leaf: Node | None = None
        self._backward_pass = NONE
        self._returned = False  # a gradient has come back to the outputs of a model without layers
        self._batches = Batches()
        self._input: Tensor | None = None  # of the activation that is running
        self._next: LayerGradient | None = None  # of the recurrent layer that is running
        self._gradients: list[LayerGradient] = []
        self._hooks: list[weakref.ref[Any]] = []  # the graph holds them

    @property
    def is_over(self) -> bool:
        """Whether the graph is gone, and no gradient will come back."""
        return bool(self._hooks) and all(hook() is None for hook in reversed(self._hooks))

    @property
    def counts(self) -> bool:
        """Whether any gradient has come back."""
        return self._returned or any(layer.sums.arrivals for layer in self.layers)

    def follow_outputs(self, outputs: Any) -> None:
        """Wait for the gradient of a model's outputs: it has no layers."""
        for output in calls.tensors(outputs):
            self._await(output, self._return)

    def _await(self, output: Tensor, arrive: Callable[[Tensor | None], None]) -> None:
        if output.requires_grad:
            self._hooks.append(weakref.ref(arrive))
            output.register_hook(arrive)  # type: ignore[no-untyped-call]

    def _return(self, gradient: Tensor | None) -> None:
        self._returned |= gradient is not None and self._comes_back()

    def forget_gradients(self) -> None:
        """Drop the gradients: they were emptied."""
        self._returned = False
        for gradient in self._gradients:
            gradient.reset()

    def flush(self) -> None:
        """Compute the statistics that wait to be computed together."""
        self._batches.flush()

    @unfollowed
    @hidden_from_modes
    @torch.no_grad()
    def take_inputs(self, values: Any) -> None:
        """Take the statistics of the model's inputs."""
        for tensor in tensors(values):
            self.inputs.add(id(tensor))
            self.inputs_train |= tensor.requires_grad
            self.given.append(weakref.ref(tensor))
            if kind := statistics.unmeasured(tensor):
                self.notes[_("an input of the model: it is a {kind} tensor", kind=kind)] = None
            elif tensor.is_floating_point() and tensor.numel():
                sums = Sums()
                x = statistics.samples_first(bare(tensor), self.samples).unsqueeze(0)
                statistics.add_sizes(x, [sums])
                statistics.add_sample(x.reshape(1, statistics.first_rows(x[0], self.samples, None)[1], -1), [sums])
                self.of_inputs.add(sums)
            elif tensor.dim() and len(tensor) > 1:
                self.alike.append((tensor == tensor[:1]).all())

    @hidden_from_modes
    def compare(self, name: str, reads: int, outputs: Tensor, targets: Tensor, swapped: bool) -> None:
        """Take the sizes of what a loss compares."""
        if statistics.unmeasured(outputs) or statistics.unmeasured(targets) or not targets.numel():
            return
        whole = not targets.is_floating_point()
        kind: CallKey = (name, reads, tuple(outputs.shape), tuple(targets.shape), whole, swapped)
        if kind in self.compared:
            self.compared[kind].add(Compared.of(outputs, targets))
        elif len(self.compared) < MOST_KINDS and not targets.is_complex():
            self.compared[kind] = Compared.of(outputs, targets)

    @hidden_from_modes
    @without_gradients
    def take_batch_norm(self, module: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Take how far running statistics are from those of the batch."""
        given = calls.named(_BATCH_NORM, args, kwargs)
        running, spread, weight = (given.get(key) for key in ("running_mean", "running_var", "weight"))
        if not isinstance(running, Tensor) or not isinstance(spread, Tensor):
            return
        evaluating, trains = not given.get("training", False), isinstance(weight, Tensor) and weight.requires_grad
        if evaluating and not (trains and statistics.seen_no_data(running, spread)):
            if trains and not self._stack[0].module.training:
                self.resting_norms[module] = None
            return  # evaluation on purpose: it has statistics, or is frozen
        x = bare(given["input"])
        if not x.numel():
            return
        x = x.reshape(*x.shape[:2], -1)  # [samples, channels, positions]
        stride = x[:, :1].numel() // MOST_NUMBERS | 1  # odd, so that it meets every column of an image of even width
        x = x[..., ::stride].float()
        var, mean = torch.var_mean(x, (0, 2), correction=0)
        drift = ((mean - running).square() / (var + float(given.get("eps", 1e-5)))).mean()
        self.batch_norms.append((module, len(x), given.get("momentum", 0.1), drift, evaluating))

    def take_dropout(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], origin: Origin | None) -> None:
        """Take the share that dropout drops.

        In training mode not that of attention, whose weights come from a softmax or have no origin, nor of a tensor
        that was dropped before, as by branches side by side: what one drops, others read.
        """
        share = calls.dropped(args, kwargs)
        attention = origin is None or (origin.producer >= 0 and self.layers[origin.producer].function == "softmax")
        again = any(dropped() is args[0] for dropped in self._dropped)
        if share and not ((attention or again) and self._stack and self._stack[0].module.training):
            self.dropouts.append(share)
            if isinstance(args[0], Tensor):
                self._dropped.append(weakref.ref(args[0]))

    @hidden_from_modes
    @without_gradients
    def take_values(self, weights: LayerCall, args: tuple[Any, ...]) -> None:
        """Take whether the mask of a softmax hides what differs in the values that it weighs."""
        seen = weights.sums.seen
        values = next((t for t in args[1::-1] if isinstance(t, Tensor) and t.shape[-1:] != (1,)), None)
        if seen is not None and values is not None and not statistics.unmeasured(values):
            add_values(weights.sums, seen, bare(values))

    @hidden_from_modes
    def take_term(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any) -> None:
        """Note a term of the loss."""
        single = isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad
        if single and not statistics.unmeasured(value):
            reads = self._origin(args[0]).producer if args and isinstance(args[0], Tensor) else -1
            call = TermCall.of(name, reads, args, kwargs, value, self._living_inputs, self._names_of_parameters)
            call.take_padding(args, kwargs, self._paddings)
            self.terms.append(call)

    def take_difference(self, name: str, reads: int, outputs: Tensor, targets: Tensor, difference: Tensor) -> None:
        """Note a difference, which may become a term of a loss that is written by hand."""
        if difference.requires_grad and outputs.shape == targets.shape and not statistics.unmeasured(difference):
            self._differences.note(name, reads, (outputs, targets), difference, self._living_inputs)

    def take_square(self, name: str, args: tuple[Any, ...]) -> None:
        """Note a term of the loss: the square of such a difference."""
        if args and (term := self._differences.squared(name, args)):
            self.terms.append(term)

    @hidden_from_modes
    def take_derivatives(self, derivatives: Any) -> None:
        """Note whether derivatives are 0 for all samples."""
        for derivative in tensors(derivatives):
            if derivative.numel() > 1 and not statistics.unmeasured(derivative):
                self.flat_derivatives.append(~derivative.detach().any())

    @property
    def _living_inputs(self) -> list[Tensor]:
        return [tensor for given in self.given if (tensor := given()) is not None]

    def take_loss(self, loss: Tensor) -> None:
        """Keep the value of a loss."""
        self.constant_terms.read(loss)
        self.moves_value |= loss_graph.moves_its_value(loss)
        if loss.numel() == 1:
            self.losses.append(loss.detach().reshape(()))

    @hidden_from_modes
    def before(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], in_place: bool) -> tuple[Any, ...]:
        """Keep the input of an activation; give a recurrent layer an input whose gradient can be measured."""
        if name in RECURRENT:
            return self._before_recurrent(args)
        x = args[0] if args else kwargs.get("input")
        if not ACTIVATIONS[name].by_output and isinstance(x, Tensor) and not statistics.unmeasured(x):
            x = statistics.samples_first(bare(x), self.samples)
            x = x[: statistics.first_rows(x, self.samples, self._most)[0]]
            self._input = x.clone() if in_place else x
        return args

    @hidden_from_modes
    @without_gradients
    def after(self, layer: LayerCall, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: list[Tensor]) -> None:
        """Take the statistics of a layer, and wait for its gradient."""
        gradient, self._next = self._next or LayerGradient(), None
        layer.sums, layer.dtype = gradient.sums, outputs[0].dtype
        if kind := statistics.unmeasured(outputs[0]):
            self.notes[_("the output of {name}: it is a {kind} tensor", name=layer.name, kind=kind)] = None
            return
        output = bare(outputs[0])
        if not self.samples:
            first = next((t for t in tensors((args, kwargs)) if not isinstance(t, nn.Parameter)), output)
            self.samples = first.shape[1 if _time_first(layer, args, first) else 0] if first.dim() else 1
        layer.shape, layer.disjoint = output.shape, calls.is_disjoint(layer.function, args, kwargs)
        if output.numel():
            if _time_first(layer, args, output) and output.shape[1] == self.samples:
                output = output.movedim(1, 0)  # also where there are as many steps
            self._take_output(layer, output, args[1:], kwargs)
        self._input = None
        self._take_read(layer, args)
        if layer.function == "embedding" and (padding := calls.padding(args, kwargs)):
            count, index = padding
            self._paddings[count] = index
        if layer.function in FUNCTIONS:
            try:
                add_attention(layer.sums, layer.function, args, kwargs, output)
            except (RuntimeError, TypeError, AssertionError, IndexError) as error:
                reason = str(error).splitlines()[0]
                self.notes[_("the attention weights of {name}: {reason}", name=layer.name, reason=reason)] = None
        self._gradients.append(gradient)
        for place, value in enumerate(outputs):
            self._await(value, partial(self._arrive, gradient, place))

    def _take_read(self, layer: LayerCall, args: tuple[Any, ...]) -> None:
        """Take the size of what a layer reads, if that are the model's inputs, or embeddings beside them."""
        if layer.role != "weights" or layer.function.startswith("embedding"):
            return
        if not all(self.layers[i].function.startswith("embedding") for i in bits(layer.sources)):
            return
        given = (t for t in tensors(args[:2]) if t.is_floating_point() and not isinstance(t, nn.Parameter))
        values = next(given, None)
        if values is not None and values.numel() and not statistics.unmeasured(values):
            layer.sums.read = float(values.numel())
            layer.sums.read_squares, _nonfinite = statistics.squared_size(bare(values))

    def _take_output(self, layer: LayerCall, output: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        x, most, dim = statistics.samples_first(output, self.samples), self._most, layer.dim
        rows, samples = statistics.first_rows(x, self.samples, most)
        activation = ACTIVATIONS.get(layer.function)
        key: Hashable = ()
        options: dict[str, Any] = {}
        if activation is not None:
            options = activation.chosen(args, kwargs)
            changing = any(isinstance(value, Tensor) for value in options.values())
            key = None if changing else (layer.function, dim, *options.items())

        def add_slopes_of(stack: Tensor, owners: list[Sums]) -> None:
            assert activation is not None
            statistics.add_slopes(activation.relative_slopes(stack, options), owners, dim)

        def add(stack: Tensor, owners: list[Sums]) -> None:
            statistics.add_sizes(stack, owners)
            part = _part(stack[:, :rows], dim, most)
            statistics.add_sample(part.reshape(len(stack), samples, -1), owners)
            if activation is not None and activation.by_output:
                add_slopes_of(part, owners)

        self._batches.put(None if key is None else (rows, samples, key), x, layer.sums, add)
        if activation is not None and not activation.by_output and self._input is not None:
            self._batches.put(key, _part(self._input.unsqueeze(0), dim, most)[0], layer.sums, add_slopes_of)

    def _before_recurrent(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not torch.is_grad_enabled() or not args:
            return args
        x = args[0]
        packed = args[1] if isinstance(args[1], Tensor) and not args[1].is_floating_point() else None
        if not x.requires_grad and autograd.in_checkpoint():
            return args  # a recomputation may not save more than the first computation saved
        self._next = LayerGradient(packed, 1 if packed is None and args[-1] is True and x.dim() == 3 else 0)
        x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        x.register_hook(partial(self._arrive, self._next, INPUT))
        return (x, *args[1:])

    def _arrive(self, of_layer: "LayerGradient", place: int, gradient: Tensor | None) -> None:
        # None is from a function without a derivative, such as those of quantized layers.
        try:
            if gradient is not None and self._comes_back():
                of_layer.add(place, gradient, self.samples)
        except Exception as error:
            self.note_bug("backward", error)

    def _comes_back(self) -> bool:
        """Whether the gradient that arrives counts: of one backward pass all gradients do, or none."""
        if backward_pass() == self._backward_pass:
            return True
        if self._leaf is None or not autograd.accumulates(self._leaf):
            self._leaf = autograd.nearest_leaf(autograd.running_node())
        if not autograd.accumulates(self._leaf):  # it is not on its way into the `.grad` of a parameter
            self.differentiated |= torch.is_grad_enabled()
            return False
        self._backward_pass = backward_pass()
        self._arrived(self)
        return True


def _part(stack: Tensor, dim: int, most: int | None) -> Tensor:
    """The positions that are measured of a stack of first samples, in one piece."""
    return (stack if most is None else statistics.thinned(stack, dim)).contiguous()


def _time_first(layer: LayerCall, args: tuple[Any, ...], values: Tensor) -> bool:
    """Whether dimension 0 of what a layer reads or returns counts steps."""
    steps = layer.function == ATTENTION or (layer.function in RECURRENT and args[-1] is not True)
    return steps and values.dim() == 3


class LayerGradient:
    """The gradient at the outputs of one layer, and at the input of a recurrent one.

    Several gradients may come through a graph that is kept; they add up.
    """

    def __init__(self, batch_sizes: Tensor | None = None, time_dim: int = 0) -> None:
        self.sums = Sums()
        self._batch_sizes = batch_sizes
        self._time_dim = time_dim
        self.reset()

    def reset(self) -> None:
        """Drop what has arrived."""
        self._gradients: dict[int, Tensor] = {}
        self._sizes: dict[int, tuple[Number, Number]] = {}
        self.sums.arrivals = self.sums.gradient = self.sums.nonfinite_gradient = 0.0
        self.sums.steps = self.sums.step_samples = None

    @unfollowed
    @without_gradients
    def add(self, place: int, gradient: Tensor, samples: int) -> None:
        """Take the gradient of an output, or of the input if the place is `INPUT`."""
        gradient, before = bare(gradient), self._gradients.pop(place, None)
        if before is not None:
            gradient = before + gradient
        if keeps_graph():
            self._gradients[place] = gradient
        if place == INPUT:
            self.sums.steps, self.sums.step_samples = statistics.step_squares(
                gradient, self._batch_sizes, self._time_dim
            )
            return
        self.sums.samples = float(samples)
        self.sums.arrivals += 1
        self._sizes[place] = statistics.squared_size(gradient)
        if len(self._sizes) == 1:  # without a sum: on a GPU each one is a kernel
            self.sums.gradient, self.sums.nonfinite_gradient = self._sizes[place]
        else:
            self.sums.gradient = sum(size for size, _ in self._sizes.values())
            self.sums.nonfinite_gradient = sum(count for _, count in self._sizes.values())
