"""One forward pass that is being measured, and what comes back through it."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from sigmoidcore._torch.autograd import NONE, accumulates, backward_pass, bare, in_checkpoint, nearest_leaf
from sigmoidcore.diagnosis.measure.activations import ACTIVATIONS, Activation, relative_slopes
from sigmoidcore.diagnosis.measure.apart import apart, without_gradients
from sigmoidcore.diagnosis.measure.batches import SMALL, Batches
from sigmoidcore.diagnosis.measure.statistics import (
    Number,
    Sums,
    dot_product_weights,
    first_rows,
    keys_allowed,
    samples_first,
    see_attention,
    see_sizes,
    see_slopes,
    see_some,
    squared_size,
    step_squares,
    thinned,
    unmeasured,
)
from sigmoidcore.diagnosis.measure.tracker import (
    ATTENTION,
    DOT_PRODUCT,
    HIDDEN,
    RECURRENT,
    Frame,
    Row,
    Tracker,
    attention_weights,
    tensors,
)

SEEN = frozenset({"softmax", ATTENTION, DOT_PRODUCT})
"""Functions that have attention weights."""
ATTENDED = 4
"""Samples whose attention weights are looked at."""


class Recording:
    """Takes statistics of every layer of a forward pass as it runs, and of the gradients that come back.

    Nothing of the pass is kept but numbers. The hooks are on tensors, and go with the graph.

    Args:
        names: the model's modules by identity.
        parameters: names of its parameters by identity.
        stack: the modules that are running.
        samples: of the batch; 0: the length of what the first layer reads.
        most: samples that statistics across samples are taken from; None: all.
        arrived: is called when a gradient arrives that counts.

    Attributes:
        tracker: the mode that sees the pass; enter it while the model runs.
        sums: statistics by row.
        inputs: statistics of the model's inputs.
        notes: what could not be seen.
        differentiated: a gradient came back that is differentiated again: the loss contains derivatives.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        parameters: Mapping[int, str],
        stack: list[Frame],
        *,
        samples: int,
        most: int | None,
        arrived: Callable[["Recording"], None],
    ) -> None:
        self.tracker = Tracker(names, parameters, stack, self)
        self.sums: list[Sums] = []
        self.inputs = Sums()
        self.samples = samples
        self.notes = self.tracker.notes
        self.differentiated = False
        self._most = most
        self._arrived = arrived
        self._leaf: Node | None = None
        self._pass = NONE
        self._batches = Batches()
        self._input: Tensor | None = None
        self._steps: Steps | None = None
        self._arrivals: list[Arrivals] = []

    @property
    def counts(self) -> bool:
        """Whether any gradient has come back."""
        return any(s.arrivals for s in self.sums)

    def forget_gradients(self) -> None:
        """What has come back was emptied."""
        for arrivals in self._arrivals:
            arrivals.forget()

    @torch.no_grad()
    def see_inputs(self, values: Any) -> None:
        """Take note of the model's inputs."""
        for tensor in tensors(values):
            self.tracker.given.add(id(tensor))
            if kind := unmeasured(tensor):
                self.notes[f"an input of the model: it is a {kind} tensor"] = None
            elif tensor.is_floating_point() and tensor.numel():
                sums = Sums()
                x = samples_first(bare(tensor), self.samples)
                see_sizes(x.reshape(1, -1), [sums])
                see_some(x.reshape(1, first_rows(x, self.samples, None)[1], -1), [sums])
                self.inputs.add(sums)

    @apart
    def before(
        self, function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, in_place: bool
    ) -> tuple[Any, ...]:
        """See the input of an activation; give a recurrent layer an input that tells what comes back to it."""
        if function in RECURRENT:
            return self._before_recurrent(args)
        x = args[0] if args else kwargs.get("input")
        if not ACTIVATIONS[function].by_output and isinstance(x, Tensor) and not unmeasured(x):
            x = samples_first(bare(x), self.samples)
            x = x[: first_rows(x, self.samples, self._most)[0]]
            self._input = x.clone() if in_place else x
        return args

    @apart
    @without_gradients
    def after(self, row: Row, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: list[Tensor]) -> None:
        """Take the statistics of a layer, and listen to its gradient."""
        sums = Sums()
        self.sums.append(sums)
        if kind := unmeasured(outputs[0]):
            self.notes[f"what {row.name} makes: it is a {kind} tensor"] = None
            row.data.update(shape=(), dtype=outputs[0].dtype)
            return
        output = bare(outputs[0])
        if not self.samples:
            first = next((t for t in tensors((args, kwargs)) if not isinstance(t, nn.Parameter)), output)
            self.samples = first.shape[1 if _time_first(row, args, first) else 0] if first.dim() else 1
        row.data.update(shape=output.shape, dtype=output.dtype)
        if output.numel():
            if _time_first(row, args, output) and output.shape[1] == self.samples:
                output = output.movedim(1, 0)  # also where there are as many steps
            self._see_output(row, sums, output, args[1:], kwargs)
        self._input = None
        if row.function in SEEN:
            self._see_attention(row, sums, args, kwargs, output)
        if self._steps is not None:
            self._steps.sums, self._steps = sums, None
        arrivals = Arrivals(sums)
        self._arrivals.append(arrivals)
        for place, value in enumerate(outputs):
            if value.requires_grad:
                value.register_hook(partial(self._arrive, arrivals, place))  # type: ignore[no-untyped-call]

    def flush(self) -> None:
        """Compute what was gathered."""
        self._batches.flush()

    def _see_output(
        self, row: Row, sums: Sums, output: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        x = samples_first(output, self.samples)
        rows, samples = first_rows(x, self.samples, self._most)
        slopes = _Slopes.of(row, args, kwargs)
        by_input = slopes is not None and not slopes.activation.by_output
        alone = slopes is not None and slopes.key is None
        if alone or x.numel() > SMALL:
            sums.count = float(x.numel())
            sums.squares, sums.nonfinite = squared_size(x)
            some = self._some(x[:rows], row.dim)
            see_some(some.reshape(1, samples, -1), [sums])
            if slopes is not None and not by_input:
                slopes.see(some.unsqueeze(0), [sums])
        else:

            def see(stack: Tensor, owners: list[Sums]) -> None:
                see_sizes(stack.flatten(1), owners)
                some = stack[:, :rows]
                see_some(some.reshape(len(stack), samples, -1), owners)
                if slopes is not None and not by_input:
                    slopes.see(some, owners)

            self._batches.put((rows, samples, None if slopes is None else slopes.key), x, sums, see)
        if slopes is not None and by_input and self._input is not None:
            x = self._some(self._input, row.dim)
            if alone or x.numel() > SMALL:
                slopes.see(x.unsqueeze(0), [sums])
            else:
                self._batches.put(slopes.key, x, sums, slopes.see)

    def _some(self, x: Tensor, dim: int) -> Tensor:
        """What is looked at of the first samples, in one piece."""
        return x.contiguous() if self._most is None else thinned(x, dim).contiguous()

    def _see_attention(
        self, row: Row, sums: Sums, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor
    ) -> None:
        try:
            if row.function == "softmax":
                scores = args[0] if args else kwargs["input"]
                if scores.shape != output.shape:
                    return
                dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
                if dim is not None and scores.dim() > 1 and dim % scores.dim() == scores.dim() - 1:
                    see_attention(sums, output[:ATTENDED], keys_allowed(bare(scores)[:ATTENDED], HIDDEN))
            elif row.function == ATTENTION:
                weights, allowed = attention_weights(args, kwargs, ATTENDED)
                see_attention(sums, weights, keys_allowed(allowed, False))
            elif row.function == DOT_PRODUCT:
                names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
                given = {**dict(zip(names, args, strict=False)), **kwargs}
                weights, scores = dot_product_weights(
                    bare(given["query"]),
                    bare(given["key"]),
                    given.get("attn_mask"),
                    bool(given.get("is_causal")),
                    given.get("scale"),
                    ATTENDED,
                )
                see_attention(sums, weights, keys_allowed(scores, HIDDEN))
        except (RuntimeError, TypeError, AssertionError, IndexError) as error:
            self.notes[f"the attention weights of {row.name} were not seen: {str(error).splitlines()[0]}"] = None

    def _before_recurrent(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not torch.is_grad_enabled() or not args:
            return args
        x = args[0]
        packed = args[1] if isinstance(args[1], Tensor) and not args[1].is_floating_point() else None
        steps = Steps(packed, 1 if packed is None and args[-1] is True and x.dim() == 3 else 0)
        if not x.requires_grad and in_checkpoint():
            return args  # it would keep more than it keeps when it is computed again, which is an error
        x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        x.register_hook(partial(self._arrive_steps, steps))
        self._steps = steps
        return (x, *args[1:])

    def _counts(self) -> bool:
        """Whether the gradient that arrives is on its way into the `.grad` of a parameter."""
        if self._leaf is not None and accumulates(self._leaf):
            return True
        leaf = nearest_leaf(torch._C._current_autograd_node())
        if accumulates(leaf):
            self._leaf = leaf
            return True
        return False

    def _arrive(self, arrivals: "Arrivals", place: int, gradient: Tensor) -> None:
        if backward_pass() != self._pass:  # of one backward pass all gradients count, or none
            if not self._counts():
                self.differentiated |= torch.is_grad_enabled()
                return
            self._pass = backward_pass()
            self._arrived(self)
        self._add(arrivals, place, gradient)

    @without_gradients
    def _add(self, arrivals: "Arrivals", place: int, gradient: Tensor) -> None:
        arrivals.add(place, bare(gradient))
        arrivals.sums.samples = float(self.samples)
        arrivals.sums.arrivals += 1

    @without_gradients
    def _arrive_steps(self, steps: "Steps", gradient: Tensor) -> None:
        if steps.sums is None or not self._counts():
            return
        gradient = steps.held.joined(0, gradient)
        steps.sums.steps, steps.sums.step_samples = step_squares(gradient, steps.batch_sizes, steps.time_dim)


@dataclass(frozen=True, slots=True)
class _Slopes:
    """How the relative slopes of one activation are taken.

    Attributes:
        activation: its kind.
        given: its options.
        dim: the dimension that counts neurons.
        key: layers with the same one are computed together; None: by itself, for an option is a tensor.
    """

    activation: Activation
    given: Mapping[str, Any]
    dim: int
    key: Hashable

    @classmethod
    def of(cls, row: Row, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> "_Slopes | None":
        """Of a layer; None if it is no activation."""
        activation = ACTIVATIONS.get(row.function)
        if activation is None:
            return None
        row.data.update(shuts=activation.shuts, flat=activation.flat)
        given = {**dict(zip(activation.options, args, strict=False)), **kwargs}
        given = {name: given[name] for name in activation.options if name in given}
        alike = not any(isinstance(value, Tensor) for value in given.values())
        return cls(activation, given, row.dim, (row.function, row.dim, *given.items()) if alike else None)

    def see(self, stack: Tensor, owners: list[Sums]) -> None:
        if self.key is None:
            slopes = relative_slopes(self.activation, stack[0], (), self.given).unsqueeze(0)
        else:
            slopes = relative_slopes(self.activation, stack, (), self.given)
        see_slopes(slopes, owners, self.dim)


def _time_first(row: Row, args: tuple[Any, ...], values: Tensor) -> bool:
    """Whether dimension 0 of what a layer reads or gives counts steps."""
    steps = row.function == ATTENTION or (row.function in RECURRENT and args[-1] is not True)
    return steps and values.dim() == 3


class Held:
    """Gradients that came through a graph that is kept: what comes through it again adds up with them."""

    def __init__(self) -> None:
        self._gradients: dict[int, Tensor] = {}

    def joined(self, place: int, gradient: Tensor) -> Tensor:
        """What has come back to a place so far."""
        before = self._gradients.pop(place, None)
        if before is not None:
            gradient = before + gradient
        if torch._C._autograd._get_current_graph_task_keep_graph():
            self._gradients[place] = gradient
        return gradient


class Arrivals:
    """What has come back to the outputs of one layer."""

    def __init__(self, sums: Sums) -> None:
        self.sums = sums
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._held = Held()
        self._sizes: dict[int, tuple[Number, Number]] = {}
        self.sums.arrivals = 0.0
        self.sums.gradient = self.sums.nonfinite_gradient = 0.0
        self.sums.steps = self.sums.step_samples = None

    def add(self, place: int, gradient: Tensor) -> None:
        """Take the gradient of an output."""
        self._sizes[place] = self.sums.gradient, self.sums.nonfinite_gradient = squared_size(
            self._held.joined(place, gradient)
        )
        if len(self._sizes) > 1:
            self.sums.gradient = sum(size for size, _ in self._sizes.values())
            self.sums.nonfinite_gradient = sum(count for _, count in self._sizes.values())


class Steps:
    """How the input of a recurrent layer counts its steps, and where what comes back to them goes."""

    def __init__(self, batch_sizes: Tensor | None, time_dim: int) -> None:
        self.batch_sizes = batch_sizes
        self.time_dim = time_dim
        self.held = Held()
        self.sums: Sums | None = None
