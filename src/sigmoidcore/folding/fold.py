"""Fold: slopes and shifts go into the weights; what is left is a plain network of sigmoids or tanhs.

`variants` traces the forward, `commute` knows what a constant may pass, `absorb` decides where each constant goes,
`sigmoids` which cores need not be tanhs, `plain` has the layers that result.
"""

import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, fx, nn

from sigmoidcore.conversion.contents import contents
from sigmoidcore.conversion.rewriting import OwnForward
from sigmoidcore.conversion.traced_forward import TracedForward
from sigmoidcore.conversion.tracing import UntraceableError
from sigmoidcore.core import SigmoidCore
from sigmoidcore.folding.commutation import has_hooks
from sigmoidcore.folding.plain_layers import folded_rnn, rewrite, with_constants, with_states
from sigmoidcore.folding.planner import Plan
from sigmoidcore.folding.sigmoid_planner import plan_with_sigmoids
from sigmoidcore.folding.tracing import has_cores, variants
from sigmoidcore.nn import recurrent
from sigmoidcore.nn.networks import RNN, Chain
from sigmoidcore.nn.recurrent import RecurrentCores
from sigmoidcore.nn.stepwise import Stepwise

_FUNCTIONS = {"tanh()": nn.Tanh, "sigmoid()": nn.Sigmoid}
_PLANS: dict[str, Callable[[nn.Module, list[fx.Graph]], Plan]] = {"tanh": Plan, "sigmoid": plan_with_sigmoids}
NAMES = 5
"""Most parts that an error names."""


def fold(model: nn.Module, *, activation: str = "tanh") -> nn.Module:
    """A copy of a model in which plain PyTorch layers compute the same.

    Every `SigmoidCore` becomes `nn.Sigmoid`, or `nn.Tanh` if it is centered, every `RNN` and every
    recurrent layer of cores PyTorch's own. Slope and shift
    go into the layer before, the factor that a tanh lacks goes into the layers behind. Where this is not possible
    (the core reads an input of the model, what it gives is added to something else, a weight is shared), the constant
    stays, as an operation of a small `torch.fx.GraphModule` in place of the core. Modules keep their names, so that
    `plain.load_state_dict(sc.fold(converted).state_dict())` works where nothing stayed and no bias had to be added.

    Args:
        model: any module with cores; it is not changed. Its forward must be one that `torch.fx` can follow.
        activation: what a centered core becomes. "tanh", or "sigmoid" for faster inference of batches on a CPU, where
            PyTorch's tanh is the slower one: a core is 2 sigmoid(2 z) - 1 in place of tanh(z) then, with the 2 and the
            1 in the layers around it, if these can take them in (nn.Linear, a convolution that pads with no zeros);
            else it is `nn.Tanh` still. It costs digits: in float32 the outputs are four to seven times as far off.

    Returns:
        The copy, on the same devices, with the same dtypes, modes and `requires_grad`, without gradients. The outputs
        are the same up to rounding: weights are computed in float64 and rounded once. A layer gets a bias if it has
        none and a shift or a sigmoid needs one. It can be trained further, pickled and exported; no module in it is
        sigmoidcore's.

    Raises:
        UntraceableError: the forward branches on values, and the model has other cores than recurrent layers; the error
            names the parts of the model that can be folded.
        ValueError: `activation` is something else, a slope or shift is not finite or on the meta device, weights would
            overflow their dtype, the forward reads a slope, a module is of a class that has no plain counterpart, the
            model is compiled, or a weight was computed with gradients, so that PyTorch does not copy it.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), SigmoidCore(3, alpha=4.0, centered=True), nn.Linear(3, 2))
        >>> fold(model)
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
          (1): Tanh()
          (2): Linear(in_features=3, out_features=2, bias=True)
        )
        >>> x = torch.randn(5, 4)
        >>> torch.allclose(fold(model)(x), model(x), atol=1e-6)
        True
        >>> fold(model, activation="sigmoid")[1]
        Sigmoid()

    Source:
        sigmoid(z) - 1/2 = tanh(z/2)/2, or tanh(z) = 2 sigmoid(2 z) - 1; docs/fold.md.
    """
    if activation not in _PLANS:
        raise ValueError(f"activation must be {' or '.join(map(repr, _PLANS))}, got {activation!r}")
    if isinstance(model, RecurrentCores):
        return recurrent.folded(model)
    if isinstance(model, SigmoidCore | RNN) or _is_of_pytorch(model):  # as in a model, where it is not looked into
        return next(fold(nn.Sequential(model), activation=activation).children())
    given = model
    if any(isinstance(module, RecurrentCores) for module in model.modules()):
        model = _with_plain_recurrent_layers(_copied(model))
    _check_classes(model)
    try:
        graphs = variants(_copied(model))  # a forward may leave something in its module
    except UntraceableError as error:
        if model is given or has_cores(model):
            raise UntraceableError(f"{error}; {_remedy(given)}") from error
        graphs = []  # each recurrent layer is plain by itself, whatever the forward does with it
    folded = _copied(model)
    with torch.no_grad():
        _rewrite_all(_PLANS[activation](folded, graphs))
    folded = _without_traced_forwards(folded)
    for module in folded.modules():
        if type(module).__module__.startswith("sigmoidcore."):
            module.__class__ = nn.Sequential  # _check_classes: it adds nothing to it
    if graphs:
        _check_replaced(folded)
    _check_nothing_is_held(folded)
    return folded


