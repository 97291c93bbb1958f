"""Equalize: during training, change slopes where the gradient leaves the band, and open neurons that have saturated."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from sigmoidcore.core import SigmoidCore
from sigmoidcore.equalizer.alarm import Alarm
from sigmoidcore.equalizer.cadence import Cadence
from sigmoidcore.equalizer.layer_rule import LayerRule
from sigmoidcore.equalizer.neuron_rule import NeuronRule
from sigmoidcore.equalizer.norm_rule import NormRule
from sigmoidcore.equalizer.recovery_rule import RecoveryRule
from sigmoidcore.equalizer.sample import Sample
from sigmoidcore.nn.bounded_norm import bounded_norms
from sigmoidcore.observation.gradients import CorePass, GradientObserver, gradient_sizes, relative_slopes
from sigmoidcore.observation.graph import Graph, find_graph
from sigmoidcore.observation.profile import watched_layers
from unstuck.language.warning import warn
from unstuck.observation import uncompiled
from unstuck.observation.batch import check_model, checked_sinks
from unstuck.observation.process_group import Ranks
from unstuck.observation.profile import spread

REMEMBERED = 10_000  # samples kept in the history; older ones are dropped
STALE = 0.01
"""A step that opened more than this share of all neurons changes no weights: its gradients are out of date."""
MUCH = 0.1
"""After a larger change of a slope (in logarithms), the next sample comes soon: one change may not be enough."""
PATIENCE = 10  # sampled steps in a row without a gradient, after which a warning is given


class Equalizer:
    """Keeps the gradient at the same size in every layer while a model trains.

    It attaches itself to the optimizer's step and needs no other call. On a sampled step it reads the gradients of that
    step (nothing is computed twice) and applies its rules.

    - **Layer rule** (the article's "same size in every layer"): the slope of a layer changes, at most by 2 a sample, if
      its gradient differs from that of the layers that it feeds and leaves the band, +-`tolerance` around the median.
    - **Neuron rule** (the article's step 4): saturated neurons, whose mean relative slope over the batch is below
      `floor`, get the batch mean of their preactivation as shift, and a lower slope if they are still saturated; after
      the first sample, only if half of a layer is saturated in two samples in a row.
    - **Norm rule**, in the place of norms (`convert(norms=True)`): if alpha rms(x) leaves the band around the level
      that `calibrate` set, else that of the first sample, alpha goes a tenth of the way back in each sample.
    - **Recovery rule**, with `every="auto"` in one process: if a few gradients are suddenly others for two steps,
      because weights or inputs were changed, each core that reads something else gets the shift and slope that make up
      for it.

    Losses that contain derivatives (docs/physics.md) disable all but the norm rule. If more than 1 % of all neurons
    were opened, the step's gradients are dropped (set to None): they were computed before the change, and Adam would
    remember their size for long. docs/method.md has the formulas, the exceptions and the reasons.

    A step that is not sampled costs four norms: hooks are in place on sampled steps only. Gradients of several backward
    passes before one step (accumulation) are joined. Clipping and steps that a gradient scaler skips do no harm. A
    profile that is not finite is recorded and never moves a slope. With `torch.compile`, sampled steps run uncompiled
    and all others compiled; nothing is compiled again. Across the ranks of `torch.distributed` the statistics are
    summed first: all ranks make the same changes.

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
        RuntimeWarning: no gradient came back to some core on ten sampled steps in a row; once, ten changes of a slope
            did not help; once, cores have recovered.

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
        _check_arguments(optimizer, every, tolerance, floor)
        self._floor = floor
        self.history: deque[Sample] = deque(maxlen=REMEMBERED)
        self._sinks = checked_sinks(sinks)
        self._places = bounded_norms(model)
        self._cores = _cores_of(model, self._places)
        self._ranks = process_group if isinstance(process_group, Ranks) else Ranks(process_group)
        self._scaler = scaler
        self._observer = GradientObserver(self._cores, model.parameters, model)
        self._optimizer = optimizer
        self._neurons = [core.shift.numel() for core in self._all_cores()]
        self._cadence = Cadence(every, tolerance)
        self._unseen = 0
        self._compared = False
        self._layer_rule = LayerRule(self._cores, tolerance)
        self._neuron_rule = NeuronRule(self._cores, floor)
        self._norm_rule = NormRule(self._places, tolerance)
        self._recovery_rule = RecoveryRule(self._cores)
        self._alarm = Alarm(model.parameters, on=every == "auto" and self._ranks.count == 1 and bool(self._cores))
        rules = self._layer_rule, self._neuron_rule, self._norm_rule, self._recovery_rule
        self._parts = (*rules, self._alarm, self._cadence)
        self._graph: Graph | None = None
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
        rings = not self._recovery_rule.resting and self._alarm.rings(wait=self._observer.attached)
        if rings:  # the next step recovers
            self._recovery_rule.waiting, self._recovery_rule.distance = True, self._alarm.distance
        if rings or self._alarm.suspects:  # this step shows an accident
            self._detach()
        elif self._stale(self._look_once(self._optimizer)) or self._recovery_rule.taken_back:
            self._optimizer.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on as if nothing had happened; slopes and shifts are in the model's state dict."""
        parts = {key: value for part in self._parts for key, value in part.state_dict().items()}
        return {**parts, "neurons": self._neurons, "history": [vars(sample) for sample in self.history]}

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
            for part in self._parts:
                part.load_state_dict(state)
        except Exception as error:  # a state may be anything
            for part in self._parts:
                part.load_state_dict(before)
            raise ValueError(
                f"this is not the state of an Equalizer of this model ({error!r:.200}): give what state_dict() returned"
            ) from error
        self.history = deque(history, maxlen=REMEMBERED)
        self._detach()
        self._attach_if_due()

    def remove(self) -> None:
        """Detach from the optimizer and the model; slopes and shifts stay as they are."""
        self._detach()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _attach_if_due(self) -> None:
        if self._cadence.due:
            self._recovery_rule.attach_if_waiting(self._cadence.step)  # before anything reads what a core makes
            self._observer.attach()
            if self._places:
                self._norm_rule.attach()

    def _detach(self) -> None:
        self._observer.detach()
        self._recovery_rule.detach()
        self._norm_rule.detach()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if kwargs.get("closure", args[1] if len(args) > 1 else None) is None:  # the first argument is the optimizer
            self.look()

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._look_once(optimizer)  # forward and backward pass were in the closure
        self._cadence.step += 1
        if self._recovery_rule.waiting:
            self._cadence.hurry()
        self._attach_if_due()

    def _look_once(self, optimizer: torch.optim.Optimizer) -> int:
        """Look if the step is sampled, and stop watching; returns the number of neurons opened."""
        if not self._observer.attached:
            return 0
        passes, differentiated, ends = self._observer.counted(), self._observer.differentiated, self._observer.ends
        followed = self._norm_rule.errors(self._ranks, self._device)
        recovered = self._recovery_rule.finish(self._cadence.step, self._alarm.distance)
        if recovered:
            self._alarm.trust()
        self._detach()
        skipped = bool(getattr(optimizer, "found_inf", False))  # a fused optimizer skips the step by itself
        if not self._all_present(passes) or not self._ranks.all(not skipped, self._device):
            return 0
        changed = [name for name, of_core in passes.items() if any(p.changed for p in of_core)]
        if changed:  # the next step is sampled on copies; the same on every rank, for all run the same model
            for name in changed:
                self._observer.copy_values(name)
            return 0
        if not self._compared:
            _check_same(self._all_cores(), self._ranks)
            self._compared = True
        return self._look(passes, differentiated, ends, followed, recovered)

    def _all_present(self, passes: dict[str, list[CorePass]]) -> bool:
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
        return self._all_cores()[0].shift.device

    def _all_cores(self) -> list[SigmoidCore]:
        return [*self._cores.values(), *(place.core for place in self._places.values())]

    @torch.no_grad()
    def _look(
        self,
        passes: dict[str, list[CorePass]],
        differentiated: bool,
        ends: list[Node],
        followed: Tensor,
        recovered: int | None,
    ) -> int:
        """Take a sample and apply all rules; returns the number of neurons opened.

        Layer and neuron rule do not apply if the loss of any rank contains derivatives, nor after an alarm, when
        `recovered` is not None: one unusual gradient must not move slopes. `ends` are the nodes of the model's outputs,
        `followed` the errors of the norm rule.
        """
        sizes = self._profile(passes)
        logs = sizes.log()
        errors, neurons, moved, relative = self._errors(logs), 0, [], None
        guides = recovered is None and bool(passes) and bool(torch.isfinite(sizes).all())
        if self._ranks.all(not differentiated, self._device) and guides:
            rows = (sum(p.rows for p in of_core) for of_core in passes.values())
            relative = self._ranks.means(relative_slopes(passes.values(), self._device), list(rows))
            shut = bool((torch.cat(relative) < self._floor).any())  # one look at the device, not one for every core
            if self._graph is None and (shut or bool(self._layer_rule.excess(errors).any())):
                self._graph = find_graph(passes, ends)
                errors = self._errors(logs)
            if self._graph is not None:
                trunk = {name: relative[i] for i, name in enumerate(passes) if i in self._graph.trunk and shut}
                neurons = self._neuron_rule.open(passes, trunk, self._ranks, first=not self.history)
        norms = self._norm_rule.follow(followed) if bool(torch.isfinite(followed).all()) else 0
        errors = torch.cat([errors, followed])
        if self._neuron_rule.waits and not neurons:
            self._cadence.repeat()
        elif bool(torch.isfinite(errors).all()) and not self._stale(neurons):
            judged = True
            if relative is not None and self._graph is not None:
                own = errors[: len(logs)]
                enough = self._layer_rule.enough(own, passes, sizes, self._ranks)
                judged = bool(enough[list(self._graph.trunk)].all())
                if judged:
                    moved = self._layer_rule.level(own, relative, self._graph, enough)
            corrected = neurons + norms > 0 or max(moved, default=0.0) > MUCH
            if self._alarm.on and relative is not None and not (neurons or moved):
                self._recovery_rule.remember(passes, self._cadence.step)
            self._cadence.advance(errors, corrected=corrected, judged=judged)
        else:  # not finite, exactly 0, or computed before neurons were opened
            self._cadence.restart()
        if neurons or moved:
            self._recovery_rule.expire()
        thin = logs[:: max(1, math.ceil(len(logs) / 64))].tolist()
        changes = len(moved), neurons, norms, recovered or 0
        self.history.append(Sample(self._cadence.step, spread(sizes) if passes else 1.0, tuple(thin), *changes))
        for sink in self._sinks:
            sink(self.history[-1])
        return neurons

    def _profile(self, passes: dict[str, list[CorePass]]) -> Tensor:
        """Gradient sizes of the cores over all ranks, [cores]."""
        if not passes:
            return torch.zeros(0, dtype=torch.float64)
        samples = [sum(p.samples for p in of_core) for of_core in passes.values()]
        sizes = self._ranks.sizes(gradient_sizes(passes.values()), samples, self._device)
        return sizes if self._scaler is None else sizes / self._scaler.get_scale()

    def _stale(self, opened: int) -> bool:
        """Whether so many neurons were opened that the gradients of this step do not fit the network any more."""
        return opened > STALE * sum(self._neurons[: len(self._cores)])

    def _errors(self, logs: Tensor) -> Tensor:
        """Logarithms of the profile over its median; 0 on side branches."""
        if not len(logs):
            return logs
        side = torch.zeros(len(logs), dtype=torch.bool)
        side[[] if self._graph is None else list(self._graph.side)] = True
        return torch.where(side, 0.0, logs - (logs if bool(side.all()) else logs[~side]).median())


def _check_arguments(optimizer: Any, every: Any, tolerance: Any, floor: Any) -> None:
    """Raise a TypeError or ValueError that says what is wrong."""
    if isinstance(optimizer, type) or not callable(getattr(optimizer, "step", None)):
        raise TypeError(
            f"optimizer must be the torch.optim.Optimizer that trains the model, got {type(optimizer).__name__}"
        )
    if every != "auto" and (type(every) is not int or every < 1):
        raise ValueError(f'every must be "auto" or a number of steps of at least 1, got {every!r}')
    if not (isinstance(tolerance, Real) and 1 < float(tolerance) < math.inf):
        raise ValueError(f"tolerance must be a factor above 1, got {tolerance!r}; 2 is the usual choice")
    if not (isinstance(floor, Real) and 0 < float(floor) < 1):
        raise ValueError(f"floor must be between 0 and 1, got {floor!r}; 0.05 is the usual choice")


def _cores_of(model: nn.Module, places: Mapping[str, nn.Module]) -> dict[str, SigmoidCore]:
    """The cores of a model whose gradients the Equalizer reads: all but those in the place of a normalisation."""
    watched = {name: layer for name, layer in watched_layers(model).items() if name not in places}
    cores = {name: layer for name, layer in watched.items() if isinstance(layer, SigmoidCore)}
    if not cores and not places:
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
    if ranks.count > 1 and not ranks.same(
        torch.cat([part.flatten().to(cores[0].shift.device) for core in cores for part in (core.alpha, core.shift)])
    ):
        raise ValueError(
            "slopes and shifts are not the same on all ranks, and would stay apart: calibrate or prepare before "
            "DistributedDataParallel is made, or broadcast the model's state afterwards"
        )
