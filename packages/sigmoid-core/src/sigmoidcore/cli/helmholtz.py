"""`sigmoid-core demo --physics`: Helmholtz's equation, solved by 16 layers of tanh and by 16 of Sigmoid Core."""

import math
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.quasirandom import SobolEngine

import sigmoidcore as sc
from sigmoidcore.cli.screen import Figures, Screen
from sigmoidcore.integrations.physics import PhysicsMLP
from sigmoidcore.language import _
from sigmoidcore.plots.figures import solutions
from sigmoidcore.training_loop import Schedule, Training, narrow_layers

DEPTH, WIDTH, STEPS, POINTS, ON_EDGES, RATE, SIDE = 16, 32, 100, 192, 64, 0.001, 101
SOURCE = 1 - 17 * math.pi**2


def solution(at: Tensor) -> Tensor:
    """Of u_xx + u_yy + u = SOURCE * solution, 0 on the edges of the square from -1 to 1; at points [points, 2]."""
    return torch.sin(math.pi * at[:, 0]) * torch.sin(4 * math.pi * at[:, 1])


class Solver(nn.Module):
    """Maps points [points, 2], some of them moved to the edges, to the loss: mean squares of the equation and of u."""

    def __init__(self, network: nn.Module, grid: Tensor) -> None:
        super().__init__()
        self.network, self.grid, self.u = network, grid, grid
        self.errors: list[float] = []

    def forward(self, at: Tensor) -> Any:
        """The loss."""
        edges, inside = at[:ON_EDGES].clone(), at[ON_EDGES:].requires_grad_()
        for side, part in enumerate(edges.chunk(4)):
            part[:, side % 2] = side // 2 * 2 - 1
        u = self.network(inside)[:, 0]
        (by,) = torch.autograd.grad(u.sum(), inside, create_graph=True)
        for axis in (0, 1):
            u = u + torch.autograd.grad(by[:, axis].sum(), inside, create_graph=True)[0][:, axis]
        return (2 * u / SOURCE - 2 * solution(inside)).square().mean() + self.network(edges).square().mean()

    def train_on(self, points: SobolEngine, rounds: int, screen: Screen) -> Tensor:
        """Train, with a line for every hundred steps; returns u on the grid."""

        def on_epoch(loss: float) -> float:
            with torch.no_grad():
                self.u, exact = self.network(self.grid)[:, 0], solution(self.grid)
            self.errors.append(float((self.u - exact).norm() / exact.norm()))
            shown = {"step": len(self.errors) * STEPS, "loss": loss, "error": self.errors[-1]}
            screen.print("   " + _("step {step:5,}   loss {loss:<9.3g}   error {error:.3g}", **shown), soft_wrap=True)
            return loss

        training = Training(self, lambda loss: loss, torch.optim.Adam(self.parameters(), lr=RATE, fused=True))
        with narrow_layers():
            batches = lambda: ((2 * points.draw(POINTS) - 1,) for _step in range(STEPS))  # noqa: E731
            training.run(batches, POINTS * STEPS, Schedule(rounds), on_epoch=on_epoch)
        return self.u


def helmholtz(screen: Screen, rounds: int, seed: int) -> Figures:
    """Train both networks; returns a figure of what they found."""
    problem = _(
        "Helmholtz's equation on a square, with the solution sin(pi x) sin(4 pi y). Two networks of {depth} hidden "
        "layers with {width} neurons take {steps:,} steps of Adam on the same points, with the rate {rate}.",
        depth=DEPTH, width=WIDTH, steps=rounds * STEPS, rate=RATE,
    )  # fmt: skip
    screen.heading(_("A differential equation: u_xx + u_yy + u = f"))
    screen.say(problem)
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, SIDE)] * 2)
    pictures, errors, seconds = {"solution": solution(grid)}, dict[str, list[float]](), list[str]()
    for name in ("tanh", "Sigmoid Core"):
        torch.manual_seed(seed)
        network = _tanhs() if name == "tanh" else PhysicsMLP(2, WIDTH, DEPTH, 1)
        if isinstance(network, PhysicsMLP):
            network.prepare(grid)
        screen.say(name, "bold", above=1)
        began, solver = time.perf_counter(), Solver(network, grid)
        pictures[name] = solver.train_on(SobolEngine(2, scramble=True, seed=seed), rounds, screen)  # type: ignore[no-untyped-call]
        errors[name] = solver.errors
        seconds.append(f"{time.perf_counter() - began:.0f}")
    last = [f"{found[-1]:.2g}" for found in errors.values()]
    screen.table(["", *errors], [[_("error over the size of the solution"), *last], [_("seconds"), *seconds]])
    drawn = {name: values.reshape(SIDE, SIDE).T.numpy() for name, values in pictures.items()}
    return [("physics.png", solutions(drawn, errors, STEPS), _("solutions, and errors by step"))]


def _tanhs() -> nn.Module:
    network = sc.MLP(2, WIDTH, DEPTH, 1, activation=lambda width: nn.Tanh())
    for weight in network.parameters():  # Glorot's, as is usual for differential equations
        (nn.init.xavier_normal_ if weight.dim() > 1 else nn.init.zeros_)(weight)
    return network