def _is_of_pytorch(model: nn.Module) -> bool:
    """Whether a model is a layer of PyTorch's that runs cores, such as a transformer layer."""
    runs = type(model).forward is not nn.Module.forward  # a ModuleList does not
    return runs and has_cores(model) and fx.Tracer().is_leaf_module(model, "")


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy that computes the same.

    A copy of a decoder layer takes relu if its activation is a submodule and no attribute: PyTorch's `__setstate__`.

    Raises:
        ValueError: a tensor cannot be copied since it was computed with gradients.
    """
    try:
        made = copy.deepcopy(model)
    except RuntimeError as error:
        for name, module in model.named_modules():
            for key, value in (*module.__dict__.items(), *module._buffers.items()):
                if isinstance(value, Tensor) and value.grad_fn is not None:
                    raise ValueError(
                        f"'{key}' of layer '{name}' was computed with gradients, so PyTorch does not copy it: run the "
                        "model once under torch.no_grad() before it is folded, or make the weight permanent "
                        "(torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove)"
                    ) from error
        raise
    for layer, before in zip(made.modules(), model.modules(), strict=True):
        if isinstance(layer, nn.TransformerDecoderLayer) and "activation" not in before.__dict__:
            layer.__dict__["activation"] = layer._modules["activation"]
    return made


def _replace(model: nn.Module, plain: Mapping[nn.Module, nn.Module]) -> None:
    """Put modules in the place of others, also where an attribute is one that is a submodule besides."""
    for parent in list(model.modules()):
        for held in (parent._modules, parent.__dict__):
            for key, value in held.items():
                if isinstance(value, nn.Module) and value in plain:
                    held[key] = plain[value]


def _shown(name: str) -> str:
    return f"'{name}'" if name else "the model"


def _check_nothing_is_held(folded: nn.Module) -> None:
    """Raise a ValueError if a core is held by something else than the modules, which would be saved with the model."""
    for name, module in folded.named_modules():
        for key, value in module.__dict__.items():
            if key != "_modules" and any(isinstance(v, SigmoidCore | Stepwise) for _, v in contents(value)):
                raise ValueError(
                    f"'{key}' of {_shown(name)} holds a core in an attribute that is not a "
                    "submodule, such as a list: keep its modules in an nn.ModuleList"
                )


def _with_plain_recurrent_layers(model: nn.Module) -> nn.Module:
    """The model, with its recurrent layers of cores become PyTorch's: whoever holds one of them holds the plain one."""
    for layer in [module for module in model.modules() if isinstance(module, RecurrentCores)]:
        plain = recurrent.folded(layer)
        layer.__class__ = type(plain)  # type: ignore[assignment]
        layer.__dict__ = plain.__dict__
    return model


def _rewrite_all(plan: Plan) -> None:
    """Change the weights and put the plain modules in place of the cores."""
    for layer in {*plan.outputs, *plan.inputs}:
        if not isinstance(layer, RNN):
            affine, with_offset = plan.affine_behind(layer)
            rewrite(layer, plan.names[layer], affine, with_offset, plan.lack_before(layer))
    plain: dict[nn.Module, nn.Module] = {core: _plain_core(plan, core) for core in plan.affine}
    plain |= {m: _plain_rnn(plan, m) for m in plan.lack if isinstance(m, RNN)}
    for module, made in plain.items():
        made.train(module.training)
        # who watches it sees what it saw: a core with hooks keeps its constants
        made.__dict__.update({k: v for k, v in module.__dict__.items() if "hook" in k})
    _replace(plan.model, plain)


def _plain_core(plan: Plan, core: SigmoidCore) -> nn.Module:
    affine = plan.affine[core]
    kept = affine if core in plan.kept_before and not affine.is_identity else None
    factor = plan.lack[core].factor if core in plan.kept_behind else 1.0
    act = nn.Tanh() if core in plan.tanhs else nn.Sigmoid()
    if kept is None and factor == 1 and core not in plan.named:
        return act
    return with_constants(act, kept, factor, core.shift)


