"""Follows one forward pass, function by function: which layers there are, what feeds what, which weights they use.

A `TorchFunctionMode` sees every call of PyTorch that the model makes, from its modules and from its own code alike;
module hooks say in which module it happened. It computes nothing: it tells a listener what came in and out of a layer.
"""

import inspect
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sigmoidcore.diagnosis.measure.activations import ACTIVATIONS
from sigmoidcore.diagnosis.measure.measurement import Role

RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
ATTENTION = "multi_head_attention_forward"
DOT_PRODUCT = "scaled_dot_product_attention"
HIDDEN = -5000.0
"""A mask is added to the scores: a score below this is one of a key that may not be seen (-1e4 in half precision)."""
PRODUCTS = frozenset({"matmul", "mm", "bmm", "baddbmm", "einsum", "tensordot", "rmatmul"})
WEIGHTED = (
    PRODUCTS
    | RECURRENT
    | {ATTENTION, "linear", "bilinear", "addmm", "embedding", "embedding_bag"}
    | {f"conv{transposed}{n}d" for transposed in ("", "_transpose") for n in (1, 2, 3)}
    | {f"{cell}_cell" for cell in ("lstm", "gru", "rnn_tanh", "rnn_relu")}
)
"""Functions that make a layer of a weight that they are given."""
_CHANNELS_SECOND = ("conv", "batch_norm", "instance_norm", "group_norm", "pool", "pixel_shuffle", "interpolate")
_FEATURES_LAST = frozenset({"linear", "bilinear", "matmul", "addmm", "bmm", "embedding", "layer_norm", "rms_norm"})
_KEEP_PLACES = frozenset(
    {"to", "type", "type_as", "float", "half", "bfloat16", "double", "dropout", "alpha_dropout", "clone", "contiguous"}
)
_MOVES = _KEEP_PLACES | {
    *("view", "view_as", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "expand_as", "T", "mT"),
    *("t", "transpose", "permute", "movedim", "swapaxes", "repeat_interleave"),
    *("getitem", "select", "narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind"),
}
"""Functions whose result holds the numbers of their first argument, or some of them, elsewhere or in another shape."""
_SCALES = {"mul": 1, "div": -1, "truediv": -1}
_MULTIPLIES = frozenset({"mul", "multiply", "rmul", "imul"})
LOSSES = frozenset(
    {
        *("cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss"),
        *("l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "gaussian_nll_loss", "poisson_nll_loss"),
        *("soft_margin_loss", "multilabel_soft_margin_loss", "multi_margin_loss", "ctc_loss"),
    }
)


@dataclass
class Row:
    """A layer while its pass is running; `measurement.Layer` has the meaning of the fields."""

    index: int
    name: str
    module: str
    kind: str
    function: str
    role: Role
    sources: int
    weights: tuple[str, ...]
    dim: int
    gate: bool = False
    attends: bool = False
    scale: float = 1.0
    """What a core multiplies its sigmoid by: the layer's output is so many times the function's."""
    data: dict[str, Any] = field(default_factory=dict)
    """What the listener keeps about it."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What is known of a tensor.

    Attributes:
        sources: the layers that it comes from with no other layer in between, as bits.
        weights: the parameters that it is made of, if it is made of parameters only, or of them and the model's inputs.
        producer: the layer whose output it is, moved or reshaped at most; -1: of none.
        dim: the dimension that counts its features.
        made: it is made of parameters only.
    """

    sources: int = 0
    weights: tuple[str, ...] = ()
    producer: int = -1
    dim: int = -1
    made: bool = False


_UNKNOWN = Flow()


class Listener(Protocol):
    """Is told what happens in a pass."""

    def before(
        self, function: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, in_place: bool
    ) -> tuple[Any, ...]:
        """A recurrent layer or an activation is going to run, perhaps in place; returns the arguments that it gets."""

    def after(self, row: Row, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: list[Tensor]) -> None:
        """A layer has run."""


class Tracker(TorchFunctionMode):
    """Follows one forward pass while it is entered.

    Args:
        names: the model's modules by identity.
        parameters: names of its parameters by identity.
        stack: the modules that are running, outermost first.
        listener: is told of every layer.

    Attributes:
        rows: the layers so far.
        used: names of the parameters that anything in the pass took.
        loss_function: name of the last loss function that was called.
        loss_reads: the layer whose output it got, or -1.
        notes: what was not seen, in words.
        strays: weights that train and are none of the model's, by where its modules keep them.
        given: the model's inputs, by identity.
        paused: another one sees for a while what happens.
    """

    def __init__(
        self, names: Mapping[int, str], parameters: Mapping[int, str], stack: "list[Frame]", listener: Listener
    ) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self.used: set[str] = set()
        self.loss_function: str | None = None
        self.loss_reads = -1
        self.notes: dict[str, None] = {}
        self.strays: dict[str, None] = {}
        self.given: set[int] = set()
        self.paused = False
        self._names = names
        self._parameters = dict(parameters)
        self._stack = stack
        self._listener = listener
        self._flows: dict[int, tuple[weakref.ref[Tensor], Flow]] = {}
        self._times: Counter[str] = Counter()
        self._unkept: dict[int, str] = {}
        self._kept: dict[int, str] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function, and see what it was."""
        kwargs = kwargs or {}
        name = _name(func)
        if not name or self.paused:
            return func(*args, **kwargs)
        if torch._C._are_functorch_transforms_active():
            self.notes["what runs inside torch.func.vmap, grad and the like was not seen"] = None
            return func(*args, **kwargs)
        if name in RECURRENT or name in ACTIVATIONS:
            args = self._listener.before(name, args, kwargs, in_place=_in_place(func, args, kwargs))
        result = func(*args, **kwargs)
        if isinstance(result, Tensor) or (isinstance(result, tuple | list) and result):
            self._follow(func, name, args, kwargs, result)
        elif name == "setitem" and isinstance(args[-1], Tensor):
            target, value = self._flow(args[0]), self._flow(args[-1])
            self._set(args[0], Flow(target.sources | value.sources, target.weights, -1, target.dim))
        return result

    def goes_on(self, values: Any, name: str) -> bool:
        """Whether the pass goes on where a module reads these values: outside of any other, as parts of a model may.

        It does if they come out of a layer of it, be it on ways that were not seen, through which a module runs once.
        """
        given = list(tensors(values))
        if any(self._flow(t).sources for t in given):
            return True
        ran = any(row.module == name or row.module.startswith(f"{name}.") for row in self.rows)
        return bool(self.rows) and bool(name) and not ran and any(t.requires_grad and not t.is_leaf for t in given)

    def left(self, frame: "Frame", args: tuple[Any, ...], result: Any) -> None:
        """A module has run: what it gives out of unseen functions comes from its last layer, or from what it read."""
        unknown = [t for t in tensors(result) if self._flow(t) is _UNKNOWN]
        if unknown:
            sources = 1 << (len(self.rows) - 1) if len(self.rows) > frame.rows else 0
            for tensor in () if sources else tensors(args):
                sources |= self._flow(tensor).sources
            for tensor in unknown if sources else ():
                if tensor.is_floating_point():
                    self._set(tensor, Flow(sources))

    def _follow(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        several = (result,) if isinstance(result, Tensor) else tensors(result)
        outputs = [t for t in several if t.is_floating_point() or t.is_complex()]
        given = list(tensors((args, kwargs)) if kwargs else tensors(args))
        flows = [self._flow(t) for t in given]
        if not outputs:
            return
        if outputs[0].is_complex():
            self._pass_on(name, flows, outputs)
            return
        if self._stack and self._stack[-1].parametrizes:
            weights = tuple(dict.fromkeys(w for flow in flows for w in flow.weights))
            for output in outputs:
                self._set(output, Flow(0, weights, made=True))
            return
        if _is_plain(name) and len(outputs) == 1:
            known = [(t, f) for t, f in zip(given, flows, strict=True) if f is not _UNKNOWN]
            if not known:
                return
            if len(known) == 1:  # x * slope: what is known of x is known of it, but for its maker
                tensor, flow = known[0]
                if name in _SCALES and self._scales(flow, name, args):
                    self._set(outputs[0], flow)
                    return
                dim = flow.dim if tensor.dim() == outputs[0].dim() else -1
                made = flow.made and len(given) == 1
                if (flow.producer, flow.dim, flow.made) != (-1, dim, made):
                    flow = replace(flow, producer=-1, dim=dim, made=made)
                self._set(outputs[0], flow)
                return
        sources = 0
        for flow in flows:
            sources |= flow.sources
        weights = tuple(dict.fromkeys(w for flow in flows for w in flow.weights))
        if name in LOSSES:
            self.loss_function, self.loss_reads = name, flows[0].producer
        dim = self._feature_dim(name, given, flows, outputs[0])
        made = bool(flows) and all(f.made for f in flows)
        if name == DOT_PRODUCT:
            self._add(func, name, "attention", sources, (), dim, args, kwargs, outputs)
        elif name in WEIGHTED and (weights or self._note_strays(name, given)) and not (made and name in PRODUCTS):
            self._note_attention(name, flows)
            self._add(func, name, "weights", sources, weights, dim, args, kwargs, outputs)
        elif (name in ACTIVATIONS or name == "softmax") and not made:
            self._add(func, name, "activation", sources, (), dim, args, kwargs, outputs)
        else:
            if name in _MULTIPLIES:
                self._note_gate(given, flows)
            self._note_attention(name, flows)
            producer = flows[0].producer if name in _MOVES and flows else -1
            flow = Flow(sources, () if sources else weights, producer, dim, made)
            for output in outputs:
                self._set(output, flow)

    def _pass_on(self, name: str, flows: list[Flow], outputs: list[Tensor]) -> None:
        """Complex numbers: where they come from is followed, and no more."""
        sources, weights = 0, tuple(dict.fromkeys(w for flow in flows for w in flow.weights))
        for flow in flows:
            sources |= flow.sources
        if name in WEIGHTED and weights:
            self.notes[f"layers of complex numbers are not measured, the first of them that of {weights[0]}"] = None
        for output in outputs:
            self._set(output, Flow(sources, () if sources else weights, made=all(f.made for f in flows)))

    def _add(
        self,
        func: Callable[..., Any],
        name: str,
        role: Role,
        sources: int,
        weights: tuple[str, ...],
        dim: int,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        outputs: list[Tensor],
    ) -> None:
        module, called, kind = self._place(name)
        self._times[called] += 1
        times = self._times[called]
        unique = f"{called}@{times}" if times > 1 else called
        row = Row(len(self.rows), unique, module, kind, name, role, sources, weights, dim)
        self.rows.append(row)
        for output in outputs:
            self._set(output, Flow(1 << row.index, (), row.index, dim))
        self._listener.after(row, args, kwargs, outputs)

    def _place(self, function: str) -> tuple[str, str, str]:
        """The module that is running, the layer's name, and its kind."""
        if not self._stack:
            return "", function, f"{function}()"
        frame = self._stack[-1]
        if frame.plain or (function == ATTENTION and frame.name):
            frame.plain = False  # a second layer in the same call is named by its function
            return frame.name, frame.name or function, frame.kind
        return frame.name, f"{frame.name}.{function}" if frame.name else function, f"{function}()"

    def _scales(self, flow: Flow, name: str, args: tuple[Any, ...]) -> bool:
        """Whether a core multiplies its own sigmoid by a number; the number is noted then."""
        if flow.producer < 0 or not self._stack or not isinstance(args[-1], int | float):
            return False
        row, frame = self.rows[flow.producer], self._stack[-1]
        if row.module != frame.name or not type(frame.module).__module__.startswith("sigmoidcore"):
            return False
        row.scale = float(args[-1]) ** _SCALES[name]
        return True

    def _note_gate(self, given: list[Tensor], flows: list[Flow]) -> None:
        """An activation's output that multiplies another signal is a gate."""
        if len(given) < 2:
            return
        for one, other in (flows[:2], flows[1::-1]):
            if one.producer >= 0 and self.rows[one.producer].role == "activation" and other.sources:
                self.rows[one.producer].gate = True

    def _note_attention(self, name: str, flows: list[Flow]) -> None:
        """A softmax that a product reads is attention."""
        if name in PRODUCTS:
            for flow in flows:
                if flow.producer >= 0 and self.rows[flow.producer].function == "softmax":
                    self.rows[flow.producer].attends = True

    def _note_strays(self, name: str, given: list[Tensor]) -> bool:
        """Whether a function got weights that train and are none of the model's: those of layers in a list."""
        if not self._stack or not torch.is_grad_enabled():
            return False
        own = [t for t in given if t.requires_grad and t.is_leaf and t.dim() > 1 and id(t) not in self.given]
        strays = [t for t in own if isinstance(t, nn.Parameter)] or own
        for stray in strays:
            if id(stray) not in self._kept:
                self._kept[id(stray)] = kept = _kept_by(self._stack, stray)
                if kept:
                    self.strays[kept] = None
                else:
                    self._note_unkept(stray, name)
        return bool(strays)

    def _note_unkept(self, stray: Tensor, name: str) -> None:
        self.notes.pop(_unkept(self._unkept), None)
        where = f"the forward of '{self._stack[-1].name}'" if self._stack[-1].name else "the model's own forward"
        self._unkept[id(stray)] = f"{tuple(stray.shape)}, which {name} takes in {where}"
        self.notes[_unkept(self._unkept)] = None

    def _feature_dim(self, name: str, given: list[Tensor], flows: list[Flow], output: Tensor) -> int:
        if name in ("matmul", "mm") and flows[0].weights and not flows[1].weights and output.dim() > 1:
            return output.dim() - 2  # weights times columns
        if name in _FEATURES_LAST or name in RECURRENT:
            return -1
        if _has_channels(name):
            return 1 if output.dim() > 2 else -1
        if name in _MOVES and name not in _KEEP_PLACES:
            return _moved(flows[0].dim, given[0], output)
        like = next((f for t, f in zip(given, flows, strict=True) if t.dim() == output.dim() and f.dim != -1), None)
        return like.dim if like else -1

    def _flow(self, tensor: Tensor) -> Flow:
        found = self._flows.get(id(tensor))
        if found is not None and found[0]() is tensor:
            return found[1]
        if isinstance(tensor, nn.Parameter):
            name = self._parameters.get(id(tensor)) or self._name_of(tensor)
            if name:
                self.used.add(name)
                return Flow(0, (name,) if tensor.dim() > 1 else (), made=True)
        return _UNKNOWN

    def _name_of(self, parameter: nn.Parameter) -> str | None:
        """The name of a parameter that took another's place for the pass, as those of FSDP do."""
        for frame in reversed(self._stack):
            for name, own in frame.module.named_parameters(recurse=frame is self._stack[-1]):
                if own is parameter:
                    found = f"{frame.name}.{name}" if frame.name else name
                    self._parameters[id(parameter)] = found
                    return found
        return None

    def _set(self, tensor: Tensor, flow: Flow) -> None:
        self._flows[id(tensor)] = (weakref.ref(tensor), flow)


@dataclass
class Frame:
    """A module that is running.

    Attributes:
        module: itself.
        name: its name in the model.
        kind: its class.
        plain: the next layer is the module itself: a layer of PyTorch's or ours, whose forward is one function.
        parametrizes: it computes a weight of another module.
        rows: layers that had run before.
    """

    module: nn.Module
    name: str
    kind: str
    plain: bool
    parametrizes: bool
    rows: int


def frame_of(module: nn.Module, name: str, rows: int) -> Frame:
    """The frame of a module that begins to run, after so many layers."""
    kind, own = _class(type(module))  # type: ignore[arg-type]  # a class has a hash
    plain = own and all(child == "parametrizations" for child, _ in module.named_children())
    return Frame(module, name, kind, plain, "parametrizations" in name.split("."), rows)


@lru_cache(maxsize=256)
def _class(cls: type) -> tuple[str, bool]:
    """The kind of a module's class, and whether it is of PyTorch's or ours."""
    own = any(c.__module__.startswith(("torch.nn.modules", "sigmoidcore")) for c in cls.__mro__ if c is not nn.Module)
    return _kind(cls), own


def _kind(cls: type) -> str:
    """Name of a class; of those that `fully_shard` and `parametrize` make of a module's class, that one's."""
    base = cls.__bases__[-1]
    return base.__name__ if cls.__name__ in (f"FSDP{base.__name__}", f"Parametrized{base.__name__}") else cls.__name__


def tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dicts, in order."""
    if isinstance(values, Tensor):
        yield values
        return
    children = values.values() if isinstance(values, dict) else values if isinstance(values, tuple | list) else ()
    for child in children:
        if isinstance(child, Tensor):
            yield child
        elif isinstance(child, tuple | list | dict):
            yield from tensors(child)


def arguments(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    bound = inspect.signature(func).bind(*args, **kwargs)
    return dict(bound.arguments)


def attention_weights(args: tuple[Any, ...], kwargs: Mapping[str, Any], samples: int) -> tuple[Tensor, Tensor]:
    """Attention weights of `functional.multi_head_attention_forward` on its first samples, and who may see what.

    Returns:
        The weights, [samples, heads, queries, keys], and whether a key may be seen, bool, which broadcasts to it.
    """
    given = arguments(functional.multi_head_attention_forward, args, kwargs)
    if given["query"].dim() == 3:
        for name in ("query", "key", "value"):
            given[name] = given[name][:, :samples]
        if given.get("key_padding_mask") is not None:
            given["key_padding_mask"] = given["key_padding_mask"][:samples]
        mask = given.get("attn_mask")
        if mask is not None and mask.dim() == 3:
            given["attn_mask"] = mask[: samples * given["num_heads"]]
    given.update(training=False, need_weights=True, average_attn_weights=False)
    _, found = functional.multi_head_attention_forward(**given)
    assert found is not None
    weights = found if found.dim() == 4 else found.unsqueeze(0)
    allowed = torch.ones_like(weights, dtype=torch.bool)
    mask, padding = given.get("attn_mask"), given.get("key_padding_mask")
    if mask is not None:
        allowed[..., : mask.shape[-1]] &= _may_be_seen(mask).reshape(
            -1, *(() if mask.dim() == 2 else weights.shape[1:2]), *mask.shape[-2:]
        )
    if padding is not None:
        allowed[..., : padding.shape[-1]] &= _may_be_seen(padding).reshape(-1, 1, 1, padding.shape[-1])
    return weights, allowed


def _may_be_seen(mask: Tensor) -> Tensor:
    """A mask of `multi_head_attention_forward`: True, or a large negative number, hides a key."""
    return ~mask if mask.dtype == torch.bool else mask > HIDDEN


_OF_MODULES = frozenset(vars(nn.Module()))
"""Attributes that every module has: what these hold, PyTorch knows."""


def _kept_by(stack: "list[Frame]", weight: Tensor) -> str:
    """Where one of the running modules keeps a weight although it is no parameter of it; "" if none does."""
    for frame in reversed(stack):
        for attribute, value in vars(frame.module).items():
            place = None if attribute in _OF_MODULES else _place_in(value, weight)
            if place is not None:
                return f"{frame.name}.{attribute}{place}" if frame.name else f"{attribute}{place}"
    return ""


def _place_in(value: Any, weight: Tensor) -> str | None:
    """Where a weight is in lists, dicts and modules, as it is written after their name; None: it is not."""
    if value is weight:
        return ""
    if isinstance(value, nn.Module):
        return next((f".{name}" for name, own in value.named_parameters() if own is weight), None)
    several = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, child in several:
        place = _place_in(child, weight)
        if place is not None:
            return f"[{key!r}]{place}"
    return None


def _unkept(found: Mapping[int, str]) -> str:
    """What is said of weights that are no parameters of the model, and that none of its modules keeps."""
    first = next(iter(found.values()), "")
    several = f"{len(found)} weights that train and are no parameters of the model, the first of shape {first}"
    one = f"a weight that trains and is no parameter of the model, of shape {first}"
    return (one if len(found) == 1 else several) + ": no optimizer is given it by model.parameters()"


@cache
def _is_plain(name: str) -> bool:
    """Whether nothing is to be known of a function but what went into it."""
    special = WEIGHTED | LOSSES | _MOVES | _FEATURES_LAST | {"softmax", DOT_PRODUCT} | ACTIVATIONS.keys()
    return name not in special and not _has_channels(name)


@cache
def _has_channels(name: str) -> bool:
    """Whether dimension 1 of a function's result counts channels."""
    return any(part in name for part in _CHANNELS_SECOND)


def _moved(dim: int, before: Tensor, after: Tensor) -> int:
    """Where the dimension of the features is after a move: the one with the same stride, if it is a view; else last."""
    if not before.dim() or before.layout != torch.strided or before.is_nested:
        return -1
    size, stride = before.shape[dim], before.stride(dim)
    places = [i for i in range(after.dim()) if after.stride(i) == stride and 1 < after.shape[i] <= size]
    place = next((i for i in places if after.shape[i] == size), places[0] if places else -1)
    return -1 if place == after.dim() - 1 else place


def _in_place(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether an activation may write into its input: by its name, or because it is told so."""
    name = getattr(func, "__name__", "").partition(".")[0]
    return name.endswith("_") or kwargs.get("inplace") is True or any(value is True for value in args[1:])


_NAMES: dict[Any, str] = {}


def _name(func: Callable[..., Any]) -> str:
    """Name of a function without underscores at its ends; "" for questions that give no new tensor."""
    found = _NAMES.get(func)
    if found is None:
        name = getattr(func, "__name__", "")
        if name == "__get__":  # an attribute of a tensor
            name = getattr(getattr(func, "__self__", None), "__name__", "")
            found = name if name in _MOVES else ""
        else:
            # An operator of ATen, as exported models call them, is named `linear.default`.
            found = "" if name in ("__set__", "dim", "size", "stride", "numel") else name.partition(".")[0].strip("_")
        _NAMES[func] = found
    return found
