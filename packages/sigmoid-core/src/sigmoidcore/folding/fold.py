"""Fold: slopes and shifts go into the weights; the result is a plain network of sigmoids or tanhs.

In the manner of `torch.fx.experimental.optimization.fuse`: trace, plan, rewrite the weights of a copy.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from sigmoidcore._torch.modules import give_hooks
from sigmoidcore.conversion.tracing import RewrittenForward, UntraceableError
from sigmoidcore.core import SigmoidCore
from sigmoidcore.folding.plain_layers import plain_forward, rewrite, with_constants
from sigmoidcore.folding.planner import FoldPlan, has_cores, variants
from sigmoidcore.nn import recurrent
from sigmoidcore.nn.networks import Chain
from sigmoidcore.nn.recurrent import RecurrentCores
from sigmoidcore.nn.residual import ResidualLayer, TrainedWaves
from unstuck.observation.batch import check_model

_OURS = "sigmoidcore."
_TRACED = (TrainedWaves, ResidualLayer)  # become graphs of what they do


def fold(model: nn.Module) -> nn.Module:
    """A copy of a model in which plain PyTorch layers compute the same.

    Every `SigmoidCore` becomes `nn.Sigmoid`, or `nn.Tanh` if it is centered; recurrent layers become PyTorch's own, and
    the waves of an `MLP` a `torch.fx.GraphModule`.
    Slope and shift go into the layer before, the factor of a tanh into the layers behind. Where they cannot (the core
    reads an input of the model, its output is added to something else, a weight is shared), a small
    `torch.fx.GraphModule` keeps them in place of the core.
    Modules keep their names: `plain.load_state_dict(sc.fold(converted).state_dict())` works if nothing stays and no
    bias is added.

    Args:
        model: any module with cores; it is not changed. `torch.fx` must be able to follow its forward.

    Returns:
        The copy, on the same devices, with the same dtypes, modes and `requires_grad`. The outputs are the same up to
        rounding: weights are computed in float64 and rounded once. A layer gets a bias if a shift needs one. The copy
        can be trained further, pickled and exported; no module in it is from sigmoidcore.

    Raises:
        TypeError: not an nn.Module.
        UntraceableError: the forward branches on values, and the model has other cores than recurrent layers. The
            error says how to fold its parts by themselves.
        ValueError: a slope or shift is not finite or on the meta device, weights would overflow their dtype, the
            forward reads a slope, a module is of a class without a plain counterpart, the model is compiled, or a
            weight was computed with gradients, so that PyTorch does not copy it.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), SigmoidCore(3, alpha=4.0, centered=True), nn.Linear(3, 2))
        >>> fold(model)[1]
        Tanh()
        >>> x = torch.randn(5, 4)
        >>> torch.allclose(fold(model)(x), model(x), atol=1e-6)
        True

    Source:
        sigmoid(z) - 1/2 = tanh(z/2)/2; docs/fold.md.
    """
    check_model(model)
    runs_cores = type(model).forward is not nn.Module.forward and has_cores(model)
    if runs_cores and (isinstance(model, SigmoidCore | RecurrentCores) or fx.Tracer().is_leaf_module(model, "")):
        return next(fold(nn.Sequential(model)).children())  # a leaf of a graph, as in a model
    _check_classes(model)
    try:
        folded = copy.deepcopy(model)
    except RuntimeError as error:
        raise ValueError(
            f"PyTorch does not copy this model ({error}). If a weight was computed with gradients (weight_norm, "
            "prune), run the model once under torch.no_grad() before it is folded, or make the weight permanent "
            "(torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove)"
        ) from error
    folded = _replace(folded, lambda m, _: recurrent.folded(m) if isinstance(m, RecurrentCores) else m)
    if not has_cores(folded):  # every recurrent layer is plain by itself, whatever the forward does
        return folded
    try:
        graphs = variants(folded)
    except UntraceableError as error:
        remedy = (
            "move what cannot be traced into a module without cores, or fold the parts that the forward runs as a "
            "whole by themselves: model.set_submodule(part, sigmoidcore.fold(model.get_submodule(part)))"
        )
        raise UntraceableError(f"{error}; {remedy}") from error
    plan = FoldPlan(folded, graphs)
    with torch.no_grad():
        for layer in {*plan.outputs, *plan.inputs}:
            core, with_offset = next(iter(plan.outputs[layer]), None) or (None, False)
            factor = next((factor for factor, _ in plan.inputs[layer]), 1.0)
            rewrite(layer, plan.names[layer], plan.affine[core] if core else None, with_offset, factor)
        folded = _replace(folded, lambda module, name: _plain(plan, module, name))
    _check_reached(folded)
    return folded


def _replace(model: nn.Module, make: Callable[[nn.Module, str], nn.Module]) -> nn.Module:
    """Put `make(module, name)` in the place of every module, under all of its names; inner ones first."""
    made: dict[nn.Module, nn.Module] = {}
    for name, module in reversed(list(model.named_modules(remove_duplicate=False))):
        if module not in made:
            made[module] = make(module, name)
        if made[module] is not module and name:
            model.set_submodule(name, made[module])
    return made[model]


def _plain(plan: FoldPlan, module: nn.Module, name: str) -> nn.Module:
    """The plain module in the place of a module of the copy, or itself if it is plain."""
    if isinstance(module, SigmoidCore):
        made = _plain_core(plan, module)
    elif isinstance(module, _TRACED):
        made = fx.symbolic_trace(module)
    elif type(module).__module__.startswith(_OURS):
        module.__class__ = nn.Sequential
        return module
    else:
        return plain_forward(module, name)
    made.training = module.training
    give_hooks(module, made)  # a core with hooks keeps its constants, so they get the same values
    return made


def _plain_core(plan: FoldPlan, core: SigmoidCore) -> nn.Module:
    affine = plan.affine[core]
    stays = affine if core in plan.stays_before and not affine.is_identity else None
    factor = plan.factors[core] if core in plan.stays_behind else 1.0
    act = nn.Tanh() if core.centered else nn.Sigmoid()
    act.training = core.training
    return act if stays is None and factor == 1 else with_constants(act, stays, factor, core.shift)


def _check_classes(model: nn.Module) -> None:
    """Raise a ValueError if there is a module that cannot be made plain."""
    plain: set[Any] = {kind.forward for kind in (SigmoidCore, Chain, nn.Sequential, *_TRACED)}
    for name, module in model.named_modules():
        where, cls = f"'{name}'" if name else "the model", type(module)
        if "_orig_mod" in dict(module.named_children()):
            raise ValueError(
                f"{where} is compiled: fold model._orig_mod, that is the model that was given to torch.compile, and "
                "compile the copy"
            )
        ours = isinstance(module, SigmoidCore) or cls.__module__.startswith(_OURS)
        if ours and cls.forward not in plain and not isinstance(module, RecurrentCores):
            parts = [f"model.{name}.{n}".replace("..", ".") for n, part in module.named_children() if has_cores(part)]
            remedy = f": fold {' and '.join(parts)}" if parts else ""
            raise ValueError(
                f"{where} is a {cls.__name__} with its own forward, which has no plain counterpart{remedy}"
            )
        forward = vars(module).get("forward")
        if isinstance(forward, RewrittenForward):
            forward.check()
        elif forward is not None:
            raise ValueError(f"the forward of {where} was set on the instance, not by its class: give it a class")


def _check_reached(folded: nn.Module) -> None:
    """Raise a ValueError if the forward of the folded model still reaches a core."""
    try:
        variants(folded)
    except UntraceableError as error:
        raise ValueError(
            f"the forward reaches a core through an attribute that is not a submodule, such as a list: {error}; "
            "keep its modules in an nn.ModuleList"
        ) from error
