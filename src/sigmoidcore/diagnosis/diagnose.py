"""diagnose: one batch through a network, forward and backward, and what the rules say of it."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore._torch.autograd import leaves
from sigmoidcore.diagnosis.checks import check, cut_off, outputs_of
from sigmoidcore.diagnosis.diagnosis import Diagnosis, Subject, judged
from sigmoidcore.diagnosis.measure.probe import Probe
from sigmoidcore.diagnosis.measure.restoration import own_buffers, own_gradients
from sigmoidcore.diagnosis.measure.tracker import tensors
from sigmoidcore.observation.process_group import Ranks
from sigmoidcore.observation.profile import Inputs, LossFn, evaluating, unchanged


def diagnose(
    model: nn.Module, inputs: Inputs, targets: Any = None, loss_fn: LossFn | None = None, *, training: bool = False
) -> Diagnosis:
    """Measure a network on one batch, and say in words what is wrong and what to do.

    One forward and one backward pass. Any network will do: with or without cores, convolutional, recurrent,
    transformers. Functions that a forward calls by name are seen as modules are. Nothing is changed: neither weights
    nor their `.grad`, buffers, modes, nor the state of the random generators. The model runs in evaluation mode, but a
    BatchNorm in training mode normalises by the batch. One that refuses `eval()`, as exported ones do, runs as it is.

    Under `torch.distributed` all ranks call it together, each with its own batch, and get the numbers of all batches.

    Args:
        model: any module.
        inputs: one batch: a tensor (batch first), a tuple for `model(*inputs)` or a dict for `model(**inputs)`; 32
            samples or more, or the rules about dead units keep silent.
        targets: second argument of `loss_fn`.
        loss_fn: `loss_fn(outputs, targets)` gives a scalar; without it, the gradient is that of random cotangents on
            the outputs (fixed seed), and nothing is said of the loss.
        training: run the model in training mode, dropout and all, for one whose forward or loss needs it. Parts that
            are in evaluation mode within a model in training mode stay so.

    Returns:
        A frozen, printable diagnosis: `print(d)`, `d.findings`, `d.layers`, `d.to_json()`, `d.to_html(path)`,
        `d.plot()`, `d.mend()`.

    Raises:
        TypeError: the model is no module, or its forward does not take such inputs.
        ValueError: empty inputs; inputs that the model does not take; weights or inputs without numbers, on the device
            meta; weights from `torch.inference_mode()`; `targets` without `loss_fn`; a loss that is no scalar.

    Example:
        >>> import sigmoidcore as sc
        >>> model = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(16, 16), nn.Sigmoid())])
        >>> d = sc.diagnose(model, torch.randn(64, 16))
        >>> d.findings[0].rule, d.findings[0].name
        ('SC101', 'vanishing gradient')
    """
    return diagnose_over(Ranks(), model, inputs, targets, loss_fn, training=training)


def diagnose_over(
    ranks: Ranks,
    model: nn.Module,
    inputs: Inputs,
    targets: Any = None,
    loss_fn: LossFn | None = None,
    *,
    training: bool = False,
) -> Diagnosis:
    """`diagnose` over these processes, all of which call it together."""
    started = time.perf_counter()
    subject = Subject(model, inputs, targets, loss_fn, training)
    check(model, inputs, targets, loss_fn)
    mode = _training if training else evaluating
    with torch.inference_mode(False), torch.enable_grad():
        inputs, targets = cut_off(inputs), cut_off(targets)
        known = [*model.parameters(), *(t for t in tensors((inputs, targets)) if t.requires_grad and t.is_leaf)]
        if isinstance(loss_fn, nn.Module):
            known += loss_fn.parameters()
        probe = Probe(model, most=None, ranks=ranks)
        probe.named_inputs = inputs if isinstance(inputs, Mapping) else None
        with unchanged(model, inputs), own_buffers(model), own_gradients(known) as own, mode(model):
            probe.attach()
            try:
                with _named(mode):
                    outputs = outputs_of(model, inputs)
                    with probe.following():
                        loss = _signed(outputs) if loss_fn is None else loss_fn(outputs, targets)
                loss = _scalar(loss)
                if loss.requires_grad:
                    own(leaves(loss))
                    loss.backward()  # type: ignore[no-untyped-call]
                    if not probe.seen:  # nobody has told that gradients arrive
                        probe.weights.see_gradients()
                value = float(loss.detach()) if loss_fn is not None else None
                measurement = probe.conclude(loss=value, seconds=time.perf_counter() - started)
            finally:
                probe.detach()
    return judged([measurement], subject)


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Training mode; in a model that is in it, parts that are not stay so: frozen norms."""
    if not model.training:
        with suppress(NotImplementedError):
            model.train()
    yield


@contextmanager
def _named(mode: Callable[..., Any]) -> Iterator[None]:
    """An error of the model or of the loss function says in which mode the model ran."""
    try:
        yield
    except Exception as error:
        if mode is evaluating:
            error.add_note("the model ran in evaluation mode; training=True runs it as in training")
        raise


def _signed(outputs: Any) -> Tensor:
    """The sum of the outputs with random signs."""
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type | dict):
        outputs = [getattr(outputs, field.name) for field in dataclasses.fields(outputs)]
    floating = [t for t in tensors(outputs) if t.is_floating_point()]
    if not floating:
        raise ValueError(
            f"the model gives {type(outputs).__name__}, without a floating-point tensor: give targets and a loss_fn"
        )
    generator = torch.Generator().manual_seed(0)
    signs = [(torch.randint(0, 2, t.shape, generator=generator) * 2 - 1).to(t.device, t.dtype) for t in floating]
    return torch.stack([(t * s).sum().float() for t, s in zip(floating, signs, strict=True)]).sum()


def _scalar(loss: Any) -> Tensor:
    if loss is None:
        raise ValueError("loss_fn gives None: let it return the loss, a tensor with one number")
    if not isinstance(loss, Tensor):
        raise ValueError(f"loss_fn must give a tensor with one number, got {type(loss).__name__}: leave out .item()")
    if loss.numel() != 1:
        raise ValueError(f"loss_fn must give a scalar, got shape {tuple(loss.shape)}: take its mean or sum")
    return loss.reshape(())
