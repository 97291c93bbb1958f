"""Measure a step of any network: attach, let the model run forward and backward, and conclude.

What is measured is in `measurement`, how a pass is followed in `tracker`, and what is computed in `statistics`.
"""

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn.modules import module as module_hooks
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from sigmoidcore import eager
from sigmoidcore.autograd import NONE, backward_pass
from sigmoidcore.diagnosis import quiet
from sigmoidcore.diagnosis.conclusion import conclude
from sigmoidcore.diagnosis.diagnosis import Diagnosis, Subject, judged
from sigmoidcore.diagnosis.measurement import Measurement
from sigmoidcore.diagnosis.recording import Recording
from sigmoidcore.diagnosis.tracker import Frame, Tracker, frame_of, tensors
from sigmoidcore.diagnosis.weights import Weights
from sigmoidcore.profile import Inputs, LossFn, floating_tensors, run, undisturbed
from sigmoidcore.ranks import Ranks

MOST_PASSES = 256
"""Forward passes of one step that are kept apart: micro-batches, several models' turns."""


class Probe:
    """Measures what a model does while it is attached, and is not there at all while it is not.

    The hooks that say which module runs are PyTorch's global ones, so nothing of the model is changed, and copies that
    are made of it meanwhile know nothing of the probe. Compiled code runs uncompiled while it is attached.

    What counts: forward passes with gradients enabled through which a gradient came back on its way into the `.grad` of
    a parameter. Several of them (micro-batches) are joined. Those whose gradients were emptied again are forgotten when
    the next gradient arrives: their step was skipped.

    Args:
        model: any module.
        most: samples of a batch that statistics across samples are taken from; None: all.
        ranks: the processes that train together.

    Attributes:
        named_inputs: what the model is given by name, which hooks do not show; None: not known.
        begins: is called when a forward pass with gradients begins, before it is looked at.
        dropped: is called when passes were forgotten because their gradients were emptied.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        most: int | None,
        ranks: Ranks,
        begins: Callable[[], None] = lambda: None,
        dropped: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.named_inputs: Any = None
        self._most = most
        self._ranks = ranks
        self._begins = begins
        self._dropped = dropped
        self._handles: list[RemovableHandle] = []
        self._release: weakref.finalize[[], Probe] | None = None
        self._names: dict[int, str] = {}
        self._parameters: dict[int, str] = {}
        self._stack: list[Frame] = []
        self._running: Recording | None = None
        self._following: Tracker | None = None
        self._recordings: list[Recording] = []
        self._backward = NONE
        self._fresh: list[Recording] = []
        self._weights = Weights(model)

    @property
    def attached(self) -> bool:
        """Whether the model is watched."""
        return bool(self._handles)

    @property
    def weights(self) -> Weights:
        """Reads the parameters."""
        return self._weights

    def attach(self) -> None:
        """Watch from the next forward pass on."""
        if self.attached:
            return
        self._weights = Weights(self.model)
        if not self._names:
            self._see_names()
        self._handles = [
            module_hooks.register_module_forward_pre_hook(self._enter),
            module_hooks.register_module_forward_hook(self._leave, always_call=True),
        ]
        eager.hold()
        quiet.hold()
        self._release = weakref.finalize(self, _release)
        self._release.atexit = False

    def detach(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        if self._release is not None:
            self._release()
        self._handles, self._release = [], None
        self._end_pass()

    def forget(self) -> None:
        """Drop what was seen."""
        self._recordings, self._fresh = [], []
        self._backward = NONE
        self._weights.forget_gradients()

    def start_over(self) -> None:
        """Drop what was seen, of steps of optimizers, too."""
        self.forget()
        self._weights = Weights(self.model)

    def emptied(self) -> bool:
        """Whether the gradients of all passes that a gradient came back through were emptied since.

        If those of some were only, these are forgotten.
        """
        counted = [r for r in self._recordings if r.counts]
        emptied = [r for r in counted if self._weights.emptied(r.tracker.used)]
        if len(emptied) == len(counted):
            return bool(counted)
        self._recordings = [r for r in self._recordings if r not in emptied]
        return False

    @property
    def seen(self) -> bool:
        """Whether a gradient has come back through anything."""
        return any(r.counts for r in self._recordings)

    def conclude(
        self, *, step: int | None = None, loss: float | None = None, scale: float = 1.0, seconds: float | None = None
    ) -> Measurement:
        """The measurement of all passes since `attach`; detaches.

        Args:
            step: of the optimizer.
            loss: its value, not multiplied by `scale`.
            scale: what the loss was multiplied by (a gradient scaler).
            seconds: time taken.
        """
        self.detach()
        counted = [r for r in self._recordings if r.counts] or self._recordings
        try:
            return conclude(counted, self._weights, self._ranks, step=step, loss=loss, scale=scale, seconds=seconds)
        finally:
            self.forget()

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow what is called inside although no module runs: a loss function."""
        if not self._recordings:
            yield
            return
        self._following = self._recordings[-1].tracker
        try:
            with self._following:
                yield
        finally:
            self._following = None

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        name = self._names.get(id(module))
        if name is None or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return
        if not self._stack:
            if not torch.is_grad_enabled() or backward_pass() != NONE:
                return  # an evaluation, or a checkpoint that is computed again
            self._forget_what_an_error_ended()
            self._begins()
            if not self.attached:
                return
            self._begin_pass(args if args or self.named_inputs is None else self.named_inputs, name)
            name = self._names.get(id(module), name)
        self._stack.append(frame_of(module, name, len(self._recordings[-1].tracker.rows) if self._recordings else 0))

    def _leave(self, module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
        if self._stack and self._stack[-1].module is module:
            frame = self._stack.pop()
            if self._running is not None:
                self._running.tracker.left(frame, args, result)
            if not self._stack:
                self._end_pass()

    def _begin_pass(self, args: Any, name: str) -> None:
        last = self._recordings[-1] if self._recordings else None
        if last is None:
            self._see_names()
        if last is None or not last.tracker.goes_on(args, name):
            if len(self._recordings) >= MOST_PASSES:
                self._recordings = [r for r in self._recordings if r.counts][-MOST_PASSES // 2 :]
            last = Recording(
                self._names,
                self._parameters,
                self._stack,
                samples=batch_size(args),
                most=self._most,
                arrived=self._gradient_arrived,
            )
            last.see_inputs(args)
            self._recordings.append(last)
        self._running = last
        if self._following is not last.tracker:  # a loss function may run the model again
            if self._following is not None:
                self._following.paused = True
            last.tracker.__enter__()  # type: ignore[no-untyped-call]

    def _end_pass(self) -> None:
        self._stack.clear()
        if self._running is not None:
            running, self._running = self._running, None
            if self._following is not running.tracker:
                running.tracker.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            if self._following is not None:
                self._following.paused = False

    def _see_names(self) -> None:
        """Take the modules and parameters as they are: wrappers may have come since, or other parameters."""
        self._names.clear()
        self._names.update((id(module), name) for name, module in self.model.named_modules())
        self._parameters = {id(p): name for name, p in self.model.named_parameters()}
        if self._parameters != {id(p): name for name, p in self._weights.parameters.items()}:
            self._weights = Weights(self.model)

    def _gradient_arrived(self, recording: Recording) -> None:
        """Read the parameters' gradients when the backward pass is over: all micro-batches so far, before clipping."""
        if recording in self._fresh or recording not in self._recordings:
            return
        if backward_pass() != self._backward:
            self._backward = backward_pass()
            self._forget_what_was_emptied(recording)
            # Three times over: DistributedDataParallel puts the mean over the ranks in place in such a callback of
            # such a callback, too.
            queue = Variable._execution_engine.queue_callback
            queue(lambda: queue(lambda: queue(self._see_gradients)))
        self._fresh.append(recording)

    def _see_gradients(self) -> None:
        self._fresh = []
        self._weights.see_gradients()

    def _forget_what_an_error_ended(self) -> None:
        """Passes whose backward pass has not come to its end."""
        self._recordings = [r for r in self._recordings if r not in self._fresh]
        self._fresh = []

    def _forget_what_was_emptied(self, arriving: Recording) -> None:
        """That is where `zero_grad` stands between the forward and the backward pass."""
        emptied = [r for r in self._recordings if r.counts and self._weights.emptied(r.tracker.used)]
        if emptied:
            self._recordings = [r for r in self._recordings if r not in emptied or r is arriving]
            self._dropped()
        if arriving in emptied:
            arriving.forget_gradients()


def _release() -> None:
    eager.release()
    quiet.release()


def diagnose(model: nn.Module, inputs: Inputs, targets: Any = None, loss_fn: LossFn | None = None) -> Diagnosis:
    """Measure a network on one batch, and say in words what is wrong and what to do.

    One forward and one backward pass. Any network will do: with or without cores, convolutional, recurrent,
    transformers. Functions that a forward calls by name are seen as modules are. Nothing is changed: neither weights
    nor their `.grad`, buffers, modes, nor the state of the random generators. The model runs in evaluation mode, but a
    BatchNorm in training mode normalises by the batch.

    Under `torch.distributed` all ranks call it together, each with its own batch, and get the numbers of all batches.

    Args:
        model: any module.
        inputs: one batch: a tensor (batch first), a tuple for `model(*inputs)` or a dict for `model(**inputs)`; 32
            samples or more, or the rules about dead units keep silent.
        targets: second argument of `loss_fn`.
        loss_fn: `loss_fn(outputs, targets)` gives a scalar; without it, the gradient is that of random cotangents on
            the outputs (fixed seed), and nothing is said of the loss.

    Returns:
        A frozen, printable diagnosis: `print(d)`, `d.findings`, `d.layers`, `d.to_json()`, `d.to_html(path)`,
        `d.plot()`, `d.mend()`.

    Raises:
        ValueError: empty inputs; inputs that the model does not take; `targets` without `loss_fn`; a loss that is no
            scalar.

    Example:
        >>> import sigmoidcore as sc
        >>> model = nn.Sequential(*[layer for _ in range(30) for layer in (nn.Linear(16, 16), nn.Sigmoid())])
        >>> d = sc.diagnose(model, torch.randn(64, 16))
        >>> d.findings[0].rule, d.findings[0].name
        ('SC101', 'vanishing gradient')
    """
    started = time.perf_counter()
    subject = Subject(model, inputs, targets, loss_fn)
    _check(inputs, targets, loss_fn)
    inputs, targets = _cut_off(inputs), _cut_off(targets)
    probe = Probe(model, most=None, ranks=Ranks())
    probe.named_inputs = inputs if isinstance(inputs, Mapping) else None
    with (
        undisturbed(model, inputs),
        _own_buffers(model),
        _own_gradients(model, inputs, targets, loss_fn),
        torch.enable_grad(),
    ):
        probe.attach()
        try:
            outputs = run(model, inputs)
            with probe.following():
                loss = _loss_of(outputs, targets, loss_fn)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            value = float(loss.detach()) if loss_fn is not None else None
            measurement = probe.conclude(loss=value, seconds=time.perf_counter() - started)
        finally:
            probe.detach()
    return judged([measurement], subject)


def _check(inputs: Inputs, targets: Any, loss_fn: LossFn | None) -> None:
    given = floating_tensors(inputs, all_types=True)
    if not given:
        raise ValueError(
            f"inputs must be a tensor, or a tuple or dict of tensors, got {type(inputs).__name__}: convert it first"
        )
    empty = next((t for t in given if t.numel() == 0), None)
    if empty is not None:
        raise ValueError(f"inputs of shape {tuple(empty.shape)} hold no samples: give a batch of at least one")
    if targets is not None and loss_fn is None:
        raise ValueError("targets is given without loss_fn: give both, or neither for random cotangents")


def _loss_of(outputs: Any, targets: Any, loss_fn: LossFn | None) -> Tensor:
    if loss_fn is None:
        floating = [t for t in tensors(outputs) if t.is_floating_point()]
        if not floating:
            raise ValueError(
                f"the model gives {type(outputs).__name__}, without a floating-point tensor: give targets and a loss_fn"
            )
        generator = torch.Generator().manual_seed(0)
        signs = [(torch.randint(0, 2, t.shape, generator=generator) * 2 - 1).to(t.device, t.dtype) for t in floating]
        return torch.stack([(t * s).sum().float() for t, s in zip(floating, signs, strict=True)]).sum()
    loss: Any = loss_fn(outputs, targets)
    if not isinstance(loss, Tensor):
        raise ValueError(f"loss_fn must give a tensor with one number, got {type(loss).__name__}: leave out .item()")
    if loss.numel() != 1:
        raise ValueError(f"loss_fn must give a scalar, got shape {tuple(loss.shape)}: take its mean or sum")
    return loss.reshape(())


def _cut_off(values: Any) -> Any:
    """Without the graph that tensors come from: the backward pass would go on into it."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor if tensor.is_leaf else tensor.detach().requires_grad_(tensor.requires_grad)

    return tree_map_only(Tensor, cut, dict(values) if isinstance(values, Mapping) else values)


@contextmanager
def _own_buffers(model: nn.Module) -> Iterator[None]:
    """Put back what a forward pass writes into buffers; one of another shape stays: a cache that has grown."""
    kept = [(m, n, b, b.clone()) for m in model.modules() for n, b in m.named_buffers(recurse=False)]
    try:
        yield
    finally:
        for module, name, buffer, copy in kept:
            now = module._buffers.get(name)
            if now is not None and now.shape == buffer.shape:
                module._buffers[name] = buffer
                if not torch.equal(buffer, copy):
                    buffer.copy_(copy)


@contextmanager
def _own_gradients(model: nn.Module, inputs: Inputs, targets: Any, loss_fn: LossFn | None) -> Iterator[None]:
    """Let a backward pass fill `.grad`, as FSDP and checkpoints need it, and put back what was there."""
    leaves = [*model.parameters(), *(t for t in tensors((inputs, targets)) if t.requires_grad and t.is_leaf)]
    if isinstance(loss_fn, nn.Module):
        leaves += loss_fn.parameters()
    kept = [(leaf, leaf.grad) for leaf in leaves]
    # Optimizers that step in the backward pass hang here.
    hooks = [(h, dict(h)) for leaf in leaves if (h := getattr(leaf, "_post_accumulate_grad_hooks", None))]
    for leaf, _ in kept:
        leaf.grad = None
    for held, _ in hooks:
        held.clear()
    try:
        yield
    finally:
        for leaf, gradient in kept:
            leaf.grad = gradient
        for held, before in hooks:
            held.update(before)


def batch_size(values: Any) -> int:
    """Number of samples of a batch: the length of its first tensor; 0 if there is none."""
    if isinstance(values, PackedSequence):
        return int(values.batch_sizes[0])
    if isinstance(values, Tensor):
        return len(values) if values.dim() else 0
    children = values.values() if isinstance(values, dict) else values if isinstance(values, tuple | list) else ()
    return next((n for n in map(batch_size, children) if n), 0)
