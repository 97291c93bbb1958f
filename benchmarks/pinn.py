"""Physics-informed networks: relative L2 error and time of a training, for four differential equations.

Burgers, Helmholtz in two dimensions, Poisson with two scales, Allen-Cahn (benchmarks/pde), by networks of width 32 and
4, 8 or 16 hidden layers: tanh and sigmoids with Glorot's weights; locally adaptive tanh (one slope a layer, one a
neuron, with slope recovery); PINA's adaptive tanh and sigmoid; Sigmoid Core. Boundary and initial values are exact for
all, so that there is one loss and no weights between several. Adam with betas 0.9 and 0.99, fresh random points at
every step, the gradient clipped to a norm of 0.3, or not (`--clip 0`); the rate stays for half of the steps and falls
to 0 in the other half.

For each row the best of four settings is found with a seed that is not reported, on the same steps: of four rates, for
Sigmoid Core of two rates with first outputs of deviation 0.1 and 1, at saturation 2. Then the seeds. Time is the
processor's, of one training on one thread (`--threads 1`).
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache, partial

import numpy as np
import torch

from _report import Report, arguments
from pde import PROBLEMS, Problem
from pde.methods import BETAS, METHODS, Learner
from pde.problem import Array

WIDTH, BATCH, STEPS = 32, 256, 3000
SEEN = 1000
"""Points that `prepare` sees."""
CLIP = 0.3
"""On Burgers' equation the gradient's norm is smaller in hardly any step, so that all steps count alike, and not those
most that have points in the jump."""
GRID = 10_000
"""Points, about, at which the error is measured."""
TUNING_SEED = 100


def trained(
    problem: Problem,
    make: Callable[..., Learner],
    settings: Mapping[str, float],
    *,
    depth: int,
    seed: int,
    steps: int,
    clip: float = CLIP,
    width: int = WIDTH,
) -> float:
    """Relative L2 error after a training; infinite if the loss did not stay finite. A `clip` of 0 is none."""
    torch.manual_seed(seed)
    points = torch.Generator().manual_seed(seed)
    learner = make(problem.unit(problem.sample(SEEN, points)), width, depth, **settings)
    model, optimizer = learner.model, learner.optimizer
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / steps)))
    with learner.watching:
        for _ in range(steps):
            at = problem.sample(BATCH, points).requires_grad_()
            u = problem.bounded(at, model(problem.unit(at))[:, 0])
            loss = problem.residual(u, at).square().mean() + learner.penalty()
            if not math.isfinite(loss.item()):
                return math.inf
            optimizer.zero_grad()
            loss.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            schedule.step()
    return error(problem, model)


@torch.no_grad()
def error(problem: Problem, model: torch.nn.Module) -> float:
    """Relative L2 error on the grid."""
    points, expected = reference(problem)
    at = torch.tensor(points, dtype=torch.float32)
    found = problem.bounded(at, model(problem.unit(at))[:, 0]).numpy()
    size = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return size if math.isfinite(size) else math.inf


@cache
def reference(problem: Problem) -> tuple[Array, Array]:
    """The grid, and the solution there."""
    points = problem.grid(GRID)
    return points, problem.solution(points)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds of a row (default: 5)")
    parser.add_argument(
        "--clip", type=float, default=CLIP, metavar="NORM", help="of the gradient; 0: none (default: 0.3)"
    )
    options = parser.parse_args()
    if not options.clip >= 0:
        parser.error(f"--clip must be a norm, or 0 for none, got {options.clip:g}")
    torch.set_flush_denormal(True)
    steps, depths = (20, (4,)) if options.quick else (STEPS, (4, 8, 16))
    report = Report(
        "pinn",
        options,
        key=("problem", "depth", "method"),
        seeds=list(range(1 if options.quick else options.seeds)),
        settings={
            "width": WIDTH,
            "batch": BATCH,
            "steps": steps,
            "grid": GRID,
            "tuning_seed": TUNING_SEED,
            "betas": BETAS,
            "clip": options.clip,
            "tries": {name: method.tries for name, method in METHODS.items()},
        },
    )
    for problem in PROBLEMS.values():
        for depth in depths:
            for name, method in METHODS.items():
                if not report.wants(problem=problem.name, depth=depth, method=name):
                    continue
                run = partial(trained, problem, method.make, depth=depth, steps=steps, clip=options.clip)
                tuning = [run(settings, seed=TUNING_SEED) for settings in method.tries]
                best = method.tries[int(np.argmin(tuning))]
                errors, seconds = [], []
                for seed in report.seeds:
                    started = time.process_time()
                    errors.append(run(best, seed=seed))
                    seconds.append(time.process_time() - started)
                report.add(
                    problem=problem.name,
                    depth=depth,
                    method=name,
                    rate=best["rate"],
                    saturation=best.get("saturation"),
                    output=best.get("output"),
                    error=statistics.median(errors),
                    seconds=round(statistics.median(seconds), 2),
                    errors=errors,
                    tuning=tuning,
                )
    report.finish()


if __name__ == "__main__":
    main()
