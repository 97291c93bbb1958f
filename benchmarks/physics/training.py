"""The training of a network on a differential equation: Adam or SOAP on new points, then L-BFGS on fixed ones."""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

import sigmoidcore as sc
from physics.methods import Method
from physics.problem import Array, Problem

BETAS = (0.9, 0.99)
"""Of Adam, for all methods: points are new at every step, and a few near a jump make large gradients. With 0.999,
PyTorch's default, errors were larger for tanh and for Sigmoid Core (tried by hand)."""
GRID = 2500
"""Points, about, at which the error is measured."""
HISTORY = 50
"""Steps that L-BFGS remembers."""


@dataclass(frozen=True)
class Budget:
    """What every training gets.

    Attributes:
        width: of the hidden layers.
        steps: of Adam or SOAP.
        points: new quasi-random ones at each of them, of all terms together.
        refining: steps of L-BFGS.
        fixed: its points.
        looks: how often the error is measured while Adam or SOAP runs.
    """

    width: int = 32
    steps: int = 1000
    points: int = 192
    refining: int = 300
    fixed: int = 576
    looks: int = 5


@dataclass
class Run:
    """What came of a training.

    Attributes:
        model: the network.
        error: relative L2 error; infinite where the training, or the network on the grid, is not finite.
        seconds: of the processor, without the measurements of the error.
        looks: (step, seconds, error) on the way.
    """

    model: nn.Module
    error: float = math.inf
    seconds: float = 0.0
    looks: list[tuple[int, float, float]] = field(default_factory=list)


def adam(groups: Iterable[Any]) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, betas=BETAS, fused=True)


def soap(groups: Iterable[Any]) -> torch.optim.Optimizer:
    """Vyas et al. (2024), arXiv 2409.11321, from the package pytorch-optimizer."""
    from pytorch_optimizer import SOAP

    return SOAP(groups, weight_decay=0.0)


OPTIMIZERS: dict[str, Callable[[Iterable[Any]], torch.optim.Optimizer]] = {"adam": adam, "soap": soap}


def trained(
    problem: Problem, method: Method, rate: float, *, depth: int, seed: int, budget: Budget, optimizer: str = "adam"
) -> Run:
    """A network after the first phase; the rate stays for half of the steps, then falls linearly to 0."""
    torch.manual_seed(seed)
    points = SobolEngine(len(problem.axes), scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    box = 2 * points.draw(1000) - 1
    started = time.process_time()
    model = method.build(box, budget.width, depth, problem.outputs)
    steps = OPTIMIZERS[optimizer](method.groups(model, rate))
    schedule = torch.optim.lr_scheduler.LambdaLR(steps, lambda step: min(1.0, 2 * (1 - step / budget.steps)))
    run = Run(model)
    looks = {budget.steps * (look + 1) // budget.looks for look in range(budget.looks)}
    with sc.Equalizer(model, steps) if method.equalizes else nullcontext():
        for step in range(1, budget.steps + 1):
            steps.zero_grad()
            loss = problem.loss(model, problem.placed(points.draw(budget.points))) + method.penalty(model)
            if not math.isfinite(loss.item()):
                run.error = math.inf
                break
            loss.backward()  # type: ignore[no-untyped-call]
            steps.step()
            schedule.step()
            if step in looks:
                run.seconds += time.process_time() - started
                run.error = error(problem, model)
                run.looks.append((step, round(run.seconds, 3), run.error))
                started = time.process_time()
    return run


def refined(problem: Problem, method: Method, run: Run, *, seed: int, budget: Budget) -> Run:
    """The same network after L-BFGS on fixed points; `seconds` are those of this phase."""
    cube = SobolEngine(len(problem.axes), scramble=True, seed=seed + 1000).draw(budget.fixed)  # type: ignore[no-untyped-call]
    at = problem.placed(cube)
    started = time.process_time()
    optimizer = torch.optim.LBFGS(
        run.model.parameters(),
        max_iter=budget.refining,
        history_size=HISTORY,
        tolerance_grad=1e-8,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss(run.model, at) + method.penalty(run.model)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Run(run.model, error(problem, run.model), time.process_time() - started)


@torch.no_grad()
def error(problem: Problem, model: nn.Module) -> float:
    """Relative L2 error of the measured outputs on the grid."""
    points, expected = reference(problem)
    at = torch.tensor(points, dtype=torch.float32)
    found = model(problem.unit(at))[:, problem.measured].numpy()
    size = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return size if math.isfinite(size) else math.inf


@cache
def reference(problem: Problem) -> tuple[Array, Array]:
    """The grid, and the solution there."""
    points = problem.grid(GRID)
    return points, problem.solution(points)
