"""Equalize: during training, change slopes where the gradient leaves the band, and open neurons that have saturated."""

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from sigmoidcore._torch.eager import uncompiled
from sigmoidcore.core import SigmoidCore
from sigmoidcore.equalizer.cadence import Cadence, check_state
from sigmoidcore.equalizer.checks import check_equalizer, check_model, check_optimizer, checked_sinks
from sigmoidcore.equalizer.layer_rule import Consumers, excess_of, find_consumers, level_layers
from sigmoidcore.equalizer.neuron_rule import open_saturated
from sigmoidcore.gain import norms, spread
from sigmoidcore.observation.gradients import CorePass, GradientObserver, mean_relative_slopes
from sigmoidcore.observation.process_group import Ranks
from sigmoidcore.observation.profile import watched_layers

REMEMBERED = 10_000
"""Samples kept in the history; older ones are dropped."""
STALE = 0.01
"""A step that opened more than this share of all neurons changes no weights: its gradients are out of date."""
MUCH = 0.1
"""A change of a slope (in logarithms) after which the next sample comes soon: it may not have been enough."""
PATIENCE = 10
"""Sampled steps in a row without a gradient, after which a warning is given."""


@dataclass(frozen=True)
class Sample:
    """The measurement of one sampled step, and the changes.

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
    step (nothing is computed twice) and applies two rules.

    **Layer rule** (the article's "same size in every layer"). With e_l = log g_l - median, only the part beyond
    +-log(tolerance) counts, the excess. The slope of layer l is divided by exp(p d), d = excess_l - excess_{l+1}, at
    most by 2 a sample. The part p = (d / log 20)^2 is between 0.1 and 1, because a small difference may be the noise of
    a batch. If a core feeds several cores (branches, residual streams), excess_{l+1} is their mean. The last core keeps
    its slope: it would change all layers alike. The slope of a layer whose mean relative slope is below 0.5 is not
    raised: the layer would only saturate more. A core that feeds others only through a normalisation gets a lower slope
    only if it is saturated. Inside the band nothing changes.

    **Neuron rule** (the article's step 4). A neuron is saturated if its mean relative slope over the batch is below
    `floor`. Its shift becomes the batch mean of its preactivation. If it is still saturated, its slope is lowered until
    its mean relative slope is 0.8 (at the floor itself it would saturate again within a few steps).

    Both rules are disabled for losses that contain derivatives (`torch.autograd.grad(..., create_graph=True)`,
    `torch.func.grad`, forward mode). Much of the gradient then reaches a layer without passing the layers behind it,
    and neurons that are steep at a few points are correct: a solution with a jump needs them.

    If more than 1 % of all neurons were saturated, no slope follows the profile and the step's gradients are dropped
    (set to None). They were computed before the change, and Adam would remember their size for long.

    A step that is not sampled costs nothing: hooks are in place on sampled steps only. Gradients of several backward
    passes before one step (accumulation) are joined. Clipping and steps that a gradient scaler skips do no harm. A
    profile that is not finite is recorded and never moves a slope.

    With `torch.compile`, sampled steps run uncompiled and all others compiled; nothing is compiled again. Across the
    ranks of `torch.distributed` the statistics are summed first: all ranks make the same changes.

    Args:
        model: a model with `SigmoidCore` modules.
        optimizer: its optimizer.
        every: "auto" or a number of steps. Auto samples before the profile can reach the edge of the band at its last
            speed: after at most four times the last interval (a quarter after large corrections), at least every 100
            steps.
        tolerance: half width of the band, a factor above 1.
        floor: mean relative slope below which a neuron is saturated, between 0 and 1.
        scaler: the `torch.amp.GradScaler` of the training: the history then has unscaled gradients. The changes do not
            depend on it: the factor is the same in every layer.
        process_group: the ranks that train this model together; default: all, if `torch.distributed` is initialized.
        sinks: called with every new `Sample`; see `sigmoidcore.integrations.sinks`.

    Attributes:
        history: the last 10,000 samples, each a `Sample`.

    Raises:
        TypeError: not an nn.Module, not a torch.optim.Optimizer, an optimizer that cannot have hooks because it wraps
            another one, or a sink that is not a function of one argument.
        ValueError: an argument is out of range, the model has no cores, trained slopes are sharded, or this process
            does not belong to `process_group`. From `optimizer.step`, at the first sample: the slopes are not the same
            on all ranks.

    Warns:
        RuntimeWarning: no gradient came back to some core on ten sampled steps in a row.

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
        scaler: torch.amp.GradScaler | None = None,
        process_group: "torch.distributed.ProcessGroup | Ranks | None" = None,
        sinks: Iterable[Callable[[Sample], object]] = (),
    ) -> None:
        check_model(model)
        check_optimizer(optimizer)
        check_equalizer(every, tolerance, floor)
        self.every = every
        self.tolerance = tolerance
        self.floor = floor
        self.history: deque[Sample] = deque(maxlen=REMEMBERED)
        self._sinks = checked_sinks(sinks)
        self._cores = _cores_of(model)
        self._ranks = process_group if isinstance(process_group, Ranks) else Ranks(process_group)
        self._scaler = scaler
        self._observer = GradientObserver(self._cores, model.parameters)
        self._optimizer = optimizer
        self._neurons = sum(core.shift.numel() for core in self._cores.values())
        self._cadence = Cadence(every, tolerance)
        self._unseen = 0
        self._compared = False
        self._fed: Consumers | None = None
        try:
            self._hooks = [
                optimizer.register_step_pre_hook(uncompiled(self._before_step)),
                optimizer.register_step_post_hook(uncompiled(self._after_step)),
            ]
        except AttributeError as error:
            raise TypeError(
                f"{type(optimizer).__name__} is a wrapper that cannot have hooks: give the Equalizer the optimizer "
                "inside of it, which is its attribute `optimizer` as a rule"
            ) from error
        self._attach_if_due()

    def look(self) -> None:
        """Take the sample of this step now, if it is one; else `optimizer.step` does so before it changes anything.

        For a closure that `optimizer.step` calls once: at its end, so that the slopes change before the weights do, and
        not after them.
        """
        if self._stale(self._look_once(self._optimizer)):
            self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened; slopes and shifts are in the model's state dict."""
        return {**self._cadence.state_dict(), "history": [vars(sample) for sample in self.history]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`.

        Raises:
            ValueError: the state is not one of an Equalizer, or of a model with another number of cores; nothing is
                changed then.
        """
        check_state(state, len(self._cores))
        try:
            history = [Sample(**{**s, "log_sizes": tuple(s["log_sizes"])}) for s in state["history"]]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"this is not the state of an Equalizer: its history does not hold samples ({error})"
            ) from error
        self._cadence.load_state_dict(state)
        self.history = deque(history, maxlen=REMEMBERED)
        self._observer.detach()
        self._attach_if_due()

    def remove(self) -> None:
        """Detach from the optimizer and the model; slopes and shifts stay as they are."""
        self._observer.detach()
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

    def _attach_if_due(self) -> None:
        if self._cadence.due:
            self._observer.attach()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if not _has_closure(args, kwargs):
            self.look()

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._look_once(optimizer)  # forward and backward pass were in the closure
        self._cadence.step += 1
        self._attach_if_due()

    def _look_once(self, optimizer: torch.optim.Optimizer) -> int:
        """Look if the step is sampled, and stop watching; returns the number of neurons opened."""
        if not self._observer.attached:
            return 0
        passes, differentiated = self._observer.counted(), self._observer.differentiated
        self._observer.detach()
        skipped = bool(getattr(optimizer, "found_inf", False))  # a fused optimizer skips the step by itself
        if not self._all_present(passes) or not self._ranks.all(not skipped, self._device):
            return 0
        changed = [name for name, of_core in passes.items() if any(p.changed for p in of_core)]
        if changed:  # the next step is sampled on copies; the same on every rank, for all run the same model
            for name in changed:
                self._observer.copy_values(name)
            return 0
        self._compare_ranks()
        return self._look(passes, differentiated)

    def _all_present(self, passes: dict[str, list[CorePass]]) -> bool:
        """Whether a gradient came back to every core, on every rank; without it a profile would have a hole."""
        missing = [name for name, of_core in passes.items() if not of_core]
        if self._ranks.all(not missing, self._device):
            self._unseen = 0
            return True
        self._unseen += 1
        if self._unseen == PATIENCE and missing:
            warnings.warn(
                f"{PATIENCE} steps in a row were to be sampled, and no gradient came back to {len(missing)} of "
                f"{len(passes)} cores, the first of them '{missing[0]}': the Equalizer changes nothing. It sees "
                "forward passes that run module by module and whose gradients come from backward(): not those inside "
                "transforms of torch.func or replayed CUDA graphs, and nothing before frozen parameters "
                "(requires_grad=False). Use every core, or give the Equalizer the part of the model that trains",
                RuntimeWarning,
                stacklevel=2,
            )
        return False

    @torch.no_grad()
    def _compare_ranks(self) -> None:
        """Raise a ValueError, on all ranks, if they did not start from the same slopes and shifts; once."""
        if self._compared or self._ranks.count == 1:
            return
        parts = [part.flatten() for core in self._cores.values() for part in (core.alpha, core.shift)]
        if not self._ranks.same(torch.cat([part.to(self._device) for part in parts])):
            raise ValueError(
                "slopes and shifts are not the same on all ranks, and would stay apart: calibrate or prepare before "
                "DistributedDataParallel is made, or broadcast the model's state afterwards"
            )
        self._compared = True

    @property
    def _device(self) -> torch.device:
        return next(iter(self._cores.values())).shift.device

    @torch.no_grad()
    def _look(self, passes: dict[str, list[CorePass]], differentiated: bool) -> int:
        """Take a sample and apply both rules; returns the number of neurons opened.

        Args:
            passes: those that count, by core.
            differentiated: whether the loss of this rank contains derivatives: then no rule applies.
        """
        samples = [sum(p.samples for p in of_core) for of_core in passes.values()]
        sizes = self._ranks.sizes(_sizes(passes.values()), samples, self._device)
        if self._scaler is not None:
            sizes = sizes / self._scaler.get_scale()
        logs = sizes.log()
        neurons, moved, relative = 0, [], None
        if self._ranks.all(not differentiated, self._device) and bool(torch.isfinite(sizes).all()):
            rows = [sum(p.rows for p in of_core) for of_core in passes.values()]
            relative = self._ranks.means(_mean_relative_slopes(passes.values(), self._device), rows)
            neurons = open_saturated(self._cores, passes, relative, self.floor, self._ranks)
        if bool(torch.isfinite(logs).all()) and not self._stale(neurons):
            if relative is not None:
                moved = self._level_layers(logs, relative, passes)
            self._cadence.advance(logs, corrected=neurons > 0 or max(moved, default=0.0) > MUCH)
        else:  # not finite, exactly 0, or computed before neurons were opened
            self._cadence.restart()
        thin = logs[:: max(1, math.ceil(len(logs) / 64))]
        self.history.append(Sample(self._cadence.step, spread(sizes), tuple(thin.tolist()), len(moved), neurons))
        for sink in self._sinks:
            sink(self.history[-1])
        return neurons

    def _stale(self, opened: int) -> bool:
        """Whether so many neurons were opened that the gradients of this step do not fit the network any more."""
        return opened > STALE * self._neurons

    def _level_layers(self, logs: Tensor, relative: list[Tensor], passes: dict[str, list[CorePass]]) -> list[float]:
        """Apply the layer rule, which needs to know once what each core feeds."""
        if self._fed is None and bool(excess_of(logs, self.tolerance).any()):
            self._fed = find_consumers(passes)
        return level_layers(list(self._cores.values()), logs, relative, self._fed or [], self.tolerance)


def _cores_of(model: nn.Module) -> dict[str, SigmoidCore]:
    """The cores of a model that the Equalizer can read."""
    cores = {name: layer for name, layer in watched_layers(model).items() if isinstance(layer, SigmoidCore)}
    if not cores:
        raise ValueError("the model has recurrent cores only, which the Equalizer does not read: leave it out")
    sharded = next((n for n, c in cores.items() if any(hasattr(p, "to_local") for p in c.parameters())), None)
    if sharded is not None:
        raise ValueError(
            f"the trained slopes of core '{sharded}' are sharded, and every rank needs all of them: "
            "name them in ignored_params of fully_shard, or make the cores without trainable=True"
        )
    return cores


def _has_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether `optimizer.step` was given a closure; the first argument is the optimizer."""
    return kwargs.get("closure") is not None or (len(args) > 1 and args[1] is not None)


def _sizes(passes: Iterable[list[CorePass]]) -> Tensor:
    """Gradient sizes of the cores, [cores], float64, on the CPU: those of several passes are joined."""
    flat = norms([gradient for of_core in passes for one in of_core for gradient in one.gradients()])
    samples = [one.samples for of_core in passes for one in of_core for _ in one.gradients()]
    flat /= torch.tensor(samples, dtype=torch.float64).sqrt()
    counts = [sum([len(one.gradients()) for one in of_core]) for of_core in passes]
    if len(flat) == len(counts):
        return flat
    return torch.stack([torch.linalg.vector_norm(part) for part in torch.split(flat, counts)])


def _mean_relative_slopes(passes: Iterable[list[CorePass]], home: torch.device) -> list[Tensor]:
    """Mean relative slope of every neuron of each core over the rows of all its passes, on one device."""
    slopes = iter(mean_relative_slopes([one for of_core in passes for one in of_core]))
    return [_joined([next(slopes).to(home) for _ in of_core], of_core) for of_core in passes]


def _joined(means: list[Tensor], passes: list[CorePass]) -> Tensor:
    """Mean over the rows of several passes from the mean over those of each."""
    if len(means) == 1:
        return means[0]
    rows = sum(one.rows for one in passes)
    return torch.stack([mean * (one.rows / rows) for mean, one in zip(means, passes, strict=True)]).sum(0)
