"""Solve Poisson's equation with PINA and a network of cores.

    pip install pina-mathlab
    python examples/pina_poisson.py

PINA trains with Lightning, so the callback for Lightning works. The last line compares with the solution.
"""

import argparse

import torch
from pina import Trainer
from pina.optim import TorchOptimizer, TorchScheduler
from pina.problem.zoo import Poisson2DSquareProblem
from pina.solver import PhysicsInformedSingleModelSolver
from torch import nn

import sigmoidcore as sc
from sigmoidcore.integrations.lightning import SigmoidCoreCallback


class Cores(nn.Module):
    """`sc.MLP` for PINA's labelled tensors; without labels its hidden layers are fused."""

    def __init__(self, *sizes):
        super().__init__()
        self.network = sc.MLP(*sizes)

    def forward(self, x):
        return self.network(x.as_subclass(torch.Tensor))


class Rates(TorchOptimizer):
    """Adam with the rates of `depth_scaled_lr`; PINA builds its optimizers from all parameters."""

    def __init__(self, model):
        super().__init__(torch.optim.Adam, betas=(0.9, 0.99), fused=True)
        self.model = model

    def hook(self, parameters):
        super().hook(sc.depth_scaled_lr(self.model, 0.01))


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--depth", type=int, default=8)
    options = options.parse_args(arguments)
    torch.manual_seed(0)

    problem = Poisson2DSquareProblem()
    problem.discretise_domain(500, "random", domains="D")
    problem.discretise_domain(100, "random", domains="boundary")
    model = Cores(2, 32, options.depth, 1)
    inside = problem.spatial_domain.sample(1000, "random")
    sc.prepare(model.network, inside.as_subclass(torch.Tensor), saturation=2.0)

    fall = TorchScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda n: min(1, 2 * (1 - n / options.steps)))
    solver = PhysicsInformedSingleModelSolver(problem, model, optimizer=Rates(model), scheduler=fall)
    watching = SigmoidCoreCallback()
    trainer = Trainer(
        solver, max_epochs=options.steps, accelerator="cpu", callbacks=[watching], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.train()

    points = problem.spatial_domain.sample(2000, "random")
    with torch.no_grad():
        found, expected = (f(points).as_subclass(torch.Tensor) for f in (solver, problem.solution))
    error = float((found - expected).norm() / expected.norm())
    print(f"spread of the gradient: {watching.equalizer.history[-1].spread:.3g}")
    print(f"relative error after {options.steps} steps: {error:.2%}")
    return error


if __name__ == "__main__":
    main()
