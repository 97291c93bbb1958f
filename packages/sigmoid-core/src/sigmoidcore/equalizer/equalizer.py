"""Equalize: during training, a core or a neuron that has left its band is set back to its level."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from sigmoidcore.core import SigmoidCore
from sigmoidcore.equalizer.alarm import Alarm
from sigmoidcore.equalizer.level_rule import LevelRule
from sigmoidcore.equalizer.profile_rule import ProfileRule
from sigmoidcore.equalizer.sample import Sample
from sigmoidcore.observation.gradients import (
    CorePass,
    GradientObserver,
    gradient_moments,
    gradient_sizes,
    relative_slopes,
)
from sigmoidcore.observation.graph import Trunk, find_trunk
from sigmoidcore.observation.profile import watched_layers
from unstuck.language.warning import warn
from unstuck.observation import uncompiled
from unstuck.observation.batch import check_model, checked_sinks
from unstuck.observation.process_group import Ranks
from unstuck.observation.profile import spread

REMEMBERED = 10_000  # samples kept in the history; older ones are dropped
SHORTEST, GROWTH, USUAL, LONGEST = 10, 4, 100, 400
"""Automatic: an interval between samples is GROWTH times the last one, at least SHORTEST, up to LONGEST, or USUAL if
something has moved; 1 after a large change."""
MUCH = 0.1  # after a larger change of a slope (in logarithms), the next sample comes soon: one change may not be enough
MOST_SHUT = 0.5  # after the first sample, neurons are set back only in cores where this share of them is saturated
STALE = 0.01  # with more saturated neurons at the first step, its gradients are dropped: Adam would remember their size
ENOUGH = 8.0  # samples that must make the gradient, for slopes to follow it: that of a few is not the network's
PATIENCE = 10  # sampled steps in a row without a gradient, after which a warning is given
_Passes = dict[str, list[CorePass]]  # by core
_Changes = tuple[int, int, bool] | None  # what `LevelRule.finish` returns


class Equalizer:
    """Keeps cores at their level, and the gradient at the same size in every layer, while a model trains.

    It attaches itself to the optimizer's step and needs no other call. There is one rule: **a core or a neuron that has
    left its band gets the shift and slope with which it is back at its level**, in a forward pass, before it runs.

    - **An accident**: the gradients are suddenly others for two steps, because weights or inputs were changed. In the
      next step each core whose z has another size or other means than before is set back. If the profile is then not
      as level as before, this is undone. It needs `every="auto"` and one process.
    - **Saturated neurons** (the article's step 4), whose mean relative slope is below `floor`: at the first sample, and
      later where half of a layer is saturated, they are set back if they are saturated in the next step, too.
    - The exception, for slopes that are wrong from the start: until the gradient is for the first time inside of the
      band, +-`tolerance` around its median, slopes follow the profile, at most by 2 a sample.

    For losses that contain derivatives, it repairs accidents only. docs/method.md has the formulas and the reasons.

    Every second step costs four norms; hooks are in place on sampled steps only. Accumulation, clipping and steps that
    a gradient scaler skips do no harm. With `torch.compile`, sampled steps run uncompiled and nothing is compiled
    again. Across ranks statistics are summed first: all make the same changes.

    Args:
        model: a model with `SigmoidCore` modules.
        optimizer: its optimizer.
        every: "auto" (soon after a change, then ever more rarely, up to every 400 steps) or a number of steps.
        tolerance: half width of the band of the profile, a factor above 1.
        floor: mean relative slope below which a neuron is saturated, between 0 and 1.
        scaler: the `torch.amp.GradScaler` of the training: the history then has unscaled gradients.
        process_group: the ranks that train this model together; default: all, if `torch.distributed` is initialized.
        sinks: called with every new `Sample`; see `sigmoidcore.integrations.sinks`.

    Attributes:
        history: the last 10,000 samples, each a `Sample`.

    Raises:
        TypeError: not an nn.Module, not a torch.optim.Optimizer but one's wrapper, or a sink that is not a function.
        ValueError: an argument is out of range, the model has no cores, trained slopes are sharded, or this process
            does not belong to `process_group`. From `optimizer.step`, at the first sample: the slopes are not the same
            on all ranks.

    Warns:
        RuntimeWarning: the optimizer has no parameter of the model; no gradient came back to some core on ten sampled
            steps in a row; at the first accident.

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
        _check_arguments(model, optimizer, every, tolerance, floor)
        self._every, self._floor = every, floor
        self.history: deque[Sample] = deque(maxlen=REMEMBERED)
        self._sinks = checked_sinks(sinks)
        self._cores = _cores_of(model)
        self._ranks = process_group if isinstance(process_group, Ranks) else Ranks(process_group)
        self._scaler = scaler
        self._observer = GradientObserver(self._cores, model.parameters, model)
        self._optimizer = optimizer
        self._neurons = [core.shift.numel() for core in self._cores.values()]
        self._step, self._next, self._interval = 0, 0, 1  # of the optimizer; of the next sample; up to it
        self._unseen = 0
        self._compared = False
        self._level_rule = LevelRule(self._cores, floor, self._ranks)
        self._profile_rule = ProfileRule(list(self._cores.values()), tolerance)
        self._alarm = Alarm(model.parameters, on=every == "auto" and self._ranks.count == 1)
        self._parts = self._level_rule, self._profile_rule, self._alarm
        self._trunk: Trunk | None = None
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
        rings = not self._level_rule.rests and self._alarm.rings(wait=self._observer.attached)
        if rings:
            self._level_rule.expect()
        if rings or self._alarm.suspects:  # this step shows an accident
            self._detach()
        elif self._look_once(self._optimizer):
            self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened; slopes and shifts are in the model's state dict."""
        parts = {key: value for part in self._parts for key, value in part.state_dict().items()}
        cadence = {"step": self._step, "next": self._next, "interval": self._interval}
        history = [vars(sample) for sample in self.history]
        return {**parts, **cadence, "neurons": self._neurons, "history": history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`.

        Raises:
            ValueError: the state is not one of an Equalizer, or of a model with other cores; nothing is changed then.
        """
        before = self.state_dict()
        try:
            if list(state["neurons"]) != self._neurons:
                theirs, own = (f"{len(n)} cores of {sum(n)} neurons" for n in (state["neurons"], self._neurons))
                raise ValueError(f"it is that of a model with {theirs}, this one has {own}")
            history = [Sample(**{**s, "log_sizes": tuple(s["log_sizes"])}) for s in state["history"]]
            step, following, interval = (int(state[key]) for key in ("step", "next", "interval"))
            if min(step, following, interval - 1) < 0:
                raise ValueError(f"step, next and interval are {step}, {following} and {interval}")
            for part in self._parts:
                part.load_state_dict(state)
        except Exception as error:  # a state may be anything
            for part in self._parts:
                part.load_state_dict(before)
            raise ValueError(
                f"this is not the state of an Equalizer of this model ({error!r:.200}): give what state_dict() returned"
            ) from error
        self.history = deque(history, maxlen=REMEMBERED)
        self._step, self._next, self._interval = step, following, interval
        self._detach()
        self._attach_if_due()

    def remove(self) -> None:
        """Detach from the optimizer and the model; slopes and shifts stay as they are."""
        self._detach()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __repr__(self) -> str:
        return f"Equalizer({len(self._cores)} cores, every={self._every!r}, {len(self.history)} samples)"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _attach_if_due(self) -> None:
        if self._step >= self._next or self._level_rule.expected:
            self._level_rule.begin_step(self._step)  # before anything reads what a core makes
            self._observer.attach()

    def _detach(self) -> None:
        self._observer.detach()
        self._level_rule.detach()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if kwargs.get("closure", args[1] if len(args) > 1 else None) is None:  # the first argument is the optimizer
            self.look()

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._look_once(optimizer)  # forward and backward pass were in the closure
        self._step += 1
        self._attach_if_due()

    def _look_once(self, optimizer: torch.optim.Optimizer) -> bool:
        """Look if the step is sampled, and stop watching; returns whether its gradients are of another network."""
        if not self._observer.attached:
            return False
        passes, differentiated, ends = self._observer.counted(), self._observer.differentiated, self._observer.ends
        sizes = self._profile(passes) if self._all_present(passes) else None
        changes = self._level_rule.finish(self._step, sizes)
        undone = changes is not None and changes[2]
        if changes and changes[0]:
            self._alarm.quiet = 0  # what was usual before it rang is usual again
        self._detach()
        skipped = bool(getattr(optimizer, "found_inf", False))  # a fused optimizer skips the step by itself
        if sizes is None or not self._ranks.all(not skipped, self._device):
            return undone
        changed = [name for name, of_core in passes.items() if any(p.changed for p in of_core)]
        if changed:  # the next step is sampled on copies; the same on every rank, for all run the same model
            self._observer.copied.update(changed)
            return undone
        if not self._compared:
            _check_same(list(self._cores.values()), self._ranks)
            self._compared = True
        return self._look(passes, sizes, differentiated, ends, changes) or undone

    def _all_present(self, passes: _Passes) -> bool:
        """Whether a gradient came back to every core, on every rank; without it a profile would have a hole."""
        missing = [name for name, of_core in passes.items() if not of_core]
        if self._ranks.all(not missing, self._device):
            self._unseen = 0
            return True
        self._unseen += 1
        if self._unseen == PATIENCE and missing:
            warn(
                f"{PATIENCE} steps in a row were to be sampled, and no gradient came back to {len(missing)} of "
                f"{len(passes)} cores, the first of them '{missing[0]}': the Equalizer changes nothing. It sees "
                "forward passes that run module by module and whose gradients come from backward(): not those inside "
                "transforms of torch.func or replayed CUDA graphs, and nothing before frozen parameters "
                "(requires_grad=False). Use every core, or give the Equalizer the part of the model that trains"
            )
        return False

    @property
    def _device(self) -> torch.device:
        return next(iter(self._cores.values())).shift.device

    @torch.no_grad()
    def _look(self, passes: _Passes, sizes: Tensor, differentiated: bool, ends: list[Node], changes: _Changes) -> bool:
        """Take a sample; returns whether so much is saturated at the first one that its gradients are useless.

        If the loss of any rank contains derivatives, levels are remembered, and nothing else. Nothing moves on a step
        that has set back (with `changes`). `ends` are the nodes of the model's outputs.
        """
        logs, finite = sizes.log(), bool(torch.isfinite(sizes).all())
        (recovered, neurons, _), moved, shut = changes or (0, 0, False), [], 0
        usable = finite and changes is None
        if usable and not self._ranks.all(not differentiated, self._device):
            self._level_rule.remember(passes, sizes, self._step)
        elif usable:
            rows = (sum(p.rows for p in of_core) for of_core in passes.values())
            relative = self._ranks.means(relative_slopes(passes.values(), self._device), list(rows))
            closed = torch.cat(relative) < self._floor  # one look at the device, not one for every core
            unlike = self._profile_rule.applies(logs)
            if self._trunk is None and (unlike or bool(closed.any())):
                self._trunk = find_trunk(passes, ends)
            if self._trunk is not None and bool(closed.any()):
                shut = self._expect_saturated(list(passes), closed, self._trunk)
            if self._trunk is not None and unlike and not shut and bool(torch.isfinite(logs).all()):
                moments = gradient_moments(passes.values(), sizes, self._device)
                squares, fourth = self._ranks.total(moments, self._device)
                enough = squares.square() >= ENOUGH * fourth
                moved = self._profile_rule.follow(logs, relative, self._trunk, enough)
            if moved:
                self._level_rule.expire()
            elif not shut:
                self._level_rule.remember(passes, sizes, self._step)
        if self._every != "auto":
            self._interval = self._every
        elif neurons or not bool(torch.isfinite(logs).all()) or max(moved, default=0.0) > MUCH:
            self._interval = 1
        else:
            quiet = not (moved or shut or recovered)
            self._interval = min(LONGEST if quiet else USUAL, max(SHORTEST, GROWTH * self._interval))
        if self._every == "auto" or self._step >= self._next:  # else a step that sets back, between two samples
            self._next = self._step + self._interval
        thin = logs[:: max(1, math.ceil(len(logs) / 64))].tolist()
        first = not self.history
        self.history.append(Sample(self._step, spread(sizes), tuple(thin), len(moved), neurons, recovered))
        for sink in self._sinks:
            sink(self.history[-1])
        return first and shut > STALE * sum(self._neurons)

    def _expect_saturated(self, names: list[str], closed: Tensor, trunk: Trunk) -> int:
        """Expect the cores of the trunk that have saturated neurons, enough of them; returns the number of these."""
        share = MOST_SHUT if self.history else 0.0
        counts = [int(part.sum()) for part in torch.split(closed, self._neurons)]
        found = {names[i]: counts[i] for i in trunk.cores if counts[i] > 0 and counts[i] >= share * self._neurons[i]}
        self._level_rule.expect(found, share)
        return sum(found.values())

    def _profile(self, passes: _Passes) -> Tensor:
        """Gradient sizes of the cores over all ranks, [cores]."""
        samples = [sum(p.samples for p in of_core) for of_core in passes.values()]
        sizes = self._ranks.sizes(gradient_sizes(passes.values()), samples, self._device)
        return sizes if self._scaler is None else sizes / self._scaler.get_scale()


def _check_arguments(model: nn.Module, optimizer: Any, every: Any, tolerance: Any, floor: Any) -> None:
    """Raise a TypeError or ValueError that says what is wrong."""
    if isinstance(optimizer, type) or not callable(getattr(optimizer, "step", None)):
        raise TypeError(
            f"optimizer must be the torch.optim.Optimizer that trains the model, got {type(optimizer).__name__}"
        )
    own, groups = set(map(id, model.parameters())), getattr(optimizer, "param_groups", [])
    if own and groups and not any(id(p) in own for group in groups for p in group["params"]):
        warn("no parameter of the model is in the optimizer: give the model and the optimizer that trains it")
    if every != "auto" and (type(every) is not int or every < 1):
        raise ValueError(f'every must be "auto" or a number of steps of at least 1, got {every!r}')
    if not (isinstance(tolerance, Real) and 1 < float(tolerance) < math.inf):
        raise ValueError(f"tolerance must be a factor above 1, got {tolerance!r}; 2 is the usual choice")
    if not (isinstance(floor, Real) and 0 < float(floor) < 1):
        raise ValueError(f"floor must be between 0 and 1, got {floor!r}; 0.05 is the usual choice")


def _cores_of(model: nn.Module) -> dict[str, SigmoidCore]:
    """The cores of a model whose gradients the Equalizer reads."""
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


@torch.no_grad()
def _check_same(cores: Sequence[SigmoidCore], ranks: Ranks) -> None:
    """Raise a ValueError, on all ranks, if they do not have the same slopes and shifts."""
    parts = [part.flatten().to(cores[0].shift.device) for core in cores for part in (core.alpha, core.shift)]
    if not ranks.same(torch.cat(parts)):
        raise ValueError(
            "slopes and shifts are not the same on all ranks, and would stay apart: calibrate or prepare before "
            "DistributedDataParallel is made, or broadcast the model's state afterwards"
        )
