"""The recovery rule: after a sudden change, a core reads again what it read before it, by its slope and its shift."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sigmoidcore.core import SigmoidCore
from sigmoidcore.observation.gradients import CorePass
from sigmoidcore.observation.layer_observer import LayerObserver
from unstuck.language.warning import warn
from unstuck.observation import NONE, backward_pass, bare, transforms_active

SIZE = math.log(2.5)
"""A core recovers if the size of its preactivations has changed by more than this factor (in logarithms) ..."""
MOVED = 2.0
"""... or their means by more than this many times their size. Smaller changes may be those of learning."""
FEWEST = 8  # fewer samples do not tell mean and size, however many positions each has
FIRST = 8
"""Step from which on readings are remembered: the alarm learns for 30 steps, and a sample comes in time."""
NEARER = 0.5
"""After a recovery, gradients are at most this share of their distance before it from the usual ones."""
PAUSE, MOST = 10, 20
"""The n-th recovery is followed by PAUSE times 2**n steps without another, the last by rest."""


class Level(NamedTuple):
    """What a core read: mean of each neuron's preactivation, root mean square of the rest; its slope and shift then."""

    mean: Tensor
    size: Tensor
    slope: Tensor
    shift: Tensor

    def to(self, other: Tensor) -> "Level":
        """In dtype and on the device of another tensor: the model may have been moved."""
        return Level(*(part.to(other) for part in self))

    def restore(self, core: SigmoidCore) -> None:
        """Set slope and shift of a core."""
        core.set_shift(self.shift)
        core.set_slope(self.slope)


