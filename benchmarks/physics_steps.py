"""Time of a training step on a differential equation, over that of tanh: first and second derivatives, sizes, methods.

The equations are u_t + 10 u_x = 0 and u_t = u_xx on random points, without boundaries; derivatives by
`torch.autograd.grad`, then Adam. All take turns in one process (`speed.Clock`); a figure is the median of the ratios of
the rounds.
"""

import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

from _report import Report, arguments
from physics import METHODS
from physics.training import adam
from speed import Clock

COMPARED = [name for name, method in METHODS.items() if not method.equalizes]
DERIVATIVES, POINTS, DEPTHS, WIDTH = (1, 2), (128, 1000), (4, 8, 16, 32), 32
SECONDS = 30.0
"""For one comparison, about."""


def training_step(network: nn.Module, points: Tensor, derivatives: int) -> Callable[[], None]:
    """A function that takes one step."""
    optimizer = adam([{"params": list(network.parameters()), "lr": 1e-5}])

    def step() -> None:
        x = points.clone().requires_grad_()
        (by,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
        space = by[:, :1]
        if derivatives == 2:
            space = -torch.autograd.grad(space.sum(), x, create_graph=True)[0][:, :1]
        optimizer.zero_grad()
        (by[:, 1:] + 10 * space).square().mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    seconds, depths = (0.1, DEPTHS[:1]) if options.quick else (SECONDS, DEPTHS)
    report = Report(
        "physics_steps",
        options,
        key=("derivatives", "points", "depth", "method"),
        seeds=[0],
        settings={"width": WIDTH, "seconds": seconds},
    )
    clock = Clock(torch.device("cpu"), seconds)
    for derivatives in DERIVATIVES:
        for count in POINTS:
            for depth in depths:
                if not report.wants(derivatives=derivatives, points=count, depth=depth, method="tanh"):
                    continue
                torch.manual_seed(0)
                points = 2 * torch.rand(count, 2) - 1
                networks = {name: METHODS[name].build(points, WIDTH, depth, 1) for name in COMPARED}
                steps = {name: training_step(network, points, derivatives) for name, network in networks.items()}
                taken = clock.compared(steps)
                for name, times in taken.items():
                    ratios = (mine / theirs for mine, theirs in zip(times, taken["tanh"], strict=True))
                    report.add(
                        derivatives=derivatives,
                        points=count,
                        depth=depth,
                        method=name,
                        over_tanh=round(statistics.median(ratios), 3),
                        milliseconds=round(1000 * statistics.median(times), 2),
                    )
    report.finish()


if __name__ == "__main__":
    main()
