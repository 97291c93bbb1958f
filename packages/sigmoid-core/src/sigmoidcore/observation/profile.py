"""The gradient profile: how large the gradient is at every core of a model, measured on one batch."""

import traceback
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import gradient_size
from sigmoidcore.nn.recurrent import RecurrentCores
from sigmoidcore.observation.layer_observer import LayerObserver
from unstuck.observation import own_copy
from unstuck.observation.batch import Inputs, LossFn, check_batch, check_model, evaluating, loss_of, run, unchanged
from unstuck.observation.profile import Profile
from unstuck.wording import in_one_line


def gradient_profile(model: nn.Module, inputs: Inputs, targets: Any = None, loss_fn: LossFn | None = None) -> Profile:
    """Measure the gradient profile of a model on one batch: one forward and one backward pass.

    Every core is assumed to see as many samples as the first core, or as the recurrent layers if there are any,
    whatever its layout. Step t of a recurrent layer counts the sequences that reach step t.

    Nothing is changed: neither weights nor their `.grad`, buffers, modes or the state of the random generators.
    The model runs in evaluation mode, but a BatchNorm in training mode normalises by the batch, as in training.

    Args:
        model: a model with at least one core.
        inputs: one batch: a tensor (batch first), a tuple for `model(*inputs)` or a dict for `model(**inputs)`.
        targets: second argument of `loss_fn`.
        loss_fn: `loss_fn(outputs, targets)` gives a scalar; without it, the gradient is that of random cotangents
            (fixed seed) on the outputs.

    Raises:
        ValueError: no cores; empty or non-finite inputs, or some that a layer cannot read; `targets` without `loss_fn`
            or the other way round; a core that runs more than once a forward pass.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), SigmoidCore(8), nn.Linear(8, 2))
        >>> gradient_profile(model, torch.randn(5, 8)).spread
        1.0
    """
    check_model(model)
    _check_inputs(inputs)
    if (targets is None) != (loss_fn is None):
        present, missing = ("loss_fn", "targets") if targets is None else ("targets", "loss_fn")
        raise ValueError(f"{present} is given without {missing}: give both, or neither for random cotangents")
    observer = Preactivations(watched_layers(model))
    with unchanged(model, inputs), evaluating(model), torch.enable_grad():
        with observer:
            outputs = _run(model, inputs)
        names = [name for name, _ in observer.found]
        for name, x in observer.found:
            if x.dim() == 1 and getattr(observer.layers.get(name), "num_features", None):
                shape = tuple(x.shape)
                raise ValueError(
                    f"core '{name}' reads one sample, of shape {shape}: give a batch, inputs[None] or more"
                )
        loss = loss_of(outputs, targets, loss_fn)
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise ValueError(
                f"core '{repeated[0]}' runs {names.count(repeated[0])} times a forward pass: give every place its own "
                "core, or none (convert leaves alone what exclude= names)"
            )
        if not names:
            raise ValueError("no core of the model ran in the forward pass: check that forward uses them")
        if not loss.requires_grad:
            raise ValueError(
                "no gradient comes back from the outputs to the cores: check that forward does not detach them, and "
                "that this does not run in torch.inference_mode()"
            )
        steps = [name not in observer.layers for name in names]
        tensors = [x for _, x in observer.found]
        samples = max((len(x) for x, step in zip(tensors, steps, strict=True) if step), default=len(tensors[0]))
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(loss, tensors, allow_unused=True)
    sizes = [
        torch.zeros(()) if g is None else gradient_size(g.detach(), None if step else samples)
        for g, step in zip(gradients, steps, strict=True)
    ]
    return Profile(tuple(names), torch.stack([s.to("cpu", torch.float64) for s in sizes]))


def _check_inputs(inputs: Inputs) -> None:
    """Raise a ValueError if the batch has no tensor, no sample, or numbers that are not finite."""
    for tensor in check_batch(inputs):
        if tensor.dim() == 0:
            raise ValueError("inputs of shape () hold no samples: give a batch of at least one")
        if tensor.is_floating_point():
            whole = tensor.coalesce() if tensor.layout is torch.sparse_coo else tensor
            numbers = whole if whole.layout is torch.strided else whole.values()  # of a sparse or jagged tensor
            bad = int((~torch.isfinite(numbers)).sum())
            if bad:
                raise ValueError(
                    f"inputs hold {bad} non-finite value(s) of {tensor.numel()}: remove or impute those samples"
                )


def _run(model: nn.Module, inputs: Inputs) -> Any:
    """Run a model; a ValueError names the layer that cannot read what arrives, and the remedy."""
    try:
        return run(model, inputs)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        names = {id(module): name for name, module in model.named_modules()}
        frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
        innermost: dict[str, Any] = next((local for local in reversed(frames) if id(local.get("self")) in names), {})
        layer, x = innermost.get("self"), innermost.get("input")
        weight = getattr(layer, "weight", None)
        if not isinstance(x, Tensor) or not isinstance(weight, Tensor):
            raise
        wrong, remedy = f"shape {tuple(x.shape)}", "give a batch as in training, or make the model for these inputs"
        if x.dtype != weight.dtype:
            wrong, remedy = f"{x.dtype} with weights of {weight.dtype}", f"give inputs.to({weight.dtype})"
        where = f"layer '{names[id(layer)]}', {layer},"
        raise ValueError(f"{where} cannot read {wrong}: {remedy} ({in_one_line(error)})") from error


class Preactivations(LayerObserver):
    """Collects the preactivations of activations, and of every step of recurrent layers, as they run."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__(layers)
        self.found: list[tuple[str, Tensor]] = []

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        """A copy for the layer alone: x may be used or changed in place elsewhere, too (a skip connection)."""
        if not isinstance(layer, RecurrentCores):
            x = own_copy(x)
            self.found.append((name, x))
        return x

    def makes(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The outputs of a recurrent layer that has run step by step."""
        if isinstance(layer, RecurrentCores):
            output = layer.run_stepwise(
                *args, *kwargs.values(), on_step=lambda t, x: self.found.append((f"{name}[{t}]", x))
            )
        return output


def watched_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The model's cores by name, `SigmoidCore` modules and recurrent layers of cores; a ValueError if it has none."""
    watched = SigmoidCore | RecurrentCores
    found: dict[str, nn.Module] = {name: m for name, m in model.named_modules() if isinstance(m, watched)}
    if not found:
        kinds = sorted({type(m).__name__ for m in model.modules() if not list(m.children())})
        raise ValueError(
            f"the model has no cores, only {', '.join(kinds)}: make cores of its hidden sigmoids, tanhs and recurrent "
            "layers with sigmoidcore.convert, or build it with sigmoidcore.MLP"
        )
    return found
