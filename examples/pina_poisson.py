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

from sigmoidcore.integrations.lightning import SigmoidCoreCallback
from sigmoidcore.integrations.physics import PhysicsMLP


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=2000)
    options.add_argument("--depth", type=int, default=8)
    options = options.parse_args(arguments)
    torch.manual_seed(0)

    problem = Poisson2DSquareProblem()
    problem.discretise_domain(500, "random", domains="D")
    problem.discretise_domain(100, "random", domains="boundary")
    model = PhysicsMLP(2, 32, options.depth, 1)
    model.prepare(problem.spatial_domain.sample(1000, "random"))

    fall = TorchScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda n: min(1, 2 * (1 - n / options.steps)))
    adam = TorchOptimizer(torch.optim.Adam, lr=0.001, betas=(0.9, 0.99), fused=True)
    solver = PhysicsInformedSingleModelSolver(problem, model, optimizer=adam, scheduler=fall)
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
