"""A forward pass and its loss, followed function by function: layers, what feeds them, their numbers and gradients.

A `TorchFunctionMode` receives every call of PyTorch that the model makes, from its modules and from its own code alike;
module hooks tell in which module.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from unstuck._torch import autograd
from unstuck._torch.autograd import NONE, backward_pass, bare, keeps_graph
from unstuck._torch.modes import hidden_from_modes, original, transforms_active, unfollowed, without_gradients
from unstuck.extensions import is_ours
from unstuck.language import _
from unstuck.measure import calls, loss_graph, statistics
from unstuck.measure.activations import ACTIVATIONS
from unstuck.measure.attention import FUNCTIONS, add_attention
from unstuck.measure.batches import Batches
from unstuck.measure.calls import ATTENTION, RECURRENT, tensors
from unstuck.measure.comparisons import MOST_KINDS, CallKey, Compared
from unstuck.measure.constant_terms import ConstantTerms
from unstuck.measure.layer_call import LayerCall, joins_steps
from unstuck.measure.loss_calls import LossCalls
from unstuck.measure.measurement import Role
from unstuck.measure.running_module import RunningModule
from unstuck.measure.statistics import Number, Sums
from unstuck.measure.strays import is_product, place_of
from unstuck.measure.tensor_origin import UNKNOWN, Origin, bits, sources_of, weights_of
from unstuck.measure.terms import Differences, TermCall
from unstuck.measure.views import Shapes, swapped_shapes
from unstuck.wording import in_one_line

_BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
"""Names of the functions' arguments, in order."""
MOST_NUMBERS = 4096
"""Numbers of a channel, about, from which the mean and the variance of a batch normalisation are estimated."""
INPUT = -1
"""The place of a layer's input; the places of its outputs are 0, 1, ..."""


