"""A forward pass and its loss while they run: which calls make layers, their numbers, and gradients that come back."""

import operator
import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node as GraphNode

from unstuck._torch import autograd
from unstuck._torch.autograd import NONE, backward_pass, bare, gradient_state, keeps_graph
from unstuck._torch.modes import hidden_from_modes, unfollowed
from unstuck.extensions import is_ours
from unstuck.language import _
from unstuck.measure import calls, losses, statistics
from unstuck.measure.activations import ACTIVATIONS
from unstuck.measure.batches import Batches
from unstuck.measure.calls import ATTENTION, RECURRENT
from unstuck.measure.comparisons import MOST_KINDS, CallKey, Compared
from unstuck.measure.flow import UNKNOWN, Flow, Origin, bits, sources_of, weights_of
from unstuck.measure.layer_call import LayerCall
from unstuck.measure.measurement import Role
from unstuck.measure.running_module import RunningModule
from unstuck.measure.statistics import Number, Sums
from unstuck.measure.strays import is_product, place_of
from unstuck.step.node import Node, tensors_in
from unstuck.step.recorder import Recorder
from unstuck.wording import in_one_line


class ForwardPass:
    """Finds the layers of a forward pass among its calls, takes their statistics, and waits for their gradients.

    It follows the calls of its loss, too, until a gradient comes back. It keeps numbers only: its hooks are on tensors
    and vanish with the graph.
    """

    def __init__(
        self,
        recorder: Recorder,
        stack: list[RunningModule],  # the modules that run, outermost first
        batches: Batches,  # of all passes of the step
        inputs: Any,
        *,
        samples: int,  # of the batch; 0: the length of what the first layer reads
        most: int | None,  # samples that are compared with each other
        arrived: Callable[["ForwardPass"], None],  # is called when a gradient arrives that counts
    ) -> None:
        self.flow = Flow()
        self.count = 1  # forward passes that it stands for
        self.layers = self.flow.layers
        self.training = False  # the mode of the model
        self.used: set[str] = set()  # names of the parameters that anything in the pass took
        self.strays: dict[str, None] = {}  # where modules keep weights that train and are not parameters of the model
        self.unplaced: dict[str, weakref.ref[Tensor]] = {}  # weights of no module, by the function that takes them
        self.replacing: dict[str, weakref.ref[nn.Parameter]] = {}  # parameters that came in the pass, by name
        # of no module of the model, that the loss takes, with the states of their gradients
        self.loss_parameters: dict[str, tuple[weakref.ref[Tensor], tuple[int, int] | None]] = {}
        self.notes: dict[str, None] = {}  # what could not be followed or measured
        self.ends_at: list[tuple[Node, Tensor | None]] = []  # the losses whose backward was called, and their values
        self._unplaced_noted = False
        self.step = recorder.step  # with the calls of all passes
        self._recorder = recorder
        self._stack = stack
        self._calls: Counter[str] = Counter()
        self.of_inputs = Sums()
        self.inputs_train = any(tensor.requires_grad for tensor in tensors_in(inputs))
        self.samples = samples
        self.alike: list[Tensor] = []  # for each input of whole numbers: whether all samples are the same
        self.compared: dict[CallKey, Compared] = {}
        self.differentiated = False  # a gradient is differentiated again: the loss contains derivatives
        self._most = most
        self._arrived = arrived
        self._leaf: GraphNode | None = None
        self._backward_pass = NONE
        self.used_in = NONE  # the backward pass whose gradients an optimizer of other weights has used
        self._returned = False  # a gradient has come back to the outputs of a model without layers
        self.batches = batches
        self._input: Tensor | None = None  # of the activation that is running
        self._gradients: list[LayerGradient] = []
        self._hooks: list[weakref.ref[Any]] = []  # the graph holds them

    def note_bug(self, name: str, error: Exception) -> None:
        """Something of ours has failed, at a call of the user's: the user's program runs on."""
        reason = in_one_line(error)
        note = _("a call of {name}, because of a bug in unstuck: please report it ({reason})", name=name, reason=reason)
        self.notes[note] = None

    def continues(self, values: Any, name: str) -> bool:
        """Whether an outermost module that reads these values continues the pass: parts of a model called one by one.

        The values come from one of the pass's layers, or the module is new and they come from unknown calls.
        """
        arguments = list(tensors_in(values))
        if any(self._origin(t).sources for t in arguments):
            return True
        ran = any(layer.module == name or layer.module.startswith(f"{name}.") for layer in self.layers)
        computed = any(t.requires_grad and not t.is_leaf for t in arguments)
        return bool(self.layers) and bool(name) and not ran and computed

    def _origin(self, tensor: Tensor) -> Origin:
        node = self._recorder.known(tensor)
        return UNKNOWN if node is None else self.flow.origin(node)

    @unfollowed
    def leave(self, running: RunningModule, args: tuple[Any, ...], result: Any) -> None:
        """A module has run: results of unknown origin come from its last layer, or from what it read."""
        unknown = [t for t in tensors_in(result) if t.is_floating_point() and self._origin(t) is UNKNOWN]
        if unknown:
            ran = len(self.layers) > running.layers
            sources = 1 << (len(self.layers) - 1) if ran else sources_of([self._origin(t) for t in tensors_in(args)])
            for tensor in unknown if sources else ():
                self.flow.origins[self._recorder.node_of(tensor)] = Origin(sources)

    def before(self, function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """A function is about to run: keep the input of an activation."""
        if name in ACTIVATIONS:
            x = args[0] if args else kwargs.get("input")
            if not ACTIVATIONS[name].by_output and isinstance(x, Tensor):
                self._keep_input(x, calls.writes_in_place(function, args, kwargs))

    @hidden_from_modes
    def _keep_input(self, x: Tensor, in_place: bool) -> None:
        if not statistics.unmeasured(x):
            x = statistics.samples_first(bare(x), self.samples)
            x = x[: statistics.first_rows(x, self.samples, self._most)[0]]
            self._input = x.clone() if in_place else x

    def after(self, node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """A function has run."""
        if self._stack:
            self._follow(node, args, kwargs, result)
        elif node.grad_enabled:
            if node.function not in calls.MOVES:
                self._take_loss_call(node)
            self._follow(node, args, kwargs, result)

    def _follow(self, node: Node, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        name, flow = node.function, self.flow
        origins = [flow.origin(read) for read in node.reads]
        self.used.update([read.target for read in node.reads if read.op == "parameter"])
        known = any([origin is not UNKNOWN for origin in origins])
        if not (known or self._stack):
            return  # what does not come from the model is no part of it
        if name == "setitem":
            target, sources = origins[0], sources_of(origins)
            flow.origins[node] = Origin(sources, target.weights, target.dim) if sources else target
            return
        outputs = [t for t in tensors_in(result) if t.is_floating_point() or t.is_complex()]
        if not outputs:
            return
        weights = weights_of(origins)
        if self._stack and self._stack[-1].parametrizes:
            flow.origins[node] = Origin(0, weights, constant=True)
            return
        arguments = list(tensors_in((args, kwargs)) if kwargs else tensors_in(args))
        constant = bool(origins) and all(o.constant for o in origins)
        columns = len(origins) > 1 and bool(origins[0].weights) and not origins[1].weights
        dim = calls.feature_dim(name, arguments, [o.dim for o in origins], columns, outputs[0])
        beyond = self._is_beyond(name, arguments, origins)
        sources = sources_of(origins)
        if beyond and name not in calls.OF_LOSSES:
            flow.origins[node] = Origin(sources, dim=dim, beyond=True)
            return
        flow.calls.append(node)
        role = None if beyond else self._role(node, arguments, weights, constant, outputs[0].is_complex())
        if role is not None:
            layer = LayerCall(node, *self._place(name), role, sources, weights if role == "weights" else (), dim)
            if self._stack and layer.kind == self._stack[-1].kind:
                layer.alike = self._stack[-1].alike
            layer.ours = bool(self._stack) and is_ours(type(self._stack[-1].module).__module__)
            flow.add(layer)
            self._measure(layer, args, kwargs, outputs)
        elif known:
            own = () if sources or name in calls.NORMS else weights  # those of a normalisation make no layer
            flow.origins[node] = Origin(sources, own, dim, constant, beyond)
        if (compared := losses.comparison(flow, node)) is not None:
            self.compare(*compared)

    def _take_loss_call(self, node: Node) -> None:
        """Note layers and parameters of no module that a call of the loss takes."""
        for read in node.reads:
            layer = self.flow.layer(read) if read.op == "call_function" else None
            if layer is not None:
                layer.in_loss = True
            if read.op != "constant" or not read.requires_grad:
                continue
            own = read.tensor()
            if isinstance(own, nn.Parameter) and own not in {known() for known, _ in self.loss_parameters.values()}:
                place = f"{node.function} {list(own.shape)}" if own.dim() else node.function
                place += f" ({len(self.loss_parameters)})" if place in self.loss_parameters else ""
                self.loss_parameters[place] = weakref.ref(own), gradient_state(own)

    def _role(
        self, node: Node, arguments: list[Tensor], weights: tuple[str, ...], constant: bool, is_complex: bool
    ) -> Role | None:
        """The role of the layer that a function makes; None if it makes none."""
        name = node.function
        if is_complex:
            if name in calls.WEIGHTED and weights:
                note = _("layers of complex numbers, the first of them that of {name}", name=weights[0])
                self.notes[note] = None
            return None
        if name == calls.DOT_PRODUCT:
            return "attention"
        if name in calls.WEIGHTED and (weights or self._takes_strays(name, arguments)):
            return None if constant and name in calls.PRODUCTS else "weights"
        return "activation" if (name in ACTIVATIONS or name == "softmax") and not constant else None

    def _is_beyond(self, name: str, arguments: list[Tensor], origins: list[Origin]) -> bool:
        """Whether another network computes the result from the model's outputs, as a discriminator does."""
        known = zip(arguments, origins, strict=True)
        others = (isinstance(tensor, nn.Parameter) and origin is UNKNOWN for tensor, origin in known)
        return not self._stack and (any(o.beyond for o in origins) or (name in calls.WEIGHTED and any(others)))

    def _place(self, function: str) -> tuple[str, str, str]:
        """A layer's unique name, the module that is running, and the layer's kind."""
        module, name, kind = "", function, f"{function}()"
        if self._stack:
            running = self._stack[-1]
            module = running.name
            if running.is_layer or (function == calls.ATTENTION and module):
                running.is_layer = False  # a second layer in the same call is named by its function
                name, kind = module or function, running.kind
            elif module:
                name = f"{module}.{function}"
        self._calls[name] += 1
        times = self._calls[name]
        return f"{name}@{times}" if times > 1 else name, module, kind

    def _takes_strays(self, function: str, arguments: list[Tensor]) -> bool:
        """Whether a function takes weights that train and are not parameters of the model; notes where they are."""
        if not self._stack or not torch.is_grad_enabled():
            return False
        known = [t for t in arguments if t.requires_grad and t.dim() > 1 and id(t) not in self._recorder.inputs]
        own = [t for t in known if t.is_leaf or (self._origin(t) is UNKNOWN and is_product(t) and self._kept_at(t))]
        for stray in [t for t in own if isinstance(t, nn.Parameter)] or own:
            place = self._kept_at(stray)
            if place:
                self.strays[place] = None
                continue
            if isinstance(stray, nn.Parameter):
                of = self._stack[-1].name
                self.unplaced[f"{of}.forward: {function}" if of else f"forward: {function}"] = weakref.ref(stray)
            if not self._unplaced_noted:
                self._unplaced_noted = True
                module = self._stack[-1].name
                where = _("the forward of '{name}'", name=module) if module else _("the model's own forward")
                note = _(
                    "weights that train and are not parameters of the model, the first of shape {shape}, which "
                    "{function} takes in {where}: model.parameters() does not give them to an optimizer",
                    shape=tuple(stray.shape), function=function, where=where,
                )  # fmt: skip
                self.notes[note] = None
        return bool(own)

    def _kept_at(self, weight: Tensor) -> str:
        return place_of(weight, [(running.name, running.module) for running in self._stack])

    def name(self, parameter: nn.Parameter) -> str:
        """The name of a parameter that replaces another for the pass, as those of FSDP do."""
        for running in reversed(self._stack):
            for name, own in running.module.named_parameters(recurse=running is self._stack[-1]):
                if own is parameter:
                    found = f"{running.name}.{name}" if running.name else name
                    self.replacing[found] = weakref.ref(parameter)
                    return found
        return ""

    @property
    def is_over(self) -> bool:
        """Whether the graph is gone, and no gradient will come back."""
        return bool(self._hooks) and all(hook() is None for hook in reversed(self._hooks))

    @property
    def counts(self) -> bool:
        """Whether any gradient has come back."""
        return self._returned or any(layer.sums.arrivals for layer in self.layers)

    def note_use(self) -> None:
        """An optimizer of other weights makes a step."""
        if self.counts and self.used_in == NONE:
            self.used_in = self._backward_pass

    @property
    def mixed(self) -> bool:
        """Whether a gradient has come back again after such a step."""
        return self.used_in not in (NONE, self._backward_pass)

    def follow_outputs(self, outputs: Any) -> None:
        """Wait for the gradient of a model's outputs: it has no layers."""
        for output in tensors_in(outputs):
            self._await(output, self._return)

    def _await(self, output: Tensor, arrive: Callable[[Tensor | None], None]) -> None:
        if output.requires_grad:
            self._hooks.append(weakref.ref(arrive))
            output.register_hook(arrive)  # type: ignore[no-untyped-call]

    def _return(self, gradient: Tensor | None) -> None:
        self._returned |= gradient is not None and self._comes_back()

    def forget_gradients(self) -> None:
        """Drop the gradients: they were emptied."""
        self._returned, self.used_in = False, NONE
        for gradient in self._gradients:
            gradient.reset()

    @unfollowed
    @hidden_from_modes
    def take_inputs(self, values: Any) -> None:
        """Take the statistics of the model's inputs."""
        for tensor in tensors_in(values):
            if kind := statistics.unmeasured(tensor):
                self.notes[_("an input of the model: it is a {kind} tensor", kind=kind)] = None
            elif tensor.is_floating_point() and tensor.numel():
                sums = Sums()
                x = statistics.samples_first(statistics.without_hidden(bare(tensor)), self.samples).unsqueeze(0)
                statistics.add_sizes(x, [sums])
                statistics.add_sample(x.reshape(1, statistics.first_rows(x[0], self.samples, None)[1], -1), [sums])
                self.of_inputs.add(sums)
            elif tensor.dim() and len(tensor) > 1:
                self.alike.append((tensor == tensor[:1]).all())

    @hidden_from_modes
    def compare(self, name: str, reads: str, outputs: Tensor, targets: Tensor, swapped: bool) -> None:
        """Take the sizes of what a loss compares."""
        if statistics.unmeasured(outputs) or statistics.unmeasured(targets) or not targets.numel():
            return
        whole = not targets.is_floating_point()
        kind: CallKey = (name, reads, tuple(outputs.shape), tuple(targets.shape), whole, swapped)
        if kind in self.compared:
            self.compared[kind].add(Compared.of(outputs, targets))
        elif len(self.compared) < MOST_KINDS and not targets.is_complex():
            self.compared[kind] = Compared.of(outputs, targets)

    def ends(self, loss: Tensor) -> None:
        """The `backward()` of a loss is about to run."""
        node = self._recorder.known(loss)
        if node is not None:
            self.ends_at.append((node, loss.detach().reshape(()) if loss.numel() == 1 else None))

    @hidden_from_modes
    @torch.no_grad()
    def _measure(
        self, layer: LayerCall, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: list[Tensor]
    ) -> None:
        """Take the statistics of a layer, and wait for its gradient."""
        gradient = LayerGradient()
        layer.sums, layer.dtype = gradient.sums, outputs[0].dtype
        if kind := statistics.unmeasured(outputs[0]):
            self.notes[_("the output of {name}: it is a {kind} tensor", name=layer.name, kind=kind)] = None
            return
        output = bare(outputs[0])
        if not (self.samples and self._gradients):  # the first layer
            first = next((t for t in tensors_in((args, kwargs)) if not isinstance(t, nn.Parameter)), output)
            if layer.function == "linear" and first.dim() == 1:  # the features of one sample
                self.samples = 1
            elif not self.samples:
                self.samples = first.shape[1 if _time_first(layer, args, first) else 0] if first.dim() else 1
        layer.shape = output.shape
        if output.numel():
            if _time_first(layer, args, output) and output.shape[1] == self.samples:
                output = output.movedim(1, 0)  # also where there are as many steps
            self._take_output(layer, output, args[1:], kwargs)
        self._input = None
        self._take_read(layer, args)
        self._gradients.append(gradient)
        for place, value in enumerate(outputs):
            self._await(value, partial(self._arrive, gradient, place))

    def _take_read(self, layer: LayerCall, args: tuple[Any, ...]) -> None:
        """Take the size of what a layer reads, if that are the model's inputs, or embeddings beside them."""
        if layer.role != "weights" or layer.function.startswith("embedding"):
            return
        if not all(self.layers[i].function.startswith("embedding") for i in bits(layer.sources)):
            return
        given = (t for t in tensors_in(args[:2]) if t.is_floating_point() and not isinstance(t, nn.Parameter))
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

        self.batches.put(None if key is None else (rows, samples, key), x, layer.sums, add)
        if activation is not None and not activation.by_output and self._input is not None:
            self.batches.put(key, _part(self._input.unsqueeze(0), dim, most)[0], layer.sums, add_slopes_of)

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


class CountedPass(ForwardPass):
    """All but the first of very many passes before a loss: those that a gradient comes back to are counted."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._sizes: list[int] = []  # samples of each pass so far
        self._ran: set[str] = set()  # outermost modules of the latest
        self.forget_gradients()

    def continues(self, values: Any, name: str) -> bool:
        """It does until there is a loss, or none can come."""
        return not (self._recorder.step.losses or self.is_over)

    def begin(self, values: Any, name: str, samples: int) -> None:
        """An outermost module runs: the latest pass goes on, or another one begins."""
        computed = any(t.requires_grad and not t.is_leaf for t in tensors_in(values))
        if not (self._sizes and computed and name not in self._ran):
            self._sizes.append(samples)
            self._ran = set()
        self._ran.add(name)

    def follow_outputs(self, outputs: Any) -> None:
        """Wait for the gradient of the outputs."""
        for output in tensors_in(outputs):
            self._await(output, partial(self._reach, len(self._sizes) - 1))

    def _reach(self, place: int, gradient: Tensor | None) -> None:
        if gradient is not None and self._comes_back() and place not in self._reached:
            self._returned = True
            self._reached.add(place)
            self.count, self.samples = self.count + 1, self.samples + self._sizes[place]

    def forget_gradients(self) -> None:
        """Drop the gradients: they were emptied."""
        super().forget_gradients()
        self.count, self.samples, self._reached = 0, 0, set[int]()


def _part(stack: Tensor, dim: int, most: int | None) -> Tensor:
    """The positions that are measured of a stack of first samples, in one piece."""
    return (stack if most is None else statistics.thinned(stack, dim)).contiguous()


def _time_first(layer: LayerCall, args: tuple[Any, ...], values: Tensor) -> bool:
    """Whether dimension 0 of what a layer reads or returns counts steps."""
    steps = layer.function == ATTENTION or (layer.function in RECURRENT and args[-1] is not True)
    return steps and values.dim() == 3


class LayerGradient:
    """The gradient at the outputs of one layer; several may come through a graph that is kept, and add up."""

    def __init__(self) -> None:
        self.sums = Sums()
        self.reset()

    def reset(self) -> None:
        """Drop what has arrived."""
        self._gradients: dict[int, Tensor] = {}
        self._sizes: dict[int, tuple[Number, Number]] = {}
        self.sums.arrivals = self.sums.gradient = self.sums.nonfinite_gradient = 0.0

    @unfollowed
    def add(self, place: int, gradient: Tensor, samples: int) -> None:
        """Take the gradient of an output."""
        gradient, before = bare(gradient), self._gradients.pop(place, None)
        if before is not None:
            gradient = before + gradient
        if keeps_graph():
            self._gradients[place] = gradient
        self.sums.samples = float(samples)
        self.sums.arrivals += 1
        self._sizes[place] = statistics.squared_size(gradient)
        both = zip(*self._sizes.values(), strict=True)  # without adding them to 0: on a GPU that is a kernel
        self.sums.gradient, self.sums.nonfinite_gradient = (reduce(operator.add, numbers) for numbers in both)
