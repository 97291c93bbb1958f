"""The gradient profile: how large the gradient is at every core of a model, measured on one batch."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore._torch.autograd import own_copy
from sigmoidcore._torch.eager import eager
from sigmoidcore.core import SigmoidCore, Stepwise
from sigmoidcore.gain import gradient_size, spread
from sigmoidcore.observation.observer import LayerObserver

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]
LossFn = Callable[[Any, Any], Tensor]
MOST_DEPTH = 8
"""Of nested tuples, lists and dicts that are looked through for tensors."""
BARS = 12

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Modules that normalise by the batch in training."""


@dataclass(frozen=True, eq=False)
class Profile:
    """Gradient sizes g_1 ... g_L, input to loss.

    Attributes:
        names: the cores in the order in which they ran; the steps of a recurrent layer are named `rnn[t]`.
        sizes: shape [L], float64, on the CPU; see `gain.gradient_size`. They scale with the loss, all alike.

    Example:
        >>> profile = Profile(("0", "1", "2"), torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64))
        >>> profile.spread
        4.0
        >>> print(profile)
        gradient profile of 3 cores, spread 4
          0  1.000e+00  █████████████
          1  2.000e+00  █████████████████████
          2  4.000e+00  ██████████████████████████████
    """

    names: tuple[str, ...]
    sizes: Tensor

    @property
    def spread(self) -> float:
        """max / min of the profile; 1 is perfect, inf if a gradient is 0, nan if one is not finite."""
        return spread(self.sizes)

    def __str__(self) -> str:
        """A table of at most 12 layers, with bars on a log axis."""
        count = len(self.names)
        shown = sorted({round(i * (count - 1) / max(1, min(BARS, count) - 1)) for i in range(min(BARS, count))})
        logs = [math.log10(v) if 0 < v < math.inf else None for v in self.sizes.tolist()]
        known = [v for v in logs if v is not None]
        low, high = (min(known), max(known)) if known else (0.0, 0.0)
        low = min(low, high - 1)
        width = max(len(self.names[i]) for i in shown)
        steps = sum(name.endswith("]") for name in self.names)
        cores = count - steps
        parts = [f"{n} {what}{'s' if n > 1 else ''}" for n, what in ((cores, "core"), (steps, "recurrent step")) if n]
        lines = [f"gradient profile of {' and '.join(parts)}, spread {self.spread:.4g}"]
        for i in shown:
            log = logs[i]
            bar = "" if log is None else "█" * round(1 + 29 * (log - low) / (high - low))
            lines.append(f"  {self.names[i]:<{width}}  {float(self.sizes[i]):9.3e}  {bar}".rstrip())
        return "\n".join(lines)


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
        ValueError: no cores; empty or non-finite inputs; `targets` without `loss_fn` or the other way round; a core
            that runs more than once a forward pass.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8), SigmoidCore(8), nn.Linear(8, 2))
        >>> gradient_profile(model, torch.randn(5, 8)).spread
        1.0
    """
    check_model(model)
    check_inputs(inputs)
    check_loss(targets, loss_fn)
    observer = _PreactivationObserver(watched_layers(model))
    with undisturbed(model, inputs), torch.enable_grad():
        with observer:
            outputs = run(model, inputs)
        names = [name for name, _ in observer.preactivations]
        loss = loss_of(outputs, targets, loss_fn)
        _check_once(names)
        if not loss.requires_grad:
            raise ValueError(
                "no gradient comes back from the outputs to the cores: check that forward does not detach them, and "
                "that this does not run in torch.inference_mode()"
            )
        steps = [name not in observer.layers for name in names]
        tensors = [x for _, x in observer.preactivations]
        samples = max((len(x) for x, step in zip(tensors, steps, strict=True) if step), default=len(tensors[0]))
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(loss, tensors, allow_unused=True)
    sizes = [
        torch.zeros(()) if g is None else gradient_size(g.detach(), None if step else samples)
        for g, step in zip(gradients, steps, strict=True)
    ]
    return Profile(tuple(names), torch.stack([s.to("cpu", torch.float64) for s in sizes]))


class _PreactivationObserver(LayerObserver):
    """Collects the preactivations of cores, and of every step of recurrent layers, as they run."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__(layers)
        self.preactivations: list[tuple[str, Tensor]] = []

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        """A copy for the core alone: x may be used or changed in place elsewhere, too (a skip connection)."""
        if isinstance(layer, SigmoidCore):
            x = own_copy(x)
            self.preactivations.append((name, x))
        return x

    def makes(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """The outputs of a recurrent layer that has run step by step."""
        if isinstance(layer, Stepwise):
            output = layer.run_stepwise(
                *args, *kwargs.values(), on_step=lambda t, x: self.preactivations.append((f"{name}[{t}]", x))
            )
        return output


def loss_of(outputs: Any, targets: Any, loss_fn: LossFn | None) -> Tensor:
    """The loss of outputs; without a loss function, that of random signs."""
    return random_loss(outputs) if loss_fn is None else scalar_loss(loss_fn(outputs, targets))


def random_loss(outputs: Any) -> Tensor:
    """The sum of the outputs with random signs, which are made on the CPU so that every device gets the same."""
    floating = floating_tensors(outputs)
    if not floating:
        raise ValueError(
            f"the model gives {type(outputs).__name__}, without a floating-point tensor: give targets and a loss_fn"
        )
    generator = torch.Generator().manual_seed(0)
    signs = [torch.randint(0, 2, t.shape, generator=generator) * 2 - 1 for t in floating]
    products = [(t * s.to(t.device, t.dtype)).sum() for t, s in zip(floating, signs, strict=True)]
    return torch.stack([product.to(torch.float32) for product in products]).sum()


def scalar_loss(loss: Any) -> Tensor:
    """What a loss function has returned, as a 0-dim tensor; a ValueError unless it is a tensor with one number."""
    if loss is None:
        raise ValueError("loss_fn gives None: let it return the loss, a tensor with one number")
    if isinstance(loss, Mapping | tuple | list):
        key = repr(next(iter(loss), "loss")) if isinstance(loss, Mapping) else 0
        raise ValueError(
            f"loss_fn must give a tensor with one number, got a {type(loss).__name__} of {len(loss)}: give a function "
            f"that returns the part to minimise, lambda outputs, targets: loss_fn(outputs, targets)[{key}]"
        )
    if not isinstance(loss, Tensor):
        raise ValueError(f"loss_fn must give a tensor with one number, got {type(loss).__name__}: leave out .item()")
    if loss.numel() != 1:
        raise ValueError(f"loss_fn must give a scalar, got shape {tuple(loss.shape)}: take its mean or sum")
    return loss.reshape(())


def watched_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The model's cores by name, `SigmoidCore` modules and recurrent layers of cores; a ValueError if it has none."""
    found: dict[str, nn.Module] = {
        name: module for name, module in model.named_modules() if isinstance(module, SigmoidCore | Stepwise)
    }
    if not found:
        kinds = sorted({type(m).__name__ for m in model.modules() if not list(m.children())})
        raise ValueError(
            f"the model has no cores, only {', '.join(kinds)}: make cores of its hidden sigmoids, tanhs and recurrent "
            "layers with sigmoidcore.convert, or build it with sigmoidcore.MLP"
        )
    return found


def run(model: nn.Module, inputs: Inputs) -> Any:
    """`model(inputs)`, `model(*inputs)` or `model(**inputs)`; an error of the model gets a note with the shapes."""
    try:
        if isinstance(inputs, Tensor):
            return model(inputs)
        return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
    except (RuntimeError, IndexError, ValueError) as error:
        tensors = [t for t in floating_tensors(inputs, all_types=True) if not t.is_nested]
        kinds = ", ".join(f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in tensors)
        error.add_note(f"the inputs have the shape {kinds}: give one batch as the model takes it in training")
        raise


def floating_tensors(values: Any, all_types: bool = False, depth: int = MOST_DEPTH) -> list[Tensor]:
    """The floating-point tensors in nested tuples, lists, dicts and dataclasses, in order, down to this depth."""
    if isinstance(values, Tensor):
        return [values] if all_types or values.is_floating_point() else []
    if is_dataclass(values) and not isinstance(values, type | Mapping):
        values = vars(values)
    children = values.values() if isinstance(values, Mapping) else values if isinstance(values, list | tuple) else ()
    return [t for child in children if depth for t in floating_tensors(child, all_types, depth - 1)]


def check_batch(inputs: Any) -> list[Tensor]:
    """The tensors of a batch; raises a ValueError if there is none, or an empty one."""
    tensors = floating_tensors(inputs, all_types=True)
    if not tensors:
        found = f"{type(inputs).__name__}: convert it first"
        if isinstance(inputs, tuple | list | Mapping) and not inputs:
            found = "none: for a model without inputs, use a Monitor"
        raise ValueError(f"inputs must be a tensor, or a tuple or dict of tensors, got {found}")
    empty = next((t for t in tensors if t.numel() == 0), None)
    if empty is not None:
        raise ValueError(f"inputs of shape {tuple(empty.shape)} hold no samples: give a batch of at least one")
    return tensors


def check_inputs(inputs: Inputs) -> None:
    """Raise a ValueError if the batch has no tensor, no sample, or numbers that are not finite."""
    for tensor in check_batch(inputs):
        if tensor.dim() == 0:
            raise ValueError("inputs of shape () hold no samples: give a batch of at least one")
        if tensor.is_floating_point():
            numbers = tensor if tensor.layout is torch.strided else _values(tensor)
            bad = int((~torch.isfinite(numbers)).sum())
            if bad:
                raise ValueError(
                    f"inputs hold {bad} non-finite value(s) of {tensor.numel()}: remove or impute those samples"
                )


def _values(sparse: Tensor) -> Tensor:
    """The numbers of a sparse or jagged tensor that it holds, in one piece."""
    return sparse.coalesce().values() if sparse.layout is torch.sparse_coo else sparse.values()


def check_model(model: Any) -> None:
    """Raise a TypeError that says what to do for anything but an nn.Module."""
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise TypeError(f"model is the class {model.__name__}: give an instance, {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}: give the model itself, or put its code into "
            "the forward of one"
        )


def check_loss(targets: Any, loss_fn: LossFn | None) -> None:
    """Raise a ValueError unless both or neither are given."""
    if (targets is None) != (loss_fn is None):
        present, missing = ("loss_fn", "targets") if targets is None else ("targets", "loss_fn")
        raise ValueError(f"{present} is given without {missing}: give both, or neither for random cotangents")


def _check_once(names: Sequence[str]) -> None:
    """Raise a ValueError if a core ran more than once, or none ran."""
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise ValueError(
            f"core '{twice}' runs {names.count(twice)} times a forward pass: give every place its own core, "
            "or none (convert leaves alone what exclude= names)"
        )
    if not names:
        raise ValueError("no core of the model ran in the forward pass: check that forward uses them")


@contextmanager
def undisturbed(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """Evaluation mode, uncompiled; the modes, random generators and running statistics are as they were afterwards."""
    with unchanged(model, inputs), evaluating(model):
        yield


@contextmanager
def unchanged(model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """Uncompiled; modes, random generators and running statistics are as they were afterwards."""
    modes = {module: module.training for module in model.modules()}
    norms = [m for m in modes if m.training and _is_batch_norm(m)]
    running = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    devices = {t.device.index or 0 for t in floating_tensors(inputs, all_types=True) if t.is_cuda}
    with torch.random.fork_rng(devices=sorted(devices)), eager():
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            for buffer, copy in running:
                buffer.copy_(copy)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, within `unchanged`; exported models refuse it and keep their mode.

    A BatchNorm that is in training mode stays there: training will use the statistics of its batches, too.
    """
    norms = [m for m in model.modules() if m.training and _is_batch_norm(m)]
    with suppress(NotImplementedError):
        model.eval()
    for norm in norms:
        norm.training = True
    yield


def _is_batch_norm(module: nn.Module) -> bool:
    """Whether it normalises by the batch while it trains, in TorchScript, too."""
    scripted = isinstance(module, torch.jit.ScriptModule) and "BatchNorm" in str(module.original_name)
    return scripted or isinstance(module, BATCH_NORMS)