class ForwardPass(TorchFunctionMode):
    """Follows one forward pass and its loss while it is entered, function by function, and takes their statistics.

    It finds the layers, what feeds them and the weights that they use, and waits for the gradients that come back. It
    knows the names of the model's parameters by identity, and the stack of running modules, outermost first. It keeps
    numbers only: its hooks are on tensors and vanish with the graph.
    """

    def __init__(
        self,
        parameters: Mapping[int, str],
        stack: list[RunningModule],
        *,
        samples: int,  # of the batch; 0: the length of what the first layer reads
        most: int | None,  # samples that are compared with each other
        arrived: Callable[["ForwardPass"], None],  # is called when a gradient arrives that counts
    ) -> None:
        super().__init__()
        self.layers: list[LayerCall] = []
        self.used: set[str] = set()  # names of the parameters that anything in the pass took
        self.loss_function: str | None = None  # the last that was called
        self.loss_reads = -1  # the layer whose output it read
        self.strays: dict[str, None] = {}  # where modules keep weights that train and are not parameters of the model
        self.normalised: dict[str, str] = {}  # by the layer that it reads: a softmax or log-softmax
        self.swaps: dict[str, Shapes] = {}  # by the layer or the function that reads such a view
        self.loss_calls, self.constant_terms = LossCalls(), ConstantTerms()
        self.unplaced: dict[str, weakref.ref[Tensor]] = {}  # weights of no module, by the function that takes them
        self.replacing: dict[str, weakref.ref[nn.Parameter]] = {}  # parameters that came in the pass, by name
        self.notes: dict[str, None] = {}  # what could not be followed or measured
        self.inputs: set[int] = set()  # the model's, by identity
        self.paused = False  # another tracker follows the calls for a while
        self.ended = False  # the model has run, and its loss is computed
        self.differentiated_loss = False  # a `backward()` was called
        self._unplaced_noted = False
        self._names_of_parameters = dict(parameters)
        self._stack = stack
        self._origins: dict[int, tuple[weakref.ref[Tensor], Origin]] = {}
        self._calls: Counter[str] = Counter()
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

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function and follow its tensors."""
        kwargs, func = kwargs or {}, original(func)
        name = calls.name_of(func)
        if not name or self.paused or (self.ended and not torch.is_grad_enabled()):
            return func(*args, **kwargs)
        if name == "backward" and self.ended:
            self.differentiated_loss = True
            try:
                self.take_loss(args[0])
            except Exception as error:
                self.note_bug(name, error)
            return func(*args, **kwargs)
        if transforms_active():
            self.notes[_("calls inside torch.func.vmap, grad and the like")] = None
            return func(*args, **kwargs)
        if name in calls.RECURRENT or name in ACTIVATIONS:
            try:
                read, args = args[:1], self.before(name, args, kwargs, calls.writes_in_place(func, args, kwargs))
                if read and isinstance(read[0], Tensor) and args[0] is not read[0]:
                    self._set_all([args[0]], self._origin(read[0]))  # the same numbers
            except Exception as error:
                self.note_bug(name, error)
        result = func(*args, **kwargs)
        try:
            self._take(name, args, kwargs, result)
        except Exception as error:
            self.note_bug(name, error)
        return result

    def note_bug(self, name: str, error: Exception) -> None:
        """Something of ours has failed, at a call of the user's: the user's program runs on."""
        reason = in_one_line(error)
        note = _("a call of {name}, because of a bug in unstuck: please report it ({reason})", name=name, reason=reason)
        self.notes[note] = None

    @unfollowed
    def _take(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """A function has run."""
        if self.ended:
            self.constant_terms.follow(name, args, kwargs, result, lambda t: bool(self._origin(t).sources))
            read = self.loss_calls.logarithms.follow(name, args, kwargs, result, self._origin)
            if read >= 0 and self.layers[read].role == "weights":
                self.normalised.setdefault(self.layers[read].name, "log")
        if isinstance(result, Tensor) or (isinstance(result, tuple | list) and result):
            self._follow(name, args, kwargs, result)
            if self.ended and name in calls.LOSSES:
                self.take_term(name, args, kwargs, result)
            elif self.ended and name in calls.SQUARES:
                self.take_square(name, args)
        elif name == "setitem":
            target, sources = self._origin(args[0]), sources_of([self._origin(t) for t in tensors(args)])
            if sources:
                self._set_all([args[0]], Origin(sources, target.weights, -1, target.dim))

    def continues(self, values: Any, name: str) -> bool:
        """Whether an outermost module that reads these values continues the pass: parts of a model called one by one.

        The values come from one of the pass's layers, or the module is new and they come from unknown calls.
        """
        arguments = list(tensors(values))
        if any(self._origin(t).sources for t in arguments):
            return True
        ran = any(layer.module == name or layer.module.startswith(f"{name}.") for layer in self.layers)
        computed = any(t.requires_grad and not t.is_leaf for t in arguments)
        return bool(self.layers) and bool(name) and not ran and computed

    def leave(self, running: RunningModule, args: tuple[Any, ...], result: Any) -> None:
        """A module has run: results of unknown origin come from its last layer, or from what it read."""
        unknown = [t for t in tensors(result) if self._origin(t) is UNKNOWN]
        if unknown:
            ran = len(self.layers) > running.layers
            sources = 1 << (len(self.layers) - 1) if ran else sources_of([self._origin(t) for t in tensors(args)])
            self._set_all([t for t in unknown if sources and t.is_floating_point()], Origin(sources))

    def _follow(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        outputs = [t for t in tensors([result]) if t.is_floating_point() or t.is_complex()]
        arguments = list(tensors((args, kwargs)) if kwargs else tensors(args))
        origins = [self._origin(t) for t in arguments]
        if self.ended and name not in calls.MOVES:
            self.loss_calls.take_parameters(name, arguments, self._names_of_parameters)
            for origin in (o for o in origins if o.producer >= 0):
                self.layers[origin.producer].in_loss = True
        if not outputs or (self.ended and all(o is UNKNOWN for o in origins)):
            return  # what does not come from the model is no part of it
        sources, weights = sources_of(origins), weights_of(origins)
        if self._stack and self._stack[-1].parametrizes:
            self._set_all(outputs, Origin(0, weights, constant=True))
            return
        constant = bool(origins) and all(o.constant for o in origins)
        columns = len(origins) > 1 and bool(origins[0].weights) and not origins[1].weights
        dim = calls.feature_dim(name, arguments, [o.dim for o in origins], columns, outputs[0])
        beyond = self._is_beyond(name, arguments, origins)
        if beyond and name not in calls.OF_LOSSES:
            self._set_all(outputs, Origin(sources, dim=dim, beyond=True))
            return
        role = None if beyond else self._role(name, arguments, weights, constant, outputs[0].is_complex())
        swapped = None if constant else swapped_shapes(name, arguments, origins[0].dim if origins else -1, outputs[0])
        swapped = swapped or (origins[0].swapped if name in calls.MOVES else None)
        shapes = next((o.swapped for o in origins if o.swapped), None)
        if name in calls.SOFTMAXES and origins[0].producer >= 0:
            read = self.layers[origins[0].producer].name
            if name == "logsumexp":  # of logits, as in torch.distributions
                self.normalised.setdefault(read, name)
            else:
                self.normalised[read] = name
        self._mark(name, args, kwargs, origins, outputs[0])
        keeps_producer = name in calls.MOVES or self._scales_core(name, args, origins)
        keeps_producer = keeps_producer or joins_steps(name, origins, self.layers)
        if role is not None:
            layer = LayerCall(*self._place(name), role, sources, weights if role == "weights" else (), name, dim)
            if name == "softmax":
                layer.softmax_dim = calls.softmax_dim(args, kwargs, outputs[0])
            layer.alike = self._stack[-1].alike if self._stack and layer.kind == self._stack[-1].kind else ""
            layer.reads = max((o.producer for o in origins), default=-1) if role != "attention" else -1
            if shapes and role != "activation":
                self.swaps[layer.name] = shapes
            self.layers.append(layer)
            self._set_all(outputs, Origin(1 << len(self.layers) - 1, producer=len(self.layers) - 1, dim=dim))
            self.after(layer, args, kwargs, outputs)
        elif swapped or any(o is not UNKNOWN for o in origins):
            producer, parameter = (origins[0].producer, origins[0].parameter) if keeps_producer else (-1, "")
            own = () if sources or name in calls.NORMS else weights  # those of a normalisation make no layer
            if shapes and (name in calls.PRODUCTS or name in calls.LOSSES):
                self.swaps[name] = shapes
            taken = calls.summed_of(name, origins)
            self._set_all(outputs, Origin(sources, own, producer, dim, constant, parameter, swapped, taken, beyond))

    def _role(
        self, name: str, arguments: list[Tensor], weights: tuple[str, ...], constant: bool, is_complex: bool
    ) -> Role | None:
        """The role of the layer that a function makes; None if it makes none."""
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
        return self.ended and (any(o.beyond for o in origins) or (name in calls.WEIGHTED and any(others)))

    def _mark(
        self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], origins: list[Origin], output: Tensor
    ) -> None:
        """Note what a function tells of the layers that it reads."""
        produced = [self.layers[o.producer] if o.producer >= 0 else None for o in origins]
        compared = None
        if name in calls.LOSSES:
            self.loss_function, self.loss_reads = name, origins[0].producer
        if name == "dropout" and self._stack:
            self.take_dropout(args, kwargs, origins[0])
        if name == calls.DOT_PRODUCT and kwargs.get("dropout_p"):
            self.take_dropout((None, kwargs["dropout_p"]), {}, None)
        if name == "batch_norm" and self._stack:
            self.take_batch_norm(self._stack[-1].name, args, kwargs)
        if name in calls.LOSSES or (self.ended and name in calls.DIFFERENCES):
            compared = self.loss_calls.difference(name, args, kwargs, self._origin)
        elif self.ended and name in calls.MULTIPLICATIONS | calls.ADDITIONS:
            compared = self.loss_calls.product_or_sum(name, args, self._origin)
        if compared is not None:
            self.compare(*compared)
            if name in calls.DIFFERENCES:
                self.take_difference(*compared[:4], output)
        if self.ended and name in calls.CLAMPS and produced[0] and calls.clamps_probabilities(args, kwargs):
            self.normalised[produced[0].name] = "clamp"
        if name in calls.MULTIPLICATIONS and len(origins) > 1:  # an activation's output times another signal is a gate
            for layer, other in ((produced[0], origins[1]), (produced[1], origins[0])):
                if layer is not None and layer.role == "activation" and other.sources:
                    layer.gate = True
            for factor, other in (origins[:2], origins[1::-1]):
                if factor.parameter and other.sources.bit_count() == 1:  # it comes from one layer
                    self.layers[other.sources.bit_length() - 1].scaled_by += (factor.parameter,)
        for layer in produced if name in calls.PRODUCTS else ():
            if layer is not None and layer.function == "softmax":
                layer.attends = True

    def _scales_core(self, name: str, args: tuple[Any, ...], origins: list[Origin]) -> bool:
        """Whether a function scales the output of a core, in its module; notes by how much."""
        producer = origins[0].producer if origins and self._stack and name in calls.SCALINGS else -1
        if producer < 0 or not isinstance(args[-1], int | float):
            return False
        core, running = self.layers[producer], self._stack[-1]
        if core.module != running.name or not is_ours(type(running.module).__module__):
            return False
        core.scale = float(args[-1]) ** calls.SCALINGS[name]
        return True

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
        known = [t for t in arguments if t.requires_grad and t.dim() > 1 and id(t) not in self.inputs]
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

    def _origin(self, tensor: Tensor) -> Origin:
        found = self._origins.get(id(tensor))
        if found is not None and found[0]() is tensor:
            return found[1]
        if isinstance(tensor, nn.Parameter):
            name = self._names_of_parameters.get(id(tensor)) or self._name_in_stack(tensor)
            if name:
                self.used.add(name)
                return Origin(0, (name,) if tensor.dim() > 1 else (), constant=True, parameter=name)
        return UNKNOWN

    def _name_in_stack(self, parameter: nn.Parameter) -> str | None:
        """The name of a parameter that replaces another for the pass, as those of FSDP do."""
        for running in reversed(self._stack):
            for name, own in running.module.named_parameters(recurse=running is self._stack[-1]):
                if own is parameter:
                    found = f"{running.name}.{name}" if running.name else name
                    self._names_of_parameters[id(parameter)] = found
                    self.replacing[found] = weakref.ref(parameter)
                    return found
        return None

    def _set_all(self, outputs: list[Tensor], origin: Origin) -> None:
        for output in outputs:
            self._origins[id(output)] = (weakref.ref(output), origin)

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
    def take_term(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any) -> None:
        """Note a term of the loss."""
        single = isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad
        if single and not statistics.unmeasured(value):
            reads = self._origin(args[0]).producer if args and isinstance(args[0], Tensor) else -1
            self.terms.append(TermCall.of(name, reads, args, kwargs, value, self._living_inputs))

    def take_difference(self, name: str, reads: int, outputs: Tensor, targets: Tensor, difference: Tensor) -> None:
        """Note a difference, which may become a term of a loss that is written by hand."""
        if difference.requires_grad and outputs.shape == targets.shape and not statistics.unmeasured(difference):
            self._differences.note(name, reads, (outputs, targets), difference, self._living_inputs)

    def take_square(self, name: str, args: tuple[Any, ...]) -> None:
        """Note a term of the loss: the square of such a difference."""
        if args and (term := self._differences.squared(name, args)):
            self.terms.append(term)

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
