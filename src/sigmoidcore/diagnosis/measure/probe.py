"""Measure a step of any network: attach, let the model run forward and backward, and conclude.

What is measured is in `measurement`, how a pass is followed in `tracker`, and what is computed in `statistics`.
"""

import dataclasses
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn.modules import module as module_hooks
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from sigmoidcore._torch import eager
from sigmoidcore._torch.autograd import NONE, backward_pass, in_transform
from sigmoidcore.diagnosis.measure import hook_warnings
from sigmoidcore.diagnosis.measure.conclusion import conclude
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.measure.parameters import Weights
from sigmoidcore.diagnosis.measure.recording import Recording
from sigmoidcore.diagnosis.measure.tracker import Frame, Tracker, frame_of
from sigmoidcore.observation.process_group import Ranks

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
        self._scripted: list[str] = []
        self._parameters: dict[int, str] = {}
        self._stack: list[Frame] = []
        self._running: Recording | None = None
        self._following: Tracker | None = None
        self._recordings: list[Recording] = []
        self._backward = NONE
        self._transformed = False
        self._fresh: list[Recording] = []
        self._weights = Weights(dict(model.named_parameters()))

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
        self._weights = Weights(self._weights.parameters, self._weights.room)
        if not self._names:
            self._see_names()
        self._handles = [
            module_hooks.register_module_forward_pre_hook(self._enter),
            module_hooks.register_module_forward_hook(self._leave, always_call=True),
        ]
        eager.hold()
        hook_warnings.hold()
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
        self._backward, self._transformed = NONE, False
        self._weights.forget_gradients()

    def start_over(self) -> None:
        """Drop what was seen, of steps of optimizers, too."""
        self.forget()
        self._weights = Weights(self._weights.parameters)

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
        differentiated = self._transformed or any(r.differentiated for r in counted)
        try:
            found = conclude(
                counted, self._weights, self._ranks,
                step=step, loss=loss, scale=scale, seconds=seconds, differentiated=differentiated,
            )  # fmt: skip
        finally:
            self.forget()
        if found.layers or found.notes or all(weight.gradient is None for weight in found.weights):
            return found
        return dataclasses.replace(found, notes=(_NO_LAYERS,))

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
        if name is None or torch.compiler.is_compiling():
            return
        self._transformed |= torch.is_grad_enabled() and in_transform()
        if torch._C._are_functorch_transforms_active():
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
            if self._scripted:
                last.notes[_SCRIPTED.format(", ".join(self._scripted))] = None
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
        modules = dict(self.model.named_modules())
        self._scripted = _scripted(modules)
        self._names.clear()
        self._names.update((id(module), name) for name, module in modules.items())
        parameters = dict(self.model.named_parameters())
        self._parameters = {id(p): name for name, p in parameters.items()}
        if self._parameters != {id(p): name for name, p in self._weights.parameters.items()}:
            self._weights = Weights(parameters)

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
    hook_warnings.release()


_SCRIPTED = "what runs inside TorchScript: {}; measure the modules as they are before torch.jit.script or trace"
_NO_LAYERS = (
    "any layer, although parameters get gradients: what Python code calls of PyTorch is seen, and not what C++, Triton "
    "or a torch.autograd.Function does by itself"
)


def scripted(model: nn.Module) -> list[str]:
    """The modules that are TorchScript, but not the parts of these, as they are called in a sentence."""
    return _scripted(dict(model.named_modules()))


def _scripted(modules: Mapping[str, nn.Module]) -> list[str]:
    names: list[str] = []
    for name, module in modules.items():
        inside = names and (not names[-1] or name.startswith(f"{names[-1]}."))
        if isinstance(module, torch.jit.ScriptModule) and not inside:
            names.append(name)
    return [f"'{name}'" if name else "the model" for name in names]


def batch_size(values: Any) -> int:
    """Number of samples of a batch: the length of its first tensor; 0 if there is none."""
    if isinstance(values, PackedSequence):
        return int(values.batch_sizes[0])
    if isinstance(values, Tensor):
        return len(values) if values.dim() else 0
    children = values.values() if isinstance(values, dict) else values if isinstance(values, tuple | list) else ()
    return next((n for n in map(batch_size, children) if n), 0)
