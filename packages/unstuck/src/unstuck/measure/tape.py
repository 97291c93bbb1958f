"""The tape of a training step: its forward passes and what is computed from them, kept so that it can be repeated."""

import inspect
import linecache
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from unstuck._torch.autograd import NONE, backward_pass
from unstuck._torch.modes import leave, lower, original
from unstuck.extensions import is_library
from unstuck.measure.calls import tensors
from unstuck.measure.one_batch import own_buffers
from unstuck.observation.batch import unchanged
from unstuck.observation.observer import Observer

PASSES = 16
"""Forward passes that are kept, the latest: a loop without an optimizer never ends its step."""


@dataclass(frozen=True)
class _Call:
    """A forward pass of the model, or a function that reads what comes from one."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    place: tuple[str, int]  # file and line
    random: tuple[Tensor, ...] | None  # state of the generators before a forward pass
    autocast: tuple[str, torch.dtype, bool]


class Tape(Observer):
    """Records each training step while it is attached, until `forget`. A repetition detaches it.

    It keeps references, and copies nothing: the arguments of the forward passes, and the functions from their results
    to the loss. Functions that read nothing of the model are not recorded: their results are constants of the step.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__({"": model})
        self.model = model
        self._recorder = _Recorder(self._record, self._end)
        self._recording = False
        self.forget()

    def forget(self) -> None:
        """Drop the step: an optimizer has used it."""
        self._stop()
        self._calls: list[_Call] = []
        self._known: dict[int, Tensor] = {}
        self._losses: list[Tensor] = []
        self._running: _Call | None = None
        self._random: tuple[Tensor, ...] | None = None
        self._nodes: dict[Node, _Call] = {}

    def detach(self) -> None:
        """Stop recording."""
        super().detach()
        self.forget()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to repeat."""
        return not self._calls

    @contextmanager
    def repetition(self) -> Iterator[Callable[[], Tensor]]:
        """Yields a function that repeats the step up to its loss; the model stays as it is, and the tape stops."""
        self._stop()
        super().detach()
        with unchanged(self.model, [call.args for call in self._calls]), own_buffers(self.model), torch.enable_grad():
            yield self._repeat

    def line_of(self, node: Node | None) -> str | None:
        """The user's line of the call that runs, or of the one that made a node."""
        call = self._running if node is None else self._nodes.get(node)
        if call is None or not call.place[0]:
            return None
        file, number = call.place
        return f"{Path(file).name}:{number}, {linecache.getline(file, number).strip()}"

    def arrives(self, name: str, layer: nn.Module, args: tuple[Any, ...]) -> None:
        """A forward pass begins."""
        self._stop()
        if torch.is_grad_enabled() and backward_pass() == NONE:
            self._drop_old()
            self._random = _random_states()

    def leaves(self, name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A forward pass is over; its loss comes next."""
        random, self._random = self._random, None
        if random is None or output is None:
            return
        self._keep(layer, args, kwargs, output, random)
        self._recorder.__enter__()  # type: ignore[no-untyped-call]
        lower(self._recorder)  # the caller may leave a mode of its own before the loss
        self._recording = True

    def _drop_old(self) -> None:
        """Make room for another forward pass."""
        passes = [i for i, call in enumerate(self._calls) if call.random is not None]
        if len(passes) >= PASSES:
            self._calls = self._calls[passes[1] :]
            self._known = {id(t): t for call in self._calls for t in tensors((call.result,))}
            self._losses = [loss for loss in self._losses if id(loss) in self._known]

    def _stop(self) -> None:
        if self._recording:
            self._recording = False
            leave(self._recorder)

    def _end(self, loss: Tensor) -> None:
        """A backward pass begins."""
        if id(loss) in self._known:
            self._losses.append(loss)

    def _record(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        if backward_pass() == NONE and any(id(t) in self._known for t in tensors((args, kwargs))):
            self._keep(function, args, kwargs, result, None)

    def _keep(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
        random: tuple[Tensor, ...] | None,
    ) -> None:
        self._known.update((id(t), t) for t in tensors((result,)))
        device = next(self.model.parameters()).device.type
        autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        place = _users_place() if random is None else ("", 0)
        self._calls.append(_Call(function, args, dict(kwargs), result, place, random, autocast))

    def _repeat(self) -> Tensor:
        """The sum of the step's losses, computed again."""
        again: dict[int, Tensor] = {}
        for call in self._calls:
            self._running = call
            if call.random is not None:
                _set_random_states(call.random)
            device, dtype, enabled = call.autocast
            with torch.autocast(device, dtype=dtype, enabled=enabled):
                result = call.function(*replaced(call.args, again), **replaced(call.kwargs, again))
            for before, now in zip(tensors((call.result,)), tensors((result,)), strict=False):
                again[id(before)] = now
                if now.grad_fn is not None:
                    self._nodes.setdefault(now.grad_fn, call)
        self._running = None
        scalars = [t for t in self._known.values() if t.dim() == 0 and t.requires_grad]
        losses = [again[id(loss)] for loss in self._losses or scalars[-1:] if id(loss) in again]
        return torch.stack([loss.sum() for loss in losses]).sum() if losses else torch.zeros(())


class _Recorder(TorchFunctionMode):
    """Hands on every call of PyTorch that is made while it is entered."""

    def __init__(self, record: Callable[..., None], end: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._record = record
        self._end = end

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the function, and record it if it makes or changes a tensor."""
        func = original(func)
        name = getattr(func, "__name__", "")
        if name == "backward":
            self._end(args[0])
        result = func(*args, **(kwargs or {}))
        if name == "__setitem__" or (name not in ("__get__", "backward") and any(True for _ in tensors((result,)))):
            self._record(func, args, kwargs or {}, args[0] if result is None else result)
        return result


def _users_place() -> tuple[str, int]:
    """File and line of the user's code that makes the call that runs."""
    frame = inspect.currentframe()
    while frame is not None and is_library(str(frame.f_globals.get("__name__"))):
        frame = frame.f_back
    return ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)


def replaced(values: Any, again: Mapping[int, Tensor]) -> Any:
    """The values, with repeated tensors in the place of recorded ones."""
    if isinstance(values, Tensor):
        return again.get(id(values), values)
    if isinstance(values, Mapping):
        return {name: replaced(value, again) for name, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)(replaced(value, again) for value in values)
    return values


def _random_states() -> tuple[Tensor, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    return (torch.get_rng_state(), *cuda)


def _set_random_states(states: tuple[Tensor, ...]) -> None:
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])
