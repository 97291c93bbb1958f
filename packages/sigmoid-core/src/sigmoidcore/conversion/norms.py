"""Normalisations over the last dimensions, and bounded functions in their place: what they compute, and their core.

A module is recognised by its parameters and by what it computes on one small batch, not by its class: every library
has an RMSNorm of its own, and some multiply by 1 + weight.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sigmoidcore.conversion.activation_sites import Site
from sigmoidcore.nn.bounded_norm import BoundedNorm

_SHIFTS = ("shift", "s")
"""What Derf calls the s of erf(alpha x + s)."""
_EPSILONS = ("eps", "variance_epsilon", "epsilon")
_TOLERANCE = 1e-4
_FEATURES = (8,)
"""Of the batch for a module that does not tell its own number."""
_OTHER_DIMENSIONS = "it does not normalise over the last dimension alone"
NORM = "in the place of a norm, another function"
TANH = "a tanh in the place of a norm"


def norm_sites(model: nn.Module) -> list[Site]:
    """The normalisations of a model, and the bounded functions that stand in the place of one."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if _may_be_norm(module) or alpha_of(module) is not None:
            names.setdefault(module, []).append(name)
    return [Site(tuple(n), type(m).__name__, n[0].rpartition(".")[0], m) for m, n in names.items()]


def bounded(site: Site, near: Tensor | None) -> tuple[BoundedNorm | None, str]:
    """The bounded norm for the place of a normalisation, or None if it is left; and the reason.

    Without parameters, it has the device and the dtype of a weight that is near.
    """
    module = site.module
    assert module is not None
    if len(site.names) > 1:
        return None, f"is used in {len(site.names)} places, which need one each: give each place its own module"
    if not site.name:
        return None, "it is the model itself: put it into an nn.Sequential"
    why = _why_not(module)
    if why:
        return None, why
    weight, bias, alpha = _parameter(module, "weight"), _parameter(module, "bias"), alpha_of(module)
    if alpha is not None:
        made, why = _of_dynamic(module, alpha, weight, bias)
    else:
        made, why = _of_norm(module, weight, bias)
    if made is not None:
        like = next(module.parameters(), near)
        made = made if like is None else made.to(like.device, like.dtype)
        made.train(module.training)
    return made, why


def _why_not(module: nn.Module) -> str:
    """The reason why no bounded norm can have the parameters of a module; "" if one can."""
    if is_parametrized(module):
        return "its parameters are computed (a parametrization): convert first and parametrize then"
    if any(p.is_meta for p in module.parameters()):
        return "its parameters are on the meta device: load the model first"
    if alpha_of(module) is not None:
        return ""
    if isinstance(module, nn.GroupNorm) or hasattr(module, "num_features"):
        return _OTHER_DIMENSIONS
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if set(own) - {"weight", "bias"}:
        return f"its parameters are {', '.join(own)}: a bounded norm has those of the names weight and bias"
    return ""


def _of_dynamic(
    module: nn.Module, alpha: Tensor, weight: nn.Parameter | None, bias: nn.Parameter | None
) -> tuple[BoundedNorm | None, str]:
    """For tanh(alpha x) weight + bias."""
    if alpha.numel() != 1:
        return None, f"it has {alpha.numel()} slopes alpha: a bounded norm has one"
    if not float(alpha.detach()) > 0:
        return None, f"its alpha is {float(alpha.detach()):.3g}, and a slope is positive"
    x, y = _response(module, 1 / float(alpha.detach()))
    z, shift = alpha.detach().cpu().float() * x, _parameter(module, *_SHIFTS)
    z = z if shift is None else z + shift.detach().cpu().float()
    if _alike(y, _affine(torch.tanh(z), weight, bias)) and (shift is None or not bool(shift.detach().any())):
        return BoundedNorm.of_tanh(alpha, weight, bias), TANH
    if _alike(y, _affine(torch.erf(z), weight, bias)):
        return None, "it is an erf (Derf), and no core is: train it as it is, or put a norm or a tanh in its place"
    return None, "it has an alpha, but does not compute tanh(alpha x) weight + bias over the last dimension"


