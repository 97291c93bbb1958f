"""Solve Burgers' equation with DeepXDE and a network of cores.

    pip install deepxde
    python examples/deepxde_burgers.py

DeepXDE samples the points and minimises the residual. Sigmoid Core adds the network and the Equalizer. Gradients are
clipped, because a few points in the jump would dominate every step. The last line compares with the solution.
"""

import argparse
import os

os.environ.setdefault("DDE_BACKEND", "pytorch")  # before the import

import deepxde as dde
import numpy as np
import torch

import sigmoidcore as sc
from sigmoidcore.integrations.deepxde import FNN

VISCOSITY = 0.01 / np.pi
PLACE, SOLUTION = [[0.5, 0.25]], -0.8032


def residual(at, u):
    by_x, by_t = dde.grad.jacobian(u, at, j=0), dde.grad.jacobian(u, at, j=1)
    return by_t + u * by_x - VISCOSITY * dde.grad.hessian(u, at, i=0, j=0)


def clip(network):
    torch.nn.utils.clip_grad_norm_(network.parameters(), 0.3)


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=3000)
    options.add_argument("--depth", type=int, default=8)
    options = options.parse_args(arguments)
    dde.config.set_random_seed(0)

    place, time = dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1)
    data = dde.data.TimePDE(dde.geometry.GeometryXTime(place, time), residual, [], num_domain=1000)
    network = FNN([2, *[32] * options.depth, 1])
    # Initial and boundary values are exact, so the residual is the only loss.
    network.apply_output_transform(lambda at, u: -torch.sin(np.pi * at[:, :1]) + at[:, 1:] * (1 - at[:, :1] ** 2) * u)
    network.network.prepare(torch.as_tensor(data.train_x_all))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.0003, betas=(0.9, 0.99), fused=True)
    optimizer.register_step_pre_hook(lambda *step: clip(network))
    model = dde.Model(data, network)
    model.compile(optimizer, decay=("cosine", options.steps, 0.0))
    points = dde.callbacks.PDEPointResampler(period=100)
    with sc.Equalizer(network, optimizer) as equalizer:
        history, _ = model.train(iterations=options.steps, display_every=500, callbacks=[points])
    print(f"spread of the gradient: {equalizer.history[-1].spread:.3g}")
    print(f"u(0.5, 0.25) = {model.predict(np.array(PLACE)).item():.4f}, solution {SOLUTION}")
    return [float(np.sum(loss)) for loss in history.loss_train]


if __name__ == "__main__":
    main()
