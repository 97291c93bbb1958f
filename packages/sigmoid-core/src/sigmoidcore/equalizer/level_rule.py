"""The rule: a core or a neuron that has left its band gets the shift and slope with which it is back at its level."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sigmoidcore.core import SigmoidCore
from sigmoidcore.gain import mean_relative_slope, set_to_level
from sigmoidcore.observation.gradients import CorePass
from sigmoidcore.observation.layer_observer import LayerObserver
from unstuck.language.warning import warn
from unstuck.observation import NONE, backward_pass, bare, transforms_active
from unstuck.observation.process_group import Ranks
from unstuck.observation.profile import spread

SIZE_BAND, MEAN_BAND = math.log(2.5), 2.0
"""A core has left its band if the size of z has changed by more than this factor (in logarithms), or the means of its
neurons by more than MEAN_BAND times the size. Smaller changes may be those of learning."""
OPEN = 1.0  # the level of a neuron that is saturated, where none is known: its mean relative slope is then 0.8
FEWEST = 8  # fewer samples do not tell mean and size, however many positions each has
FIRST = 8  # step from which on levels are remembered: the alarm learns for 30 steps, and a sample comes in time
AS_LEVEL = 2.0  # after an accident, the profile of z spans at most so many times what it did before
PAUSE, MOST_ACCIDENTS = 10, 20  # the n-th accident is followed by PAUSE * 2**n steps without another, the last by rest


class Level(NamedTuple):
    """What a core makes of its preactivations, and the slope and shift with which it does; [neurons] or [1]."""

    mean: Tensor  # of z
    size: Tensor  # of z around the means, over all neurons: []
    slope: Tensor
    shift: Tensor


class LevelRule(LayerObserver):
    """Sets cores back to their levels, each before it runs: those behind then read what they read before.

    A step is announced by `expect`: after an alarm, all cores may have left the level that they had at the last
    `remember`; else some have saturated neurons. `finish` takes back what has not helped. If a core is set back to
    what it read before the last time, the data alternate, and the rule rests for good.
    """

    def __init__(self, cores: Mapping[str, SigmoidCore], floor: float, ranks: Ranks) -> None:
        super().__init__(cores)
        self._cores, self._floor, self._ranks = dict(cores), floor, ranks
        self._levels: dict[str, Level] = {}
        self._former: dict[str, tuple[Tensor, Tensor]] = {}  # slope and shift before a core was set back the last time
        self._due = FIRST  # step from which on to remember again: it costs half a training step
        self._spread = math.inf  # of the profile of z when levels were remembered
        self._accidents = 0
        self._pause = 0  # step until which only a core is set back that reads again what it read before
        self.expected: list[str] = []  # cores to look at in the next step, which sets back
        self._share: float | None = None  # of saturated neurons that a core must have; None after an alarm

    @property
    def rests(self) -> bool:
        """Whether it sets back nothing more."""
        return self._accidents >= MOST_ACCIDENTS

    @torch.no_grad()
    def remember(self, passes: Mapping[str, Sequence[CorePass]], sizes: Tensor, step: int) -> None:
        """Take the levels of this step, and its profile, as right; not at every step."""
        if step >= max(self._due, self._pause) and not self.rests:
            first = [of_core[0] for of_core in passes.values()]
            samples = self._ranks.total(torch.tensor([one.samples for one in first]), first[0].core.shift.device)
            if int(samples.min()) >= FEWEST:  # else the last batch of an epoch
                self._due, self._spread = min(3 * step + 20, step + 200), self._spread_of_z(sizes)
                levels = self._read([one.core for one in first], [one.x for one in first])[1]
                self._levels = dict(zip(passes, levels, strict=True))

    def expire(self) -> None:
        """Remember again at the next sample: slopes or shifts are others now."""
        self._due = FIRST

    def expect(self, names: Iterable[str] = (), share: float | None = None) -> None:
        """Look at these cores in the next step, for this share of saturated neurons; at all if `share` is None."""
        if not self.rests:
            self.expected, self._share = list(self._cores if share is None else names), share

    def begin_step(self, step: int) -> None:
        """Set back in the next forward pass, that of this step, if something is expected."""
        if self.expected:
            # Cores done, hooks of forward passes in evaluation mode, old slopes and shifts, and neurons opened.
            self._done, self._graphs = set[str](), dict[str, list[RemovableHandle]]()
            self._undo, self._opened = dict[str, tuple[Tensor, Tensor]](), 0
            self._returned, self._returns_only = False, self._share is None and step < self._pause
            self.attach()

    def finish(self, step: int, sizes: Tensor | None) -> tuple[int, int, bool] | None:
        """After a step that set back: cores back at their levels, neurons opened, and whether it was all taken back.

        `sizes` is the profile of this step, if it is complete. None if nothing was expected.
        """
        self.detach()
        if not self.expected:
            return None
        self.expected, undo, sudden = [], self._undo, self._share is None
        is_level = sizes is not None and self._spread_of_z(sizes) <= AS_LEVEL * self._spread
        if undo and sudden and not is_level:
            for name, (slope, shift) in undo.items():
                _set(self._cores[name], slope, shift)
                self._levels.pop(name, None)
            self.expire()
            return 0, 0, True
        if undo:
            self._former.update(undo)
            accidents = self._accidents
            if sudden:
                self._accidents += 1
                self._pause = step + PAUSE * 2**self._accidents
            if self._returned:
                self._accidents = MOST_ACCIDENTS
            if sudden and not accidents:
                warn(
                    f"the gradient has changed suddenly, and {len(undo)} of {len(self._cores)} cores, the first of "
                    f"them '{next(iter(undo))}', read something else than before: the Equalizer gave them slopes and "
                    "shifts with which the network computes what it did. Weights or inputs have most likely been "
                    "changed; later changes of this kind are in `history` only"
                )
        if self._opened:  # their levels are not what the others have read
            self._levels, self._due = {}, FIRST
        return len(undo) if sudden else 0, self._opened, False

    def reads(self, name: str, layer: nn.Module, x: Any) -> Any:
        """Set a core back before it runs, in the first forward pass that trains."""
        recorded = torch.is_grad_enabled() and x.requires_grad and not transforms_active()
        recorded &= backward_pass() == NONE  # it is not a checkpoint that runs again
        if not recorded or name not in self.expected or name in self._done:
            return x
        if not layer.training:
            self._graphs.setdefault(name, []).append(x.register_hook(lambda gradient: None))
            return x
        self._done.add(name)
        # A graph that is still there needs the slope that it was computed with. The hooks live as long as the graph.
        if not any(handle.hooks_dict_ref() is not None for handle in self._graphs.get(name, ())):
            self._look(name, bare(x))
        return x

    @torch.no_grad()
    def _look(self, name: str, x: Tensor) -> None:
        """Set a core back to the level that it had, or the neurons of it that are saturated to `OPEN`."""
        core, share, level = self._cores[name], self._share, self._levels.get(name)
        rows = core.in_rows(x).to(core.shift.dtype)
        (mean,), (now,) = self._read([core], [rows])
        samples = self._ranks.total(torch.tensor([len(x)]), x.device).item()
        shut = self._mean(mean_relative_slope(now.slope * (rows - now.shift)), rows) < self._floor
        if share is not None and not (bool(shut.any()) and float(shut.double().mean()) >= share):
            return
        if level is not None:
            level = Level(*(part.to(mean) for part in level))
        if level is not None and samples >= FEWEST and _has_left(now, level, core.trainable):
            size = level.size
            slope, shift = set_to_level(mean, now.size / now.slope, level.mean, size)
        elif share is not None:
            size = torch.full_like(now.size, OPEN)
            slope, shift = set_to_level(mean, self._mean((rows - mean).square().mean(0), rows).sqrt(), 0.0, size)
            slope, shift = slope.minimum(now.slope).where(shut, now.slope), shift.where(shut, now.shift)
        else:
            return
        former = self._former.get(name)
        returned = former is not None and _is_same(slope, shift, *former, size)
        usable = bool(torch.isfinite(shift).all() & torch.isfinite(slope).all() & (slope > 0).all())
        if usable and (returned or not self._returns_only):
            self._undo[name] = now.slope, now.shift
            self._opened += 0 if share is None else int(shut.sum())
            self._returned |= returned
            _set(core, slope, shift)
            if level is not None:
                self._levels[name] = level._replace(slope=slope, shift=shift)

    def _read(self, cores: Sequence[SigmoidCore], rows: Sequence[Tensor]) -> tuple[list[Tensor], list[Level]]:
        """The means of the preactivations [rows, neurons] of each core over all ranks, and their levels."""
        home, count, numbers = cores[0].shift.device, [len(x) for x in rows], [x.numel() for x in rows]
        means = self._ranks.means([x.mean(0) for x in rows], count)
        slopes, shifts = [c.alpha.detach().reshape(-1) for c in cores], [c.shift.reshape(-1) for c in cores]
        norms = [torch.linalg.vector_norm((x - m) * a) for x, m, a in zip(rows, means, slopes, strict=True)]
        squares = torch.stack([n.to(home) for n in norms]).square() / torch.tensor(numbers, device=home)
        sizes = [square.sqrt() for square in self._ranks.means(squares.unbind(), count)]
        m, alpha, mu = (torch.cat([part.to(home) for part in of]) for of in (means, slopes, shifts))
        parts = [torch.split(of, [len(x) for x in means]) for of in (alpha * (m - mu), alpha, mu)]
        return means, [Level(c, size, *own) for c, size, *own in zip(parts[0], sizes, *parts[1:], strict=True)]

    def _spread_of_z(self, sizes: Tensor) -> float:
        """Spread of the gradient by z, that by x over the slope: no unit changes it."""
        slopes = torch.stack([core.alpha.detach().mean() for core in self._cores.values()])
        return spread(sizes / slopes.to("cpu", torch.float64))

    def _mean(self, mean: Tensor, rows: Tensor) -> Tensor:
        return self._ranks.means([mean], [len(rows)])[0]

    def state_dict(self) -> dict[str, Any]:
        """Numbers and names, and for each core a pair of tensors."""
        levels, former = ({n: [p.cpu().clone() for p in of[n]] for n in of} for of in (self._levels, self._former))
        numbers = {"due": self._due, "accidents": self._accidents, "pause": self._pause, "spread": self._spread}
        expected = {"expected": list(self.expected), "share": self._share}
        return {"levels": levels, "former": former, **numbers, **expected}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict()`."""
        like = {name: core.shift.reshape(-1) for name, core in self._cores.items()}
        self._levels = {n: Level(m.reshape(like[n].shape), *rest) for n, (m, *rest) in state["levels"].items()}
        self._former = {n: (slope, shift.reshape(like[n].shape)) for n, (slope, shift) in state["former"].items()}
        self._due, self._accidents, self._pause = (int(state[key]) for key in ("due", "accidents", "pause"))
        self._spread = float(state["spread"])
        self._share, self.expected = state["share"], [name for name in state["expected"] if like[name] is not None]


def _has_left(now: Level, before: Level, trainable: bool) -> bool:
    """Whether a core has left its band; not if somebody has set its slope or shift, or a size is 0 or not finite."""
    size, old = float(now.size), float(before.size)
    own = torch.equal(now.shift, before.shift) and (trainable or torch.equal(now.slope, before.slope))
    if not (own and 0 < size < math.inf and 0 < old < math.inf):
        return False
    moved = float((now.mean - before.mean).square().mean().sqrt())
    return abs(math.log(size / old)) > SIZE_BAND or moved > MEAN_BAND * old


def _is_same(slope: Tensor, shift: Tensor, former_slope: Tensor, former_shift: Tensor, size: Tensor) -> bool:
    """Whether slope and shift are the former ones, within the limits of the band."""
    ratio, moved = slope / former_slope.to(slope), slope * (shift - former_shift.to(shift))
    return bool((ratio.log().abs().mean() <= SIZE_BAND) & (moved.square().mean().sqrt() <= MEAN_BAND * size))


def _set(core: SigmoidCore, slope: Tensor, shift: Tensor) -> None:
    core.set_slope(slope.reshape(core.shift.shape))
    core.set_shift(shift.reshape(core.shift.shape))
