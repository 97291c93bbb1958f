"""Calibrate: bring every core to its level on one batch, so that the gradient keeps its size (docs/method.md)."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sigmoidcore.calibration.correction import LEVEL_ENOUGH, corrected_gains, free_spread, remarks, uncentered
from sigmoidcore.calibration.solver import LevelObserver, Solution, Solver
from sigmoidcore.nn.residual import ResidualLayer
from sigmoidcore.observation.profile import gradient_profile
from unstuck.observation.batch import Inputs, LossFn, check_model, evaluating, floating_tensors, run, unchanged
from unstuck.observation.profile import Profile

MOST_PASSES = 8
FEW, CURVED, USUAL = 3, 2.0, 0.5  # saturation="auto"; a sample of few features has up to 3
MOST_SATURATED = 100.0
NOTES = 5  # are printed
_Measure = Callable[[], Profile]  # the gradient profile of the model as it is


@dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """The report of `calibrate` or `prepare`; `print` it.

    Attributes:
        before: the gradient profile before.
        after: the gradient profile now.
        slopes: slope of each core, shape [L], float64, on the CPU.
        levels: saturation level (standard deviation of z) of each core, shape [L], float64, on the CPU.
        passes: forward passes that solved slopes.
        seconds: time taken, in seconds.
        notes: sentences on what could not be done.

    Example:
        >>> import sigmoidcore as sc
        >>> report = sc.prepare(sc.MLP(8, 16, 20, 2), torch.randn(100, 8), saturation=0.5)
        >>> report.before.spread > 100, report.after.spread < 2
        (True, True)
        >>> report.slopes.shape, f"{float(report.levels[0]):.2f}"
        (torch.Size([20]), '0.50')
    """

    before: Profile
    after: Profile
    slopes: Tensor
    levels: Tensor
    passes: int
    seconds: float
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Calibration({len(self.slopes)} cores, spread {self.before.spread:.4g} -> {self.after.spread:.4g})"

    def __str__(self) -> str:
        """One line for each fact, then the profile."""
        rows = [
            ("spread", f"{self.before.spread:.4g} -> {self.after.spread:.4g}"),
            ("slopes", f"{float(self.slopes.min()):.4g} to {float(self.slopes.max()):.4g}"),
            ("saturation level", f"{self.levels[0]:.3g} at the first core, {self.levels[-1]:.3g} at the last"),
            ("time", f"{self.seconds:.2f} s, {self.passes} pass{'' if self.passes == 1 else 'es'}"),
            *(("note", note) for note in self.notes[:NOTES]),
        ]
        if len(self.notes) > NOTES:
            rows.append(("", f"and {len(self.notes) - NOTES} more notes, see .notes"))
        head = f"calibrated {len(self.slopes)} core{'' if len(self.slopes) == 1 else 's'}"
        return "\n".join([head, *(f"  {key:<16}  {value}" for key, value in rows), str(self.after)])


def calibrate(
    model: nn.Module,
    inputs: Inputs,
    *,
    targets: Any = None,
    loss_fn: LossFn | None = None,
    saturation: float | None = None,
) -> Calibration:
    """Set the slopes and shifts of all cores from one batch; weights are not touched.

    Args:
        model: a model with cores; runs in evaluation mode (a BatchNorm in training mode normalises by the batch), its
            modes and running statistics are restored.
        inputs: one batch of a few hundred samples: a tensor (batch first), a tuple for `model(*inputs)` or a dict for
            `model(**inputs)`. With a single sample the shifts stay: it has no useful mean.
        targets: with `loss_fn(outputs, targets)`, level the profile of that loss instead of random cotangents.
        loss_fn: gives a scalar; use it when the loss weighs the outputs unevenly.
        saturation: saturation level u (standard deviation of z) of the first core. None: its slope makes the gain 1.

    Returns:
        A frozen, printable report.

    Raises:
        ValueError: no cores; empty, non-finite or wrongly shaped inputs; a core's preactivations are not finite.
            Slopes and shifts are then as they were.

    Example:
        >>> import sigmoidcore as sc
        >>> model = sc.MLP(8, 16, 20, 2)
        >>> report = sc.calibrate(model, torch.randn(100, 8))
        >>> report.after.spread < report.before.spread
        True
    """
    profile = partial(gradient_profile, model, inputs, targets, loss_fn)
    return _calibrate(model, inputs, profile, saturation, fresh_weights=False, curved=set())


def prepare(
    model: nn.Module,
    inputs: Inputs,
    *,
    targets: Any = None,
    loss_fn: LossFn | None = None,
    saturation: float | Literal["auto"] = USUAL,
) -> Calibration:
    """Before training, for depth: fresh orthogonal weights, zero biases, then calibrate.

    The first layer's weights also take the scale of the inputs, and their size makes the first core's saturation level
    `saturation` at gain 1. The last layer's size makes the outputs' standard deviation 1. After a first layer of one
    feature, each neuron is centred on a different sample, drawn at random; centred on the batch mean, all of them would
    be nearly the same function. `torch.manual_seed` fixes weights and samples.

    Args:
        model: a model of Linear layers, convolutions, recurrent layers and cores, untrained: **its weights are
            replaced**, except for those with `requires_grad=False`.
        inputs: one batch of a few hundred samples, see `calibrate`.
        targets: see `calibrate`.
        loss_fn: see `calibrate`.
        saturation: saturation level u of the first core. "auto": 2 for samples of at most three features, whose
            functions are curved, and 0.5 otherwise; of several inputs each has its own.

    Returns:
        A frozen, printable report.

    Raises:
        ValueError: as `calibrate`; weights, slopes and shifts are then as they were.

    Warns:
        UserWarning: more than ten cores are not centered; the network will hardly learn.

    Example:
        >>> import sigmoidcore as sc
        >>> model = sc.MLP(8, 16, 100, 2)
        >>> report = sc.prepare(model, torch.randn(200, 8))
        >>> bool(report.after.spread < 1.1)
        True

    Source:
        Orthogonal weights: Saxe, McClelland, Ganguli (2014), arXiv 1312.6120; Pennington, Schoenholz, Ganguli (2017),
        arXiv 1711.04735.
    """
    curved: set[int] = set()
    if isinstance(saturation, str):
        if saturation != "auto":
            raise ValueError(f'saturation must be "auto" or a positive number, got {saturation!r}')
        tensors = floating_tensors(inputs)
        curved = {tensor.shape[1] for tensor in tensors if tensor.dim() == 2 and tensor.shape[1] <= FEW}
        saturation = CURVED if curved and len(tensors) == 1 else USUAL
    profile = partial(gradient_profile, model, inputs, targets, loss_fn)
    return _calibrate(model, inputs, profile, saturation, fresh_weights=True, curved=curved)


def _calibrate(
    model: nn.Module, inputs: Inputs, profile: _Measure, saturation: float | None, fresh_weights: bool, curved: set[int]
) -> Calibration:
    started = time.perf_counter()
    check_model(model)
    level: Any = saturation
    if level is not None and not (isinstance(level, Real) and 0 < float(level) <= MOST_SATURATED):
        raise ValueError(
            f"saturation must be a positive number up to {MOST_SATURATED:g}, got {level!r}; 0.5 is the usual choice"
        )
    if any(isinstance(module, ResidualLayer) for module in model.modules()):
        raise ValueError("a PhysicsMLP has its weights and slopes: call its own prepare(points), which sets the domain")
    notes: dict[str, None] = {}
    before = profile()
    solver = Solver(model, saturation, fresh_weights, note=lambda text: notes.update({text: None}))
    solver.levels_by_features = dict.fromkeys(curved, CURVED)
    restore = _snapshot(model)
    try:
        with unchanged(model, inputs), evaluating(model):
            solution, after, passes = _solve_and_correct(model, inputs, solver, profile)
            worse = free_spread(after, solution) > free_spread(before, solution)
            if worse and not fresh_weights and saturation is None:
                restore()
                after = before
                with LevelObserver(model) as observer:
                    run(model, inputs)
                solution = replace(solution, slopes=observer.slopes, levels=observer.levels)
                notes["no pass made the profile more level: all slopes are as they were"] = None
    except BaseException:
        restore()
        raise
    notes.update(dict.fromkeys(remarks(after, solution, saturation)))
    if fresh_weights:
        for text in uncentered(solver.layers.values()):
            warnings.warn(text, stacklevel=3)
    by_core = solution.slopes, solution.levels
    slopes, levels = (torch.tensor(list(numbers.values()), dtype=torch.float64) for numbers in by_core)
    return Calibration(before, after, slopes, levels, passes, time.perf_counter() - started, tuple(notes))


def _solve_and_correct(
    model: nn.Module, inputs: Inputs, solver: Solver, profile: _Measure
) -> tuple[Solution, Profile, int]:
    """Solve for gain 1, then correct the gains until the profile is level or gets worse; the best pass is kept."""
    gains: dict[str, float] = {}
    solution = solver.solve(inputs, gains)
    after, passes = profile(), 1
    while passes < MOST_PASSES and LEVEL_ENOUGH < free_spread(after, solution) < math.inf:
        restore, before = _snapshot(model), gains
        gains = corrected_gains(gains, after, solution)
        if gains == before:
            break
        corrected = solver.solve(inputs, gains)
        measured, passes = profile(), passes + 1
        if not free_spread(measured, corrected) <= free_spread(after, solution):
            restore()
            break
        solution, after = corrected, measured
    return solution, after, passes


def _snapshot(model: nn.Module) -> Callable[[], None]:
    """A function that gives all parameters and buffers their present values back."""
    values = [(t, t.detach().clone()) for t in [*model.parameters(), *model.buffers()]]

    @torch.no_grad()
    def restore() -> None:
        for tensor, value in values:
            tensor.copy_(value)

    return restore
