"""A physics-informed network of tanhs, then the same with Sigmoid Core: the walk of a researcher.

    python examples/pinn_from_tanh.py

Both solve u'' = f on [-1, 1] with u = 0 at the ends, for a solution with two scales. The network of tanhs
is converted, for one that exists already; a new one is a PhysicsMLP, as in docs/notebooks/physics.ipynb, and needs no
settings. benchmarks/compare_physics.py compares methods with care.
"""

import argparse
import math

import torch
from torch import nn

import sigmoidcore as sc

WAVES = (1.0, math.pi), (0.1, 6 * math.pi)
"""Sizes and wave numbers of the solution."""


def solution(x):
    return sum(size * torch.sin(wave * x) for size, wave in WAVES)


def force(x):
    return sum(-size * wave**2 * torch.sin(wave * x) for size, wave in WAVES)


def derivative(u, x):
    return torch.autograd.grad(u.sum(), x, create_graph=True)[0]


def train(network, optimizer, steps):
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - step / steps) ** 2)
    for _ in range(steps):
        x = (2 * torch.rand(128, 1) - 1).requires_grad_()
        u = (1 - x**2) * network(x)  # 0 at the ends, exactly
        residual = derivative(derivative(u, x), x) - force(x)
        optimizer.zero_grad()
        (residual.square().mean() / 700).backward()  # about the mean square of f
        optimizer.step()
        schedule.step()


@torch.no_grad()
def error(network):
    """Relative L2 error."""
    x = torch.linspace(-1, 1, 401)[:, None]
    return float(((1 - x**2) * network(x) - solution(x)).norm() / solution(x).norm())


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=1200)
    options.add_argument("--depth", type=int, default=8)
    options = options.parse_args(arguments)
    torch.set_flush_denormal(True)

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 32), nn.Tanh())
    for _ in range(options.depth - 1):
        network.extend([nn.Linear(32, 32), nn.Tanh()])
    network.append(nn.Linear(32, 1))
    train(network, torch.optim.Adam(network.parameters(), lr=0.001), options.steps)
    before = error(network)
    print(f"tanh, {options.depth} layers: relative error {before:.2%}")

    print(sc.convert(network))
    sc.prepare(network, 2 * torch.rand(500, 1) - 1, saturation=2.0)  # new weights
    train(network, torch.optim.Adam(sc.depth_scaled_lr(network, 0.01), betas=(0.9, 0.99), fused=True), options.steps)
    after = error(network)
    print(f"Sigmoid Core, {options.depth} layers: relative error {after:.2%}")
    return before, after


if __name__ == "__main__":
    main()
