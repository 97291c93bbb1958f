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


def test_the_example_for_deepxde_learns(example, capsys):
    losses = example("deepxde_burgers").main(["--steps", "40", "--depth", "4"])
    assert losses[-1] < losses[0] / 2
    assert "u(0.5, 0.25) = " in capsys.readouterr().out


def poisson(net, **options):
    import deepxde as dde

    def residual(x, u):
        return dde.grad.hessian(u, x) + np.pi**2 * torch.sin(np.pi * x)

    place = dde.geometry.Interval(-1, 1)
    ends = dde.icbc.DirichletBC(place, lambda x: 0, lambda x, on_boundary: on_boundary)
    return dde.Model(dde.data.PDE(place, residual, ends, num_domain=100, num_boundary=2), net)


def error(model):
    x = np.linspace(-1, 1, 201).reshape(-1, 1)
    return np.linalg.norm(model.predict(x) - np.sin(np.pi * x)) / np.linalg.norm(np.sin(np.pi * x))


@pytest.mark.parametrize("depth", [4, 16])
def test_deepxde_trains_its_network_of_cores_as_the_tutorials_do_and_restores_it(depth, tmp_path):
    import deepxde as dde

    from sigmoidcore.integrations.deepxde import FNN, BalanceLosses

    dde.config.set_random_seed(0)
    model = poisson(FNN([1] + [32] * depth + [1]))
    model.compile("adam", lr=0.001)
    model.train(iterations=500, display_every=500, callbacks=[BalanceLosses()], verbose=0)
    after_adam = error(model)
    assert after_adam < 0.1
    assert model.loss_weights[1] > 10 * model.loss_weights[0]
    dde.optimizers.set_LBFGS_options(maxiter=100)
    model.compile("L-BFGS", loss_weights=model.loss_weights)
    model.train(display_every=100, verbose=0)
    assert error(model) < after_adam / 2
    path = model.save(str(tmp_path / "model"))
    again = poisson(FNN([1] + [32] * depth + [1]))
    again.compile("L-BFGS")  # the optimizer of the file; then the next one
    again.restore(path)
    again.compile("adam", lr=0.00001)
    assert error(again) == pytest.approx(error(model), rel=1e-4)
    again.train(iterations=2, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1, 8, 16, 1],), ValueError, r"one width for all hidden layers, got \[1, 8, 16, 1\]"),
        (([1, 1],), ValueError, r"one width for all hidden layers, got \[1, 1\]"),
        ((3,), TypeError, "layer_sizes must be a list such as .*, got 3"),
        (([1, 8, 1], "tanh", "Glorot normal"), TypeError, "leave out 'tanh', 'Glorot normal'"),
    ],
)
def test_arguments_that_are_not_those_of_deepxdes_network_of_cores_are_an_error(arguments, error, message):
    from sigmoidcore.integrations.deepxde import FNN

    with pytest.raises(error, match=message):
        FNN(*arguments)


@pytest.mark.parametrize("dynamo", [True, False])
def test_both_exporters_of_onnx_take_the_prepared_network(dynamo, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from sigmoidcore.integrations.physics import PhysicsMLP

    network, x = PhysicsMLP(2, 16, 4, 1), torch.rand(100, 2)
    network.prepare(x)
    torch.onnx.export(network.eval(), (x,), str(tmp_path / "u.onnx"), dynamo=dynamo)
    session = onnxruntime.InferenceSession(str(tmp_path / "u.onnx"))
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(x).detach(), rtol=1e-4, atol=1e-5)


def test_pinas_solvers_take_the_network_with_pinas_own_optimizer():
    from pina import Trainer
    from pina.optim import TorchOptimizer
    from pina.problem.zoo import Poisson2DSquareProblem
    from pina.solver import PhysicsInformedSingleModelSolver

    from sigmoidcore.integrations.physics import PhysicsMLP

    torch.manual_seed(0)
    problem = Poisson2DSquareProblem()
    problem.discretise_domain(200, "random", domains="D")
    problem.discretise_domain(50, "random", domains="boundary")
    model = PhysicsMLP(2, 32, 8, 1)
    model.prepare(problem.spatial_domain.sample(500, "random"))
    solver = PhysicsInformedSingleModelSolver(problem, model, optimizer=TorchOptimizer(torch.optim.Adam, lr=0.001))
    points = problem.spatial_domain.sample(1000, "random")

    @torch.no_grad()
    def distance():
        found, expected = (f(points).as_subclass(torch.Tensor) for f in (solver, problem.solution))
        return float((found - expected).norm() / expected.norm())

    before = distance()
    Trainer(
        solver, max_epochs=200, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).train()  # fmt: skip
    assert distance() < before / 2


def test_physicsnemos_fully_connected_becomes_a_network_of_cores():
    mlp = pytest.importorskip("physicsnemo.models.mlp")
    model = mlp.FullyConnected(2, 32, 1, num_layers=8, activation_fn="tanh")
    assert "converted 8 of 8" in str(sc.convert(model, include="layers.*.activation_fn"))
    assert sc.prepare(model, torch.rand(200, 2), saturation="auto").after.spread < 1.5


def test_the_example_for_pina_learns(example, capsys):
    main = example("pina_poisson").main
    before = main(["--steps", "1", "--depth", "4"])
    assert main(["--steps", "240", "--depth", "4"]) < before / 2
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
