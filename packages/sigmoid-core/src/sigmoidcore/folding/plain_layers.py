"""The plain layers of a folded model: rewritten weights, and what stands in place of a core."""

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from sigmoidcore._torch.modules import give_hooks, has_hooks
from sigmoidcore.conversion.activations import FUNCTIONS
from sigmoidcore.conversion.dataflow import features_of
from sigmoidcore.conversion.tracing import RewrittenForward
from sigmoidcore.core import SigmoidCore
from sigmoidcore.folding.commutation import RECURRENT, spread_over_weight


@dataclass(frozen=True)
class Affine:
    """The input that the plain activation of a core needs, a x + b. Float64; shape [features] along `dim`, or []."""

    core: SigmoidCore
    gain: Tensor
    offset: Tensor

    @property
    def is_identity(self) -> bool:
        """Whether a is 1 and b is 0."""
        return bool((self.gain == 1).all()) and not self.has_offset

    @property
    def has_offset(self) -> bool:
        """Whether b is not 0."""
        return bool((self.offset != 0).any())

    @property
    def dim(self) -> int | None:
        """The dimension along which a and b differ; None: they are numbers."""
        return self.core.dim if self.gain.dim() else None


def affine_of(core: SigmoidCore, name: str) -> Affine:
    """z = alpha (x - mu) for a sigmoid; half of it for a tanh."""
    alpha, shift = core.alpha.detach(), core.shift
    for what, value in (("slope", alpha), ("shift", shift)):
        if value.is_meta:
            raise ValueError(f"the {what} of core '{name}' is on the meta device: load the model before it is folded")
        bad = value[~torch.isfinite(value)]
        if bad.numel():
            places = f"{bad.numel()} of {value.numel()} places"
            raise ValueError(f"the {what} of core '{name}' is {float(bad[0])} in {places}: set it first")
    gain = exact(alpha) * (0.5 if core.centered else 1.0)
    return Affine(core, gain, -gain * exact(shift))


def weights_of_input(layer: nn.Module) -> list[str]:
    """The names of the weights that multiply the input."""
    if type(layer) not in RECURRENT:
        return ["weight"]
    names = (name for name, _ in layer.named_parameters(recurse=False))
    return [name for name in names if name == "weight_ih" or name.startswith("weight_ih_l0")]


def rewrite(layer: nn.Module, name: str, affine: Affine | None, with_offset: bool, factor: float) -> None:
    """W <- a W f and b <- a b + c, computed in float64, rounded once."""
    if affine is None and factor == 1:
        return
    for which in weights_of_input(layer):
        weight = factor * exact(layer.get_parameter(which))
        if affine is not None:
            weight = spread_over_weight(layer, affine.gain) * weight
        _set(layer, name, which, weight)
    old = getattr(layer, "bias", None)  # of a recurrent layer, a flag
    if type(layer) in RECURRENT or affine is None or (old is None and not with_offset):
        return
    features = features_of(layer)
    shape = layer.normalized_shape if isinstance(layer, nn.LayerNorm) else features and features[:1]
    bias = exact(torch.zeros(shape or ()) if old is None else old)
    _set(layer, name, "bias", affine.gain * bias + (affine.offset if with_offset else 0.0))


def exact(tensor: Tensor) -> Tensor:
    """In float64, on the CPU: not every device has it."""
    return tensor.detach().to("cpu").to(torch.float64)


def _set(layer: nn.Module, name: str, which: str, value: Tensor) -> None:
    """Round a parameter's new value into it; make it if the layer has none."""
    old: Tensor | None = getattr(layer, which)
    like = layer.get_parameter("weight") if old is None else old
    rounded = value.to(like.dtype).to(like.device)
    if not bool(torch.isfinite(rounded).all()) and (old is None or bool(torch.isfinite(old).all())):
        raise ValueError(
            f"the folded {which} of '{name}' does not fit {like.dtype} (up to {float(value.abs().max()):.3g}): "
            "cast the model to a wider dtype, or calibrate it first"
        )
    if old is None:
        setattr(layer, which, nn.Parameter(rounded.contiguous(), requires_grad=like.requires_grad))
    else:
        old.copy_(rounded)


def with_constants(act: nn.Module, affine: Affine | None, factor: float, like: Tensor) -> fx.GraphModule:
    """factor * act(gain (x - shift)), in the order of the core's operations, so that it rounds in the same way."""
    root = nn.Module()
    root.act = act
    graph = fx.Graph()
    value = x = graph.placeholder("input")

    def constant(name: str, tensor: Tensor) -> fx.Node:
        root.register_buffer(name, tensor.detach().to(like.dtype).to(like.device, copy=True))
        return graph.call_method("to", (graph.get_attr(name), x))

    if affine is not None:
        dim = affine.dim
        trailing = [1] * (-1 - dim) if dim is not None and dim < 0 else []
        swapped = dim is not None and dim >= 0  # the number of dimensions is not known before it runs
        value = graph.call_method("transpose", (value, dim, -1)) if swapped else value
        if affine.has_offset:
            shift = affine.core.shift.reshape((*affine.core.shift.shape, *trailing))
            value = graph.call_function(torch.sub, (value, constant("shift", shift)))
        if bool((affine.gain != 1).any()):
            gain = affine.gain.reshape((*affine.gain.shape, *trailing))
            value = graph.call_function(torch.mul, (value, constant("gain", gain)))
        value = graph.call_method("transpose", (value, dim, -1)) if swapped else value
    value = graph.call_module("act", (value,))
    if factor != 1:
        factors = torch.tensor(factor, dtype=torch.float64)
        value = graph.call_function(torch.mul, (value, constant("factor", factors)))
    graph.output(value)
    return fx.GraphModule(root, graph)


def plain_forward(owner: nn.Module, name: str) -> nn.Module:
    """A module without a rewritten forward: itself, or a GraphModule if a constant stayed at one of its calls."""
    forward = vars(owner).get("forward")
    if not isinstance(forward, RewrittenForward):
        return owner
    if _is_the_class_again(owner, forward):
        for core in [core for core, was in forward.added.items() if core != was]:
            parent, _, key = core.rpartition(".")
            delattr(owner.get_submodule(parent), key)
        del owner.forward
        return owner
    made, other = (forward.as_graph_module(training) for training in (owner.training, not owner.training))
    if owner.training and str(made.graph) != str(other.graph):
        raise ValueError(
            f"a slope or shift stays in the forward of '{name}' ({type(owner).__name__}), which does something else in "
            "training than in evaluation: call model.eval() before fold, or make its functional calls modules"
        )
    give_hooks(owner, made)
    return made


def _is_the_class_again(owner: nn.Module, forward: RewrittenForward) -> bool:
    """Whether the forward of the class calls what the added cores have become."""
    for core, was in forward.added.items():
        module = owner.get_submodule(core)
        called = FUNCTIONS[was] if was in FUNCTIONS else type(owner.get_submodule(was))
        same = type(module) is called and called in (nn.Tanh, nn.Sigmoid)
        if not same or (core != was and has_hooks(module)):
            return False
    return True
