"""Normalisations over the last dimensions, and bounded functions in their place: what they compute, and their core.

A module is recognised by its parameters and by what it computes on one small batch, not by its class: every library
has an RMSNorm of its own, and some multiply by 1 + weight.
"""

import copy
from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from sigmoidcore.conversion.activation_sites import Site
from sigmoidcore.nn.bounded_norm import BoundedNorm

NORM = "in the place of a norm, another function"
_OTHER = "it does not normalise over the last dimension alone"
_TOLERANCE = 1e-4  # of the rounding of single precision, and the epsilon


def norm_sites(model: nn.Module) -> list[Site]:
    """The normalisations of a model, and the bounded functions that stand in the place of one."""
    names: dict[nn.Module, list[str]] = defaultdict(list)
    for name, module in model.named_modules(remove_duplicate=False):
        if _may_be_norm(module):
            names[module].append(name)
    return [Site(tuple(n), type(m).__name__, n[0].rpartition(".")[0], m) for m, n in names.items()]


def _may_be_norm(module: nn.Module) -> bool:
    """Whether it is a normalisation by its class, or by its name or epsilon and its parameters; or a Dynamic Tanh."""
    own = dict(module.named_parameters(recurse=False))
    inner = {name for name, _ in module.named_children()} - {"parametrizations"}
    if "alpha" in own and not inner and "weight" in own and set(own) <= {"alpha", "weight", "bias", "shift", "s"}:
        return True  # Derf calls its shift one of both
    named = "norm" in type(module).__name__.lower()
    epsilon = any(isinstance(getattr(module, name, None), float) for name in ("eps", "variance_epsilon", "epsilon"))
    known = "weight" in own and set(own) <= {"weight", "bias"}
    vectors = not inner and all(p.dim() < 2 for p in own.values())
    return isinstance(module, nn.LayerNorm | nn.RMSNorm) or (vectors and (named or (epsilon and known)))


def bounded(site: Site, near: Tensor | None) -> tuple[BoundedNorm | None, str]:
    """The bounded norm for the place of a normalisation, or None if it is left; and the reason.

    Without parameters, it has the device and the dtype of a weight that is near.
    """
    module = site.module
    assert module is not None
    own = [name for name, _ in module.named_parameters(recurse=False)]
    if len(site.names) > 1:
        return None, f"is used in {len(site.names)} places, which need one each: give each place its own module"
    if not site.name:
        return None, "it is the model itself: put it into an nn.Sequential"
    if is_parametrized(module):
        return None, "its parameters are computed (a parametrization): convert first and parametrize then"
    if isinstance(module, nn.GroupNorm) or hasattr(module, "num_features"):
        return None, _OTHER
    if "alpha" not in own and set(own) - {"weight", "bias"}:
        return None, f"its parameters are {', '.join(own)}: a bounded norm has those of the names weight and bias"
    made, why = _with_same_parameters(module)
    if made is not None:
        like = next(module.parameters(), near)
        made = made if like is None else made.to(like.device, like.dtype)
        made.train(module.training)
    return made, why


def _with_same_parameters(module: nn.Module) -> tuple[BoundedNorm | None, str]:
    """The bounded norm with the parameters of a module that computes a normalisation or a tanh."""
    weight, bias, alpha = (dict(module.named_parameters(recurse=False)).get(n) for n in ("weight", "bias", "alpha"))
    shape = getattr(module, "normalized_shape", (8,)) if weight is None else weight.shape
    x = torch.randn(5, 3, *((shape,) if isinstance(shape, int) else shape), generator=torch.Generator().manual_seed(0))
    try:
        # Against 30 an epsilon is small.
        x = 30 * x + 10 if alpha is None else x / alpha.detach().abs().mean().cpu().float()
        with torch.no_grad():
            y = copy.deepcopy(module).to("cpu", torch.float32).eval()(x)
    except Exception:  # the user's code, which may want another shape, and check it in any way
        return None, _OTHER

    def computes(z: Tensor, offset: float = 0.0) -> bool:
        z = z if weight is None else z * (weight.detach().cpu().float() + offset)
        z = z if bias is None else z + bias.detach().cpu().float()
        if not isinstance(y, Tensor) or y.shape != z.shape:
            return False
        return bool(((y - z).abs().max() <= _TOLERANCE * z.abs().max().clamp_min(1e-6)).all())

    if alpha is not None:
        z = alpha.detach().cpu().float() * x
        if alpha.numel() == 1 and bool(alpha > 0) and computes(torch.tanh(z)):
            return BoundedNorm.of_tanh(alpha, weight, bias), "a tanh in the place of a norm"
        if computes(torch.erf(z)):
            return None, "it is an erf (Derf), and no core is: train it as it is, or put a norm or a tanh in its place"
        return None, "it does not compute tanh(alpha x) weight + bias for one positive alpha, over the last dimension"
    dims = tuple(range(2, x.dim()))
    for z in (x - x.mean(dims, keepdim=True), x):
        z = z / z.square().mean(dims, keepdim=True).sqrt()
        for offset in (0.0, 1.0):
            if computes(z, offset):
                return BoundedNorm(weight, bias, offset=offset if weight is not None else 0.0), NORM
    return None, _OTHER


def without_nested_tensors(model: nn.Module) -> None:
    """Let `nn.TransformerEncoder` give bounded norms plain tensors, also in evaluation with a padding mask."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder) and any(isinstance(m, BoundedNorm) for m in module.modules()):
            module.use_nested_tensor = False
