"""Equalize: during training, change slopes where the gradient leaves the band, and open neurons that have saturated."""

import math
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import gradient_size, mean_relative_slope, slope_for_floor, spread
from sigmoidcore.profile import tapped_modules

LONGEST = 100
"""The automatic cadence looks at least every so many steps."""
REMEMBERED = 10_000
"""Samples kept in the history; older ones are dropped."""
OPEN = 0.8
"""Mean relative slope that a neuron saturated by scale gets back: that of a layer at saturation level 1."""
STALE = 0.01
"""A step that opened more than this share of all neurons changes no weights: its gradients are of another function."""
MOST = math.log(2)
"""A slope changes at most by this factor (in logarithms) a sample."""


@dataclass(frozen=True)
class Sample:
    """What one sampled step showed, and what was done.

    Attributes:
        step: optimizer step, from 0.
        spread: spread of the gradient profile; nan if a gradient was not finite, and then nothing was changed.
        log_sizes: natural logarithms of the profile, thinned to at most 64 layers, input to loss.
        slopes: layers whose slope was changed by the layer rule.
        neurons: saturated neurons whose shift or slope was changed by the neuron rule.
    """

    step: int
    spread: float
    log_sizes: tuple[float, ...]
    slopes: int
    neurons: int


class Equalizer:
    """Keeps the gradient at the same size in every layer while a model trains.

    It attaches itself to the optimizer's step and needs no other call. On a sampled step it reads the gradients of that
    very step (nothing is computed twice) and applies two rules:

    **Layer rule** (the article's "same size in every layer"): with e_l = log g_l - median, only what exceeds
    +-log(tolerance) counts; the slope of layer l is divided by exp(excess_l - excess_{l+1}), at most by 2 a sample.
    Inside the band nothing is touched.

    **Neuron rule** (the article's step 4): a neuron whose mean relative slope over the batch is below `floor` is
    saturated, by *offset* or by *scale*. Its shift is set to the batch mean of its preactivation; if it is still
    saturated then, its slope is lowered until its mean relative slope is 0.8. (Back at the floor only, it would still
    be nearly shut, and the next steps would shut it again.)

    Where more than 1 % of all neurons had to be opened, the step's gradients are dropped (set to None): they belong to
    a function that the network no longer is, and an optimizer like Adam would remember their size for long.

    A step that is not sampled costs nothing: hooks are in place for sampled steps only. Gradients of several
    backward passes before one step (accumulation) are joined. A gradient scaler's factor cancels out. Clipping does
    not disturb it. A profile that is not finite is counted and never moves a slope.

    Args:
        model: a model with `SigmoidCore` modules.
        optimizer: its optimizer.
        every: "auto" or a number of steps. Auto looks again before the profile has moved by half the band at the
            speed last seen, at most doubling the interval each time, and at least every 100 steps.
        tolerance: half width of the band, a factor above 1.
        floor: mean relative slope below which a neuron is saturated, between 0 and 1.

    Attributes:
        history: the last 10,000 samples, each a `Sample`.

    Raises:
        ValueError: an argument is out of range, or the model has no cores.

    Example:
        >>> import sigmoidcore as sc
        >>> model = sc.MLP(8, 16, 10, 2)
        >>> _ = sc.prepare(model, torch.randn(100, 8))
        >>> optimizer = torch.optim.Adam(sc.depth_scaled_lr(model))
        >>> with sc.Equalizer(model, optimizer) as equalizer:
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         model(torch.randn(100, 8)).square().mean().backward()
        ...         optimizer.step()
        >>> equalizer.history[0].step
        0
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        every: int | Literal["auto"] = "auto",
        tolerance: float = 2.0,
        floor: float = 0.05,
    ) -> None:
        if every != "auto" and (type(every) is not int or every < 1):
            raise ValueError(f'every must be "auto" or a number of steps of at least 1, got {every!r}')
        if not 1 < tolerance < math.inf:
            raise ValueError(f"tolerance must be a factor above 1, got {tolerance}; 2 is the usual choice")
        if not 0 < floor < 1:
            raise ValueError(f"floor must be between 0 and 1, got {floor}; 0.05 is the usual choice")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise NotImplementedError(
                "Equalizer does not sum its statistics across ranks yet, and slopes must not drift apart: "
                "train in one process, or without it"
            )
        self.every = every
        self.tolerance = tolerance
        self.floor = floor
        self.history: deque[Sample] = deque(maxlen=REMEMBERED)
        self._cores = {n: m for n, m in tapped_modules(model).items() if isinstance(m, SigmoidCore)}
        if not self._cores:
            raise ValueError("the model has recurrent cores only, which the Equalizer does not read: leave it out")
        self._neurons = sum(core.shift.numel() for core in self._cores.values())
        self._step = 0
        self._next = 0
        self._interval = 1
        self._before: Tensor | None = None
        self._seen: dict[str, list[_Pass]] = {}
        self._taps: list[RemovableHandle] = []
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]
        self._arm()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened; slopes and shifts are in the model's state dict."""
        return {
            "step": self._step,
            "next": self._next,
            "interval": self._interval,
            "before": None if self._before is None else self._before.clone(),
            "history": [vars(sample) for sample in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`.

        Raises:
            ValueError: the state is not one of an Equalizer, or of a model with another number of cores.
        """
        missing = {"step", "next", "interval", "before", "history"} - set(state)
        if missing:
            raise ValueError(f"this is no state of an Equalizer: it lacks {', '.join(sorted(missing))}")
        before = state["before"]
        if before is not None and before.shape != (len(self._cores),):
            raise ValueError(
                f"the state is that of a model with {before.shape[0]} cores, this one has {len(self._cores)}: "
                "load it into an Equalizer of the same model"
            )
        self._step, self._next, self._interval = state["step"], state["next"], state["interval"]
        self._before = None if before is None else before.clone()
        self.history = deque(
            (Sample(**{**s, "log_sizes": tuple(s["log_sizes"])}) for s in state["history"]), maxlen=REMEMBERED
        )
        self._disarm()
        self._arm()

    def remove(self) -> None:
        """Detach from the optimizer and the model; slopes and shifts stay as they are."""
        self._disarm()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Detach."""
        self.remove()

    def _arm(self) -> None:
        """Put hooks on the cores if the step to come is sampled."""
        self._seen = {}
        if self._step >= self._next:
            self._taps = [core.register_forward_hook(self._tap(name)) for name, core in self._cores.items()]

    def _disarm(self) -> None:
        for tap in self._taps:
            tap.remove()
        self._taps, self._seen = [], {}

    def _tap(self, name: str) -> Any:
        def forward_hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            x = args[0]
            if torch.is_grad_enabled() and x.requires_grad:
                seen = _Pass(x.detach())
                x.register_hook(seen.take)  # type: ignore[no-untyped-call]
                self._seen.setdefault(name, []).append(seen)

        return forward_hook

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._taps:
            # Only passes that a gradient came back through belong to this step: evaluations in between do not.
            passes = {name: [p for p in seen if p.size is not None] for name, seen in self._seen.items()}
            if passes and all(passes.get(name) for name in self._cores):
                opened = self._look(passes)
                if opened > STALE * self._neurons:
                    optimizer.zero_grad()
            self._disarm()

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._step += 1
        if not self._taps:
            self._arm()

    @torch.no_grad()
    def _look(self, passes: dict[str, "list[_Pass]"]) -> int:
        """Take a sample and apply both rules; returns the number of neurons opened."""
        sizes = torch.stack([torch.linalg.vector_norm(torch.stack([p.size for p in passes[n]])) for n in self._cores])  # type: ignore[misc]
        sizes = sizes.to("cpu", torch.float64)
        logs = sizes.log()
        slopes = neurons = 0
        if bool(torch.isfinite(sizes).all()):
            neurons = sum(self._open_neurons(core, passes[name]) for name, core in self._cores.items())
        if bool(torch.isfinite(logs).all()):
            slopes = self._level_layers(logs)
            self._set_interval(logs)
        else:  # not finite, or exactly 0: a profile with a hole cannot be levelled, and is looked at again soon
            self._interval = 1 if self.every == "auto" else self.every
            self._before = None
        self._next = self._step + self._interval
        thin = range(0, len(logs), max(1, math.ceil(len(logs) / 64)))
        self.history.append(Sample(self._step, spread(sizes), tuple(float(logs[i]) for i in thin), slopes, neurons))
        return neurons

    def _level_layers(self, logs: Tensor) -> int:
        """The layer rule; returns the number of slopes changed."""
        errors = logs - logs.median()
        excess = errors.sign() * (errors.abs() - math.log(self.tolerance)).clamp_min(0)
        change = (excess - torch.cat([excess[1:], excess.new_zeros(1)])).clamp(-MOST, MOST)
        moved = change.nonzero().flatten().tolist()
        cores = list(self._cores.values())
        for i in moved:
            cores[i].set_slope(cores[i].alpha * math.exp(-float(change[i])))
        return len(moved)

    def _open_neurons(self, core: SigmoidCore, passes: "list[_Pass]") -> int:
        """The neuron rule; returns the number of neurons opened."""
        dim = core.dim % passes[0].x.dim()
        per_neuron = core.num_features is not None
        x = torch.cat([(p.x.movedim(dim, -1).flatten(0, -2) if per_neuron else p.x.reshape(-1, 1)) for p in passes])
        x = x.to(core.shift.dtype)
        alpha, shift = core.alpha.reshape(-1), core.shift.reshape(-1)
        shut = mean_relative_slope(alpha * (x - shift)) < self.floor
        count = int(shut.sum())
        if count:
            x, alpha, shift = x[:, shut], alpha.clone(), shift.clone()
            shift[shut] = x.mean(0)
            x -= shift[shut]
            wide = shut.clone()
            wide[shut] = mean_relative_slope(alpha[shut] * x) < self.floor
            alpha[wide] = slope_for_floor(x[:, wide[shut]], alpha[wide], max(OPEN, self.floor))
            if not bool(torch.isfinite(shift).all() and torch.isfinite(alpha).all()):
                return 0
            core.set_shift(shift.reshape(core.shift.shape))
            core.set_slope(alpha.reshape(core.shift.shape))
        return count

    def _set_interval(self, logs: Tensor) -> None:
        """Look again before the profile has moved by half the band, at the speed seen since the last look."""
        if self.every != "auto":
            self._interval = self.every
            return
        if self._before is not None:
            moved = (logs - logs.median()) - (self._before - self._before.median())
            speed = float(moved.abs().max()) / self._interval
            steps = 0.5 * math.log(self.tolerance) / max(speed, 1e-12)
            self._interval = int(max(1, min(LONGEST, 2 * self._interval, steps)))
        self._before = logs


class _Pass:
    """One forward pass through one core: its preactivations and, once the backward pass has come by, their gradient."""

    def __init__(self, x: Tensor) -> None:
        self.x = x
        self.size: Tensor | None = None

    def take(self, gradient: Tensor) -> None:
        self.size = gradient_size(gradient.detach().to(torch.float32))
