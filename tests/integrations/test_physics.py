"""Solvers of differential equations: the examples for DeepXDE and PINA run, and the benchmark's methods are theirs."""

import os

import numpy as np
import pytest
import torch
from torch import nn

import sigmoidcore as sc
from physics.methods.adaptive import Adaptive, LocallyAdaptiveTanh

os.environ.setdefault("DDE_BACKEND", "pytorch")
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


def test_the_example_for_deepxde_learns_with_its_layers_computed_as_one(example, calls, capsys):
    losses = example("deepxde_burgers").main(["--steps", "40", "--depth", "4"])
    assert losses[-1] < losses[0] / 2
    assert len(calls) >= 39  # a sampled step runs layer by layer
    assert "u(0.5, 0.25) = " in capsys.readouterr().out


def test_the_example_for_pina_learns_with_its_layers_computed_as_one(example, calls, capsys):
    main = example("pina_poisson").main
    before = main(["--steps", "1", "--depth", "4"])
    assert main(["--steps", "60", "--depth", "4"]) < before / 2
    assert len(calls) > 60
    assert "spread of the gradient: " in capsys.readouterr().out


def test_pinas_labelled_tensors_are_measured():
    from pina import LabelTensor

    net = sc.MLP(2, 16, 4, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-30)
    found = []
    for points in (torch.rand(50, 2), LabelTensor(torch.rand(50, 2), ["x", "y"])):
        with sc.Monitor(net, every=1) as monitor:
            optimizer.zero_grad()
            net(points).square().mean().backward()
            optimizer.step()
        found.append(monitor.measurements[-1])
    assert all(layer.gradient is not None and np.isfinite(layer.rms) for layer in found[1].layers)
    assert [layer.kind for layer in found[0].layers] == [layer.kind for layer in found[1].layers]


def test_deepxdes_own_network_takes_a_core_for_every_layer_as_its_activation():
    import deepxde as dde

    def residual(x, u):
        return dde.grad.hessian(u, x) + np.pi**2 * torch.sin(np.pi * x)

    dde.config.set_random_seed(0)
    data = dde.data.PDE(dde.geometry.Interval(-1, 1), residual, [], num_domain=100)
    cores = [sc.SigmoidCore(16, alpha=4.0, centered=True) for _ in range(6)]
    net = dde.nn.FNN([1, *[16] * 6, 1], [*cores, None], "Glorot normal")
    net.cores = nn.ModuleList(cores)  # DeepXDE keeps activations in a list, which PyTorch does not look into
    net.apply_output_transform(lambda x, u: (1 - x**2) * u)
    assert sc.prepare(net, torch.linspace(-1, 1, 200).reshape(-1, 1), saturation=2.0).after.spread < 1.5
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(net))
    model = dde.Model(data, net)
    model.compile(optimizer)
    with sc.Equalizer(net, optimizer, every=10) as equalizer:
        history, _ = model.train(iterations=200, display_every=100, verbose=0)
    assert float(np.sum(history.loss_train[-1])) < 1e-2 * float(np.sum(history.loss_train[0]))
    assert len(equalizer.history) > 10
    assert all(np.isfinite(sample.spread) for sample in equalizer.history)


@pytest.mark.parametrize(("name", "function"), [("AdaptiveTanh", torch.tanh), ("AdaptiveSigmoid", torch.sigmoid)])
def test_the_adaptive_functions_of_the_benchmark_are_pinas(name, function):
    import pina.adaptive_function

    theirs, ours, x = getattr(pina.adaptive_function, name)(), Adaptive(function), torch.randn(20, 3)
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters()) == 3
    torch.testing.assert_close(ours(x), theirs(x))
    numbers = dict(alpha=0.5, beta=2.0, gamma=-1.0)
    theirs = getattr(pina.adaptive_function, name)(**numbers)
    for key, value in numbers.items():
        nn.init.constant_(getattr(ours, key), value)
    torch.testing.assert_close(ours(x), theirs(x))


def test_the_locally_adaptive_tanh_of_the_benchmark_is_deepxdes():
    import deepxde.nn.activations

    theirs, ours, x = deepxde.nn.activations.get("LAAF-10 tanh"), LocallyAdaptiveTanh(None), torch.randn(20, 3)
    for a in (0.1, 0.3):
        for layer in (theirs, ours):
            nn.init.constant_(layer.a, a)
        torch.testing.assert_close(ours(x), theirs(x))
