"""Solvers of differential equations: relative L2 error and time by equation, method and depth.

Sixteen equations of the families of PINNacle (arXiv 2306.08827), one a file in `physics/problems`, each with a
reference that is closed or computed by a solver of another kind. The loss is the weighted sum of mean squares of the
equation and of its boundary and initial values. Fourteen networks, one family a file in `physics/methods`, with 4, 8
or 16 hidden layers of width 32.

All get the same budget: 1,000 steps of Adam with betas 0.9 and 0.99 on 192 new quasi-random points, whose rate stays
for half of the steps and falls to 0 in the other half; then 300 steps of L-BFGS on 576 fixed points. `--soap` adds rows
with SOAP in the place of Adam. With seed 0, three rates are tried for every method. The best one by the error after
Adam goes on to L-BFGS, and to seeds 1, 2 and 3, which are those to report. All terms of a loss have the weight 1, as in
PINNacle, but the walls of the flow (10). Where an equation has a source, its residual is divided by the source's size.

Derivatives are those of `torch.autograd.grad` for all methods, the fastest way that runs every network as it is.
`sigmoid-core` is the network of docs/physics.md, without a knob and without an Equalizer; `sigmoid-core-equalizer` has
one, and `sigmoid-core-plain` is a plain network of cores that reads the inputs.

Rows come in an order that is useful early: depth 8 with seed 0 for all, then 16 and 4, then the other seeds. Such a row
needs the row of seed 0 in the same file. Time is the processor's (`--threads 1`): about 70 minutes for depth 8 with
seed 0 on a quiet core.
"""

from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
import torch

from _report import Report, Row, arguments
from physics import METHODS, PROBLEMS
from physics.training import BETAS, GRID, HISTORY, OPTIMIZERS, Budget, refined, trained

DEPTHS = (8, 16, 4)
TUNING_SEED, SEEDS = 0, (1, 2, 3)
SHORT = Budget(width=16, steps=4, points=96, refining=2, fixed=96, looks=2)


def measured(key: dict[str, Any], rates: tuple[float, ...], budget: Budget) -> Row:
    """The columns of a row beside its key: the best of these rates, with its errors after both phases."""
    problem, method = PROBLEMS[key["problem"]], METHODS[key["method"]]
    seed = key["seed"]
    runs = [
        trained(problem, method, rate, depth=key["depth"], seed=seed, budget=budget, optimizer=key["optimizer"])
        for rate in rates
    ]
    errors = [run.error for run in runs]
    best = int(np.argmin(errors))
    after = refined(problem, method, runs[best], seed=seed, budget=budget)
    return {
        "rate": rates[best],
        "error": errors[best],
        "refined": after.error,
        "seconds": round(runs[best].seconds, 2),
        "seconds_refined": round(after.seconds, 2),
        "rates": rates,
        "errors": errors,
        "looks": runs[best].looks,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--soap", action="store_true", help="also with SOAP (package pytorch-optimizer)")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    budget, depths = (SHORT, (4,)) if options.quick else (Budget(), DEPTHS)
    report = Report(
        "physics",
        options,
        key=("problem", "depth", "method", "optimizer", "seed"),
        seeds=[TUNING_SEED] if options.quick else [TUNING_SEED, *SEEDS],
        settings={
            **asdict(budget),
            "grid": GRID,
            "betas": BETAS,
            "history": HISTORY,
            "rates": {name: method.rates for name, method in METHODS.items()},
            "weights": {name: [term.weight for term in problem.terms] for name, problem in PROBLEMS.items()},
        },
    )
    optimizers = [name for name in OPTIMIZERS if name == "adam" or options.soap]
    for optimizer, seed, depth, problem, method in product(optimizers, report.seeds, depths, PROBLEMS, METHODS):
        key = {"problem": problem, "depth": depth, "method": method, "optimizer": optimizer, "seed": seed}
        if not report.wants(**key):
            continue
        rates: tuple[float, ...] = METHODS[method].rates
        if seed != TUNING_SEED:
            tuned = {**key, "seed": TUNING_SEED}
            rates = tuple(row["rate"] for row in report.rows if all(row[name] == tuned[name] for name in tuned))
        if rates:
            report.add(**key, **measured(key, rates[:1] if options.quick else rates, budget))
    report.finish()


if __name__ == "__main__":
    main()