class RecoveryRule(LayerObserver):
    """Restores slopes and shifts after a sudden change of weights or inputs; see `Equalizer`.

    While it is attached, every core that reads something else than at the last `remember` gets, before it runs, the
    slope and the shift with which it makes of the new preactivations what it made of the old. If this brings the
    gradients of the step no nearer to the usual ones, it is taken back: a step of the training was too large. If a core
    is restored to what it read before the last recovery, the data alternate, and the rule rests for good.
    """

    def __init__(self, cores: Mapping[str, SigmoidCore]) -> None:
        super().__init__(cores)
        self._cores = dict(cores)
        self._levels: dict[str, Level] = {}
        self._past: dict[str, Level] = {}  # before the last recovery
        self._recoveries = 0
        self._due = FIRST  # step from which on to remember again: it costs half a training step
        self._pause = 0  # step until which only a core is restored that reads again what it read before
        self.waiting = False  # whether the next step recovers
        self.distance = 0.0  # of the gradients from the usual ones, when a change was noticed
        self.taken_back = False  # whether the gradients of this step belong to slopes that were taken back
        # In the step that recovers: cores done; hooks of forward passes in evaluation mode; for each restored core its
        # old slopes, and what was remembered.
        self._done: set[str] = set()
        self._graphs: dict[str, list[RemovableHandle]] = {}
        self._undo: dict[str, tuple[Level, Level]] = {}
        self._returns_only = False
        self._returned = False  # whether a core reads again what it read before the last recovery

    @property
    def resting(self) -> bool:
        """Whether it restores nothing more."""
        return self._recoveries >= MOST

    @torch.no_grad()
    def remember(self, passes: Mapping[str, Sequence[CorePass]], step: int) -> None:
        """Take what the cores read in the first pass of this step, and their slopes, as right; not at every step."""
        if step < self._due:
            return
        first = {name: of_core[0] for name, of_core in passes.items() if of_core[0].samples >= FEWEST}
        if first:  # else the last batch of an epoch
            self._due = min(3 * step + 20, step + 200)
            self._levels = {name: _level(self._cores[name], one.x) for name, one in first.items()}

    def expire(self) -> None:
        """Remember again at the next sample: slopes or shifts are others now."""
        self._due = FIRST

    def attach_if_waiting(self, step: int) -> None:
        """Restore in the next forward pass, that of this step, if a change has been noticed."""
        if self.waiting:
            self._done, self._graphs, self._undo = set(), {}, {}
            self._returns_only, self._returned = step < self._pause, False
            self.attach()

    def finish(self, step: int, distance: float) -> int | None:
        """Stop restoring; returns the number of cores that were restored, or None if no change had been noticed.

        `distance` is that of the gradients of this step from the usual ones. It warns about the first recovery.
        """
        self.detach()
        undo, self._undo = self._undo, {}
        waited, self.waiting, self.taken_back = self.waiting, False, False
        if not waited:
            return None
        if undo and not distance < NEARER * self.distance:
            for name, (own, _) in undo.items():
                own.restore(self._cores[name])
                del self._levels[name]
            self._due, self.taken_back = FIRST, True
            return 0
        if undo:
            self._past.update({name: before for name, (_, before) in undo.items()})
            if not self._recoveries:
                warn(
                    f"the gradient has changed suddenly, and {len(undo)} of {len(self._cores)} cores, the first of "
                    f"them '{next(iter(undo))}', read something else than before: the Equalizer gave them slopes and "
                    "shifts with which the network computes what it did. Weights or inputs have most likely been "
                    "changed; later recoveries are in `history` only"
                )
            self._recoveries = MOST if self._returned else self._recoveries + 1
            self._pause = step + PAUSE * 2**self._recoveries
        return len(undo)

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        """Restore a core before it runs, in the first forward pass that trains."""
        recorded = torch.is_grad_enabled() and x.requires_grad and not transforms_active()
        recorded &= backward_pass() == NONE  # it is not a checkpoint that runs again
        if not recorded or name not in self._levels or name in self._done:
            return x
        if not layer.training:
            self._graphs.setdefault(name, []).append(x.register_hook(lambda gradient: None))
            return x
        self._done.add(name)
        # A graph that is still there needs the slope that it was computed with. The hooks live as long as the graph.
        if not any(handle.hooks_dict_ref() is not None for handle in self._graphs.get(name, ())):
            self._restore(name, bare(x))
        return x

    @torch.no_grad()
    def _restore(self, name: str, x: Tensor) -> None:
        """Give a core the slope and shift with which it makes of `x` what it made of what it read before."""
        core, before = self._cores[name], self._levels[name]
        restored = _restored(core, x, before.to(core.shift))
        if restored is None:
            return
        returned = name in self._past and _alike(restored, self._past[name].to(core.shift))
        if returned or not self._returns_only:
            self._undo[name] = restored._replace(slope=core.alpha.clone(), shift=core.shift.clone()), before
            restored.restore(core)
            self._returned |= returned
            self._levels[name] = restored

    def state_dict(self) -> dict[str, Any]:
        """The number of recoveries, and what the cores read and have read: names, and tensors or None."""
        return {
            "recoveries": self._recoveries,
            "due": self._due,
            "pause": self._pause,
            "restoring": self.waiting,
            "distance": self.distance,
            "remembered": [list(self._levels), list(self._past)],
            "levels": _packed(self._levels),
            "past": _packed(self._past),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        names, past = state["remembered"]
        self._levels, self._past = self._unpacked(names, state["levels"]), self._unpacked(past, state["past"])
        self._recoveries, self._due, self._pause = (int(state[key]) for key in ("recoveries", "due", "pause"))
        self.waiting, self.distance = bool(state["restoring"]), float(state["distance"])

    def _unpacked(self, names: Sequence[str], values: Tensor | None) -> dict[str, Level]:
        shifts = {name: self._cores[name].shift for name in names}
        sizes = [size for shift in shifts.values() for size in (shift.numel(), 1, shift.numel(), shift.numel())]
        parts = iter(() if values is None else torch.split(values, sizes))
        found = {}
        for name, shift in shifts.items():
            mean, size, slope, own = (next(parts).to(shift) for _ in range(4))
            found[name] = Level(mean, size.reshape(()), slope.reshape(shift.shape), own.reshape(shift.shape))
        return found


def _packed(levels: Mapping[str, Level]) -> Tensor | None:
    """All numbers in a row, float64 on the CPU."""
    parts = [part.reshape(-1).to("cpu", torch.float64) for level in levels.values() for part in level]
    return torch.cat(parts) if parts else None


def _level(core: SigmoidCore, x: Tensor) -> Level:
    """The level of preactivations, [rows, neurons]."""
    mean = x.mean(0)
    size = torch.linalg.vector_norm(x - mean) / math.sqrt(x.numel())
    return Level(mean, size, core.alpha.detach().clone(), core.shift.clone())


def _alike(now: Level, before: Level) -> bool:
    """Whether a core reads what it read, within the limits; a size that is 0 or not finite is like any other."""
    size, old = float(now.size), float(before.size)
    if not (0 < size < math.inf and 0 < old < math.inf):
        return True
    moved = float((now.mean - before.mean).square().mean().sqrt()) / old
    return abs(math.log(old / size)) <= SIZE and moved <= MOVED


def _restored(core: SigmoidCore, x: Tensor, before: Level) -> Level | None:
    """Slope and shift with which a (x - s) has the mean and size that it had, with the new level; None if it has."""
    rows = core.in_rows(x).to(core.shift.dtype)
    now = _level(core, rows)
    if min(len(x), len(rows)) < FEWEST or _alike(now, before):
        return None
    if not (core.trainable or torch.equal(now.slope, before.slope)) or not torch.equal(now.shift, before.shift):
        return None  # the user or another rule wanted something else: the old readings are out of date
    ratio = before.size / now.size
    shift = now.mean - (before.mean - before.shift.reshape(-1)) / ratio
    slope = now.slope * ratio
    if not bool(torch.isfinite(shift).all() & torch.isfinite(slope).all() & (slope > 0).all()):
        return None
    return now._replace(slope=slope, shift=shift.reshape(core.shift.shape))
