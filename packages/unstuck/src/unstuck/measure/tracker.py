"""Follows one forward pass, function by function: the layers, what feeds them, and the weights that they use.

A `TorchFunctionMode` receives every call of PyTorch that the model makes, from its modules and from its own code alike;
module hooks tell in which module. The tracker computes nothing: its subclass `Recorder` takes the statistics.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unstuck._torch.modes import original, transforms_active, unfollowed
from unstuck.extensions import is_ours
from unstuck.language import _
from unstuck.measure import calls
from unstuck.measure.activations import ACTIVATIONS
from unstuck.measure.calls import tensors
from unstuck.measure.constant_terms import ConstantTerms
from unstuck.measure.layer_call import LayerCall, joins_steps, place_in_memory
from unstuck.measure.loss_calls import LossCalls
from unstuck.measure.measurement import Role
from unstuck.measure.running_module import RunningModule
from unstuck.measure.strays import is_product, place_of
from unstuck.measure.tensor_origin import UNKNOWN, Origin, sources_of, weights_of
from unstuck.measure.views import Shapes, swapped_shapes
from unstuck.wording import in_one_line


class Tracker(TorchFunctionMode):
    """Follows one forward pass while it is entered.

    It knows the names of the model's parameters by identity, and the stack of running modules, outermost first.
    """

    def __init__(self, parameters: Mapping[int, str], stack: list[RunningModule]) -> None:
        super().__init__()
        self.layers: list[LayerCall] = []
        self.used: set[str] = set()  # names of the parameters that anything in the pass took
        self.loss_function: str | None = None  # the last that was called
        self.loss_reads = -1  # the layer whose output it read
        self.strays: dict[str, None] = {}  # where modules keep weights that train and are not parameters of the model
        self.normalised: dict[str, str] = {}  # by the layer that it reads: a softmax or log-softmax
        self.swaps: dict[str, Shapes] = {}  # by the layer or the function that reads such a view
        self.narrow_norms: dict[str, int] = {}  # modules that normalise one or two numbers together
        self.dropped_outputs = 0.0  # the share that a dropout right before the loss drops
        self.loss_calls, self.constant_terms = LossCalls(), ConstantTerms()
        self.unplaced: dict[str, weakref.ref[Tensor]] = {}  # weights of no module, by the function that takes them
        self.replacing: dict[str, weakref.ref[nn.Parameter]] = {}  # parameters that came in the pass, by name
        self.notes: dict[str, None] = {}  # what could not be followed or measured
        self.inputs: set[int] = set()  # the model's, by identity
        self.paused = False  # another tracker follows the calls for a while
        self.ended = False  # the model has run, and its loss is computed
        self.linear = True  # no function but activations and attention bends what layers return
        self.differentiated_loss = False  # a `backward()` was called
        self._unplaced_noted = False
        self._names_of_parameters = dict(parameters)
        self._stack = stack
        self._origins: dict[int, tuple[weakref.ref[Tensor], Origin]] = {}
        self._calls: Counter[str] = Counter()

    def before(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], in_place: bool) -> tuple[Any, ...]:
        """A recurrent layer or an activation is about to run, perhaps in place; returns its arguments."""
        return args

    def compare(self, name: str, reads: int, outputs: Tensor, targets: Tensor, swapped: bool) -> None:
        """A loss compares outputs, of the layer at a position or of none (-1), with targets."""

    def take_dropout(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], origin: Origin | None) -> None:
        """Dropout has run in a module, on a tensor of this origin or on attention weights."""

    def take_batch_norm(self, module: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Batch normalisation has run in a module."""

    def take_values(self, weights: LayerCall, args: tuple[Any, ...]) -> None:
        """A softmax weighs another argument."""

    def take_term(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Any) -> None:
        """A loss function has run."""

    def take_difference(self, name: str, reads: int, outputs: Tensor, targets: Tensor, difference: Tensor) -> None:
        """The loss has subtracted targets from outputs of a layer, or the other way round."""

    def take_square(self, name: str, args: tuple[Any, ...]) -> None:
        """The loss has called a function that may square a difference."""

    def take_derivatives(self, derivatives: Any) -> None:
        """The pass or its loss has taken derivatives, to be differentiated again."""

    def take_loss(self, loss: Tensor) -> None:
        """The `backward()` of a loss is about to run."""

    def after(self, layer: LayerCall, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: list[Tensor]) -> None:
        """A layer has run."""

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
        note = _(
            "a call of {name}, because of a bug in Sigmoid Core: please report it ({reason})", name=name, reason=reason
        )
        self.notes[note] = None

    @unfollowed
    def _take(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        """A function has run."""
        if self.ended:
            self.constant_terms.follow(name, args, kwargs, result, lambda t: bool(self._origin(t).sources))
            read = self.loss_calls.follow(name, args, kwargs, result, self._origin)
            if read >= 0 and self.layers[read].role == "weights":
                self.normalised.setdefault(self.layers[read].name, "log")
        if isinstance(result, Tensor) or (isinstance(result, tuple | list) and result):
            self._follow(name, args, kwargs, result)
            if self.ended and name in calls.LOSSES:
                self.take_term(name, args, kwargs, result)
            elif self.ended and name in calls.SQUARES:
                self.take_square(name, args)
            elif name == "grad" and kwargs.get("create_graph"):
                self.take_derivatives(result)
        elif name == "setitem":
            target, sources = self._origin(args[0]), sources_of([self._origin(t) for t in tensors(args)])
            if sources:
                self._set_all([args[0]], Origin(sources, target.weights, -1, target.dim))
        elif name in calls.TAKEN_OUT:  # anything may be computed with these numbers
            self.linear &= self.ended or not sources_of([self._origin(t) for t in tensors(args)])

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
            self.linear &= self.ended or not sources_of(origins)  # a comparison bends, as in x * (x > 0)
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
            self._read_by_softmax(name, origins[0], calls.softmax_dim(args, kwargs, outputs[0]), outputs[0])
        self._mark(name, args, kwargs, origins, outputs[0])
        keeps_producer = name in calls.MOVES or self._scales_core(name, args, origins)
        keeps_producer = keeps_producer or joins_steps(name, origins, self.layers)
        if role is not None:
            layer = LayerCall(*self._place(name), role, sources, weights if role == "weights" else (), name, dim)
            if name == "softmax":
                layer.softmax_dim = calls.softmax_dim(args, kwargs, outputs[0])
                layer.place_in_memory = place_in_memory(outputs[0])
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
            taken = calls.summed_of(name, origins), calls.dropped_of(name, args, kwargs, origins)
            self._set_all(outputs, Origin(sources, own, producer, dim, constant, parameter, swapped, *taken, beyond))

    def _read_by_softmax(self, name: str, origin: Origin, over: int, output: Tensor) -> None:
        """Note that a softmax reads a layer, and whether it normalises over another dimension than the features."""
        read = self.layers[origin.producer]
        if name == "logsumexp":  # of logits, as in torch.distributions
            self.normalised.setdefault(read.name, name)
            return
        self.normalised[read.name] = name
        read.read_over = over if calls.mixes_features(output.shape, over, origin.dim) else None

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
        self.linear &= self.ended or name in ACTIVATIONS or name == calls.DOT_PRODUCT or calls.is_linear(name, origins)
        if name in calls.LOSSES:
            self.loss_function, self.loss_reads = name, origins[0].producer
        if name == "dropout" and self._stack:
            self.take_dropout(args, kwargs, origins[0])
        if name == calls.DOT_PRODUCT and kwargs.get("dropout_p"):
            self.take_dropout((None, kwargs["dropout_p"]), {}, None)
        if name == "batch_norm" and self._stack:
            self.take_batch_norm(self._stack[-1].name, args, kwargs)
        if self._stack and (count := calls.normalised_together(name, args, kwargs)) in (1, 2):
            self.narrow_norms[self._stack[-1].name] = count
        if name in calls.LOSSES or (self.ended and name in calls.DIFFERENCES):
            compared = self.loss_calls.difference(name, args, kwargs, self._origin)
            self.dropped_outputs = max([self.dropped_outputs, *(o.dropped for o in origins)])
        elif self.ended and name in calls.MULTIPLICATIONS | calls.ADDITIONS:
            compared = self.loss_calls.product_or_sum(name, args, self._origin)
        if compared is not None:
            self.compare(*compared)
            if name in calls.DIFFERENCES:
                self.take_difference(*compared[:4], output)
        if self.ended and name in calls.CLAMPS and produced[0] and calls.clamps_probabilities(args, kwargs):
            self.normalised[produced[0].name] = "clamp"
        if name in calls.ROUNDINGS and origins[0].sources.bit_count() == 1:
            self.layers[origins[0].sources.bit_length() - 1].rounded_by = name
        if name in calls.MULTIPLICATIONS and len(origins) > 1:  # an activation's output times another signal is a gate
            for layer, other in ((produced[0], origins[1]), (produced[1], origins[0])):
                if layer is not None and layer.role == "activation" and other.sources:
                    layer.gate = True
                    self.take_values(layer, args)
            for factor, other in (origins[:2], origins[1::-1]):
                if factor.parameter and other.sources.bit_count() == 1:  # it comes from one layer
                    self.layers[other.sources.bit_length() - 1].scaled_by += (factor.parameter,)
        for layer in produced if name in calls.PRODUCTS else ():
            if layer is not None and layer.function == "softmax":
                self._mark_attention(layer, args, first=layer is produced[0])

    def _mark_attention(self, layer: LayerCall, args: tuple[Any, ...], first: bool) -> None:
        """A softmax that a product reads is attention; as its first argument it weighs the keys."""
        layer.attends = True
        self.take_values(layer, args)
        square = len(layer.shape) > 2 and layer.shape[-1] == layer.shape[-2]
        weighs = first and layer.place_in_memory == place_in_memory(args[0]) != (0, ())
        over_heads = len(layer.shape) == 4 and layer.softmax_dim == 1
        layer.over_queries |= square and weighs and (over_heads or layer.softmax_dim == len(layer.shape) - 2)

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
