"""Burgers' equation with a second phase: Adam or SOAP, then L-BFGS, on fixed points with weighted boundaries.

The set-up of DeepXDE's example: 2,540 points in the domain, 80 at the ends, 160 at time 0, and a loss that is the sum
of the three mean squares. Points are quasi-random (Sobol; the example has Hammersley's): between points drawn at random
there are gaps, in which most trainings put the jump, at errors of 0.05 to 0.2. The example's budget is 15,000 steps of
Adam and up to 15,000 of L-BFGS with 3 layers of width 20; the budget here is 3,000 and 1,500 with 6 layers of width 20.
Raissi et al. (arXiv 1711.10561) take 10,000 points and up to 50,000 steps of L-BFGS with 8 layers of width 20, for an
error of 0.0007.

tanh: Glorot's weights. tanh-orthogonal: orthogonal weights, gain 1. sigmoid core: `prepare` with saturation 2 and
`depth_scaled_lr`. SOAP (arXiv 2409.11321, package pytorch-optimizer) has the method's rates, too. The rate stays for
half of the first phase and falls to 0 in the other half. Adam has the betas 0.9 and 0.99 and the gradient is clipped to
a norm of 0.3, as docs/physics.md recommends for jumps (`--beta2 0.999 --clip inf`: the defaults of Adam). For each row
the better of two rates is found with a seed that is not reported, by the error after both phases: a high rate may end
in a jump at a wrong place, which L-BFGS does not leave. L-BFGS ends as in DeepXDE: at a gradient of 1e-8, or after its
steps. Time is the processor's (`--threads 1`).
"""

import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from pytorch_optimizer import SOAP
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

import sigmoidcore as sc
from _report import Report, arguments
from pde import PROBLEMS
from pde.methods import METHODS as LEARNERS
from peers.weights import orthogonal
from pinn import reference

WIDTH, DEPTH = 20, 6
DOMAIN, ENDS, START = 2540, 80, 160
FIRST, SECOND = 3000, 1500
HISTORY = 100
"""Steps that L-BFGS remembers; the default of DeepXDE and of PyTorch."""
TUNING_SEED = 100
BURGERS = PROBLEMS["burgers"]
Groups = Iterable[Any]


def tanh(x: Tensor, rate: float) -> tuple[nn.Module, Groups]:
    model = LEARNERS["tanh"].make(x, WIDTH, DEPTH, rate).model
    return model, [{"params": list(model.parameters()), "lr": rate}]


def tanh_orthogonal(x: Tensor, rate: float) -> tuple[nn.Module, Groups]:
    model, groups = tanh(x, rate)
    orthogonal(model, 1.0)
    return model, groups


def core(x: Tensor, rate: float) -> tuple[nn.Module, Groups]:
    model = sc.MLP(x.shape[1], WIDTH, DEPTH, 1)
    sc.prepare(model, x, saturation=2.0)
    return model, sc.depth_scaled_lr(model, rate)


METHODS = {
    "tanh": (tanh, (0.001, 0.003)),
    "tanh-orthogonal": (tanh_orthogonal, (0.001, 0.003)),
    "sigmoid core": (core, (0.003, 0.01)),
}
OPTIMIZERS: dict[str, Callable[[Groups, float], torch.optim.Optimizer]] = {
    "adam": lambda groups, beta2: torch.optim.Adam(groups, betas=(0.9, beta2)),
    "soap": lambda groups, _: SOAP(groups, weight_decay=0.0),
}