def _plain_rnn(plan: Plan, layer: RNN) -> nn.Module:
    states = set(plan.states[layer]) or {"none"}
    if {"none", "doubled"} <= states:
        raise ValueError(
            f"the RNN '{plan.names[layer]}' runs both with and without an initial state, which has to be doubled: "
            "give it zeros in place of none"
        )
    if has_hooks(layer):
        raise ValueError(f"the RNN '{plan.names[layer]}' has hooks, which would see other values: remove them first")
    rnn = folded_rnn(layer, plan.lack_before(layer).factor, plan.names[layer])
    doubled, halved = "doubled" in states, layer in plan.kept_behind
    if not doubled and not halved and layer not in plan.named:
        return rnn
    return with_states(rnn, states != {"none"}, doubled, halved)


def _check_classes(model: nn.Module) -> None:
    """Raise a ValueError if there is a module that cannot be made plain."""
    for name, module in model.named_modules():
        if "_orig_mod" in module._modules:
            raise ValueError(
                f"{_shown(name)} is compiled: fold model._orig_mod, that is the model that was "
                "given to torch.compile, and compile the copy"
            )
        cls = type(module)
        kinds = SigmoidCore, RNN, Chain
        own = next((kind.forward for kind in kinds if isinstance(module, kind)), nn.Sequential.forward)
        ours = isinstance(module, SigmoidCore | RNN) or cls.__module__.partition(".")[0] == "sigmoidcore"
        if ours and cls.forward is not own:
            raise ValueError(f"'{name}' is a {cls.__name__} with a forward of its own, which has no plain counterpart")
        own_forward = module.__dict__.get("forward")
        if isinstance(own_forward, TracedForward):
            own_forward.check()
        elif own_forward is not None:
            raise ValueError(f"the forward of '{name}' was set on the instance, not by its class: give it a class")


def _without_traced_forwards(folded: nn.Module) -> nn.Module:
    """In place of the forwards that `convert` wrote, those of the classes; where a constant stayed, a GraphModule."""
    names = {module: name for name, module in folded.named_modules()}
    for owner in reversed(names):  # what is inside first
        forward = owner.__dict__.get("forward")
        if not isinstance(forward, TracedForward):
            continue
        if _is_the_class_again(owner, forward):
            for core in [core for core, was in forward.added.items() if core != was]:
                place, _, key = core.rpartition(".")
                del owner.get_submodule(place)._modules[key]
            del owner.__dict__["forward"]
            continue
        try:
            plain = OwnForward(owner).as_module(owner)
        except UntraceableError as error:
            raise ValueError(
                f"a slope or shift stays in the forward of '{names[owner]}' ({type(owner).__name__}), which cannot be "
                f"written without sigmoidcore: {error}; make its functional calls modules, such as nn.Tanh(), before "
                "convert, or leave them out with exclude="
            ) from error
        _replace(folded, {owner: plain})
        folded = plain if owner is folded else folded
    return folded


def _is_the_class_again(owner: nn.Module, forward: TracedForward) -> bool:
    """Whether what the class's forward calls is what the added cores have become."""
    if any(has_hooks(owner.get_submodule(core)) for core, was in forward.added.items() if core != was):
        return False
    plain = {core: type(owner.get_submodule(core)) for core in forward.added}
    return all(
        kind in _FUNCTIONS.values() and kind is (_FUNCTIONS.get(was) or type(owner.get_submodule(was)))
        for (core, kind), was in zip(plain.items(), forward.added.values(), strict=True)
    )


def _check_replaced(folded: nn.Module) -> None:
    """Raise a ValueError if the forward of the folded model still reaches a core."""
    try:
        variants(_copied(folded))
    except UntraceableError as error:
        raise ValueError(
            f"the forward reaches a core through an attribute that is not a submodule, such as a list: {error}; "
            "keep its modules in an nn.ModuleList"
        ) from error


def _remedy(model: nn.Module) -> str:
    parts = list(_foldable_parts(model, ""))
    if not parts:
        return "move what cannot be traced into a module of its own that has no cores"
    more = f" and {len(parts) - NAMES} more" if len(parts) > NAMES else ""
    return (
        f"its parts {', '.join(repr(p) for p in parts[:NAMES])}{more} can be folded by themselves, if it runs them "
        "as a whole only: model.set_submodule(part, sigmoidcore.fold(model.get_submodule(part)))"
    )


def _foldable_parts(model: nn.Module, prefix: str) -> Iterator[str]:
    """The largest modules with cores whose forward can be traced."""
    for name, child in model.named_children():
        if not has_cores(child):
            continue
        try:
            if not isinstance(child, SigmoidCore | Stepwise):
                variants(_copied(child))
            yield prefix + name
        except UntraceableError:
            yield from _foldable_parts(child, f"{prefix}{name}.")