def _of_norm(
    module: nn.Module, weight: nn.Parameter | None, bias: nn.Parameter | None
) -> tuple[BoundedNorm | None, str]:
    """For (x - mean) / std or x / rms, times weight or 1 + weight, plus bias."""
    x, y = _response(module, size=30.0, mean=10.0)  # against which an epsilon is small
    dims = tuple(range(2, x.dim()))
    around = x - x.mean(dims, keepdim=True)
    for z in (around, x):
        z = z / z.square().mean(dims, keepdim=True).sqrt()
        for offset in (0.0, 1.0) if weight is not None else (0.0,):
            if _alike(y, _affine(z, weight, bias, offset)):
                return BoundedNorm(weight, bias, offset=offset), NORM
    return None, _OTHER_DIMENSIONS


def _may_be_norm(module: nn.Module) -> bool:
    """Whether it is a normalisation by its class, or by its name or epsilon and its parameters."""
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return True
    own = dict(module.named_parameters(recurse=False))
    if {name for name, _ in module.named_children()} - {"parametrizations"} or any(p.dim() > 1 for p in own.values()):
        return False
    weight = _parameter(module, "weight")
    epsilon = any(isinstance(getattr(module, name, None), float) for name in _EPSILONS)
    known = weight is not None and weight.dim() == 1 and set(own) <= {"weight", "bias"}
    return "norm" in type(module).__name__.lower() or (epsilon and known)


def alpha_of(module: nn.Module) -> Tensor | None:
    """The alpha of a module with the parameters of a Dynamic Tanh; None for others."""
    own = dict(module.named_parameters(recurse=False))
    alone = next(module.children(), None) is None and set(own) <= {"alpha", "weight", "bias", *_SHIFTS}
    return own.get("alpha") if alone and "weight" in own else None


def is_dynamic_tanh(module: nn.Module) -> bool:
    """Whether it has an alpha and one weight for each feature; a matrix is that of a layer with a bounded output."""
    return alpha_of(module) is not None and sum(size > 1 for size in module.get_parameter("weight").shape) <= 1


def _parameter(module: nn.Module, *names: str) -> nn.Parameter | None:
    own = dict(module.named_parameters(recurse=False))
    return next((own[name] for name in names if name in own), None)


def _response(module: nn.Module, size: float, mean: float = 0.0) -> tuple[Tensor, Tensor | None]:
    """A small batch of this size, and what the module makes of it; None if it does not take it."""
    weight = _parameter(module, "weight")
    shape = getattr(module, "normalized_shape", _FEATURES) if weight is None else weight.shape
    shape = (shape,) if isinstance(shape, int) else shape
    x = size * torch.randn(5, 3, *shape, generator=torch.Generator().manual_seed(0)) + mean
    try:
        with torch.no_grad():
            return x, copy.deepcopy(module).to("cpu", torch.float32).eval()(x)
    except Exception:  # the user's code, which may want another shape, and check it in any way
        return x, None


def _affine(z: Tensor, weight: Tensor | None, bias: Tensor | None, offset: float = 0.0) -> Tensor:
    z = z if weight is None else z * (weight.detach().cpu().float() + offset)
    return z if bias is None else z + bias.detach().cpu().float()


def _alike(found: Tensor | None, wanted: Tensor) -> bool:
    """Whether a response is this, to the rounding of single precision and the epsilon."""
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        return False
    scale = float(wanted.abs().max().clamp_min(1e-6))
    return bool(((found - wanted).abs().max() <= _TOLERANCE * scale).all())


def without_nested_tensors(model: nn.Module) -> None:
    """Let `nn.TransformerEncoder` give bounded norms plain tensors, also in evaluation with a padding mask."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, BoundedNorm) for m in module.modules()):
            module.use_nested_tensor = False