def points(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fixed points [n, 2] of place and time: in the domain, at the two ends, at the start."""
    low, high = torch.tensor(BURGERS.low), torch.tensor(BURGERS.high)
    domain, ends, start = (
        low + (high - low) * SobolEngine(2, scramble=True, seed=3 * seed + part).draw(count)
        for part, count in enumerate((DOMAIN, ENDS, START))
    )
    ends[:, 0] = torch.where(torch.arange(ENDS) % 2 == 0, -1.0, 1.0)
    start[:, 1] = 0.0
    return domain, ends, start


def loss_of(model: nn.Module, domain: Tensor, ends: Tensor, start: Tensor) -> Tensor:
    """Mean squares of the residual, of u at the ends, and of u + sin(pi x) at the start; a scalar."""
    at = domain.detach().requires_grad_()
    residual = BURGERS.residual(model(BURGERS.unit(at))[:, 0], at)
    at_start = model(BURGERS.unit(start))[:, 0] + torch.sin(np.pi * start[:, 0])
    return residual.square().mean() + model(BURGERS.unit(ends)).square().mean() + at_start.square().mean()


@torch.no_grad()
def error(model: nn.Module) -> float:
    """Relative L2 error on the grid; infinite if the network is not finite there."""
    at, expected = reference(BURGERS)
    found = model(BURGERS.unit(torch.tensor(at, dtype=torch.float32)))[:, 0].numpy()
    size = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    return size if np.isfinite(size) else float("inf")


def trained(
    method: str, optimizer: str, rate: float, seed: int, first: int, second: int, beta2: float, clip: float
) -> tuple[float, float, float]:
    """Errors after the two phases, and processor time in seconds."""
    started = time.process_time()
    torch.manual_seed(seed)
    at = points(seed)
    model, groups = METHODS[method][0](BURGERS.unit(at[0][:1000]), rate)
    steps = OPTIMIZERS[optimizer](groups, beta2)
    schedule = torch.optim.lr_scheduler.LambdaLR(steps, lambda step: min(1.0, 2 * (1 - step / first)))
    for _ in range(first):
        steps.zero_grad()
        loss_of(model, *at).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        steps.step()
        schedule.step()
    before = error(model)
    refining = torch.optim.LBFGS(
        model.parameters(),
        lr=1,
        max_iter=second,
        max_eval=2 * second,
        history_size=HISTORY,
        tolerance_grad=1e-8,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        refining.zero_grad()
        loss = loss_of(model, *at)
        loss.backward()
        return loss

    refining.step(closure)
    return before, error(model), time.process_time() - started


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds of a row (default: 5)")
    parser.add_argument("--beta2", type=float, default=0.99, metavar="B", help="of Adam (default: 0.99)")
    parser.add_argument(
        "--clip", type=float, default=0.3, metavar="N", help="largest norm of a gradient (default: 0.3)"
    )
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    first, second = (20, 10) if options.quick else (FIRST, SECOND)
    report = Report(
        "pinn_second_phase",
        options,
        key=("method", "first_phase"),
        seeds=list(range(1 if options.quick else options.seeds)),
        settings={
            "width": WIDTH,
            "depth": DEPTH,
            "points": [DOMAIN, ENDS, START],
            "steps": [first, second],
            "beta2": options.beta2,
            "clip": options.clip,
            "tuning_seed": TUNING_SEED,
            "rates": {name: rates for name, (_, rates) in METHODS.items()},
        },
    )
    for method, (_, rates) in METHODS.items():
        for optimizer in OPTIMIZERS:
            if not report.wants(method=method, first_phase=optimizer):
                continue
            made = partial(
                trained, method, optimizer, first=first, second=second, beta2=options.beta2, clip=options.clip
            )
            tuning = [made(rate=rate, seed=TUNING_SEED)[1] for rate in rates]
            rate = rates[int(np.argmin(tuning))]
            runs = [made(rate=rate, seed=seed) for seed in report.seeds]
            after_first, after_second, seconds = zip(*runs, strict=True)
            report.add(
                method=method,
                first_phase=optimizer,
                rate=rate,
                error_first=statistics.median(after_first),
                error_second=statistics.median(after_second),
                worst_second=max(after_second),
                seconds=statistics.median(seconds),
                tuning=tuning,
                errors_first=after_first,
                errors_second=after_second,
            )
    report.finish()


if __name__ == "__main__":
    main()
