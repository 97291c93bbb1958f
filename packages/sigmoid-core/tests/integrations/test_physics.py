"""The network that prepares itself, and losses whose terms pull equally."""

import io
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore.integrations.balanced_losses import BalancedLosses
from sigmoidcore.integrations.physics import PhysicsMLP


def box(low, high, count=400):
    """Points that fill a box, its corners among them."""
    low, high = torch.tensor(low), torch.tensor(high)
    points = low + (high - low) * torch.rand(count, len(low))
    points[0], points[1] = low, high
    return points


def losses(forward, optimizer, x, steps=20):
    target, found = torch.sin(3 * x[:, :1] * x[:, 1:]), []
    for _ in range(steps):
        loss = (forward(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def by_hand(network, x):
    """The same function with parameters that are not divided: waves, residual layers of tanh, a Linear."""
    waves, *layers, last = network.network
    rate = 10 * min(1, 8 / len(layers))
    hidden = [rate * value for layer in layers for value in layer.linear.parameters()]
    all_of_them = [30 * waves.waves, *hidden, *(10 * value for value in last.parameters())]
    parameters = [value.detach().clone().requires_grad_() for value in all_of_them]
    frequencies, *rest = parameters

    def apply(points):
        phase = (2 * (points - x.amin(0)) / (x.amax(0) - x.amin(0)) - 1) @ frequencies.T
        h = torch.cat([phase.sin(), phase.cos()], 1)[:, : network.network[1].linear.in_features]
        for weight, bias in zip(rest[:-2:2], rest[1:-2:2], strict=True):
            h = h + torch.tanh(h @ weight.T + bias)
        return h @ rest[-2].T + rest[-1]

    return apply, parameters


@pytest.mark.parametrize(("depth", "width"), [(4, 24), (16, 23)])
def test_one_rate_trains_it_as_higher_ones_train_the_network_of_its_equation(depth, width):
    x, network = box([-1.0, 0.0], [1.0, 3.0]).double(), PhysicsMLP(2, width, depth, 1).double()
    network.prepare(x)
    plain, (waves, *hidden, weight, bias) = by_hand(network, x)
    rates = (0.03, [waves]), (0.01 * min(1, 8 / depth), hidden), (0.01, [weight, bias])
    groups = [{"params": of_rate, "lr": rate} for rate, of_rate in rates]
    expected = losses(plain, torch.optim.Adam(groups, eps=1e-14), x)
    found = losses(network, torch.optim.Adam(network.parameters(), lr=0.001, eps=1e-14), x)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[-1] < 0.7 * found[0]


@pytest.mark.parametrize(("depth", "rate"), [(8, 0.001), (32, 0.003), (64, 0.001)])
def test_deep_networks_train_with_the_rate_of_shallow_ones(depth, rate):
    """u'' = -pi^2 sin(pi x), u(-1) = u(1) = 0; without shares of the rate, errors at 32 and 64 layers are up to 70."""
    torch.manual_seed(0)
    network, steps = PhysicsMLP(1, 32, depth, 1), 120
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, 2 * (1 - step / steps)))
    for _ in range(steps):
        x = (2 * torch.rand(128, 1) - 1).requires_grad_()
        y = (1 - x**2) * network(x)
        for _ in range(2):
            (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        optimizer.zero_grad()
        (y + torch.pi**2 * torch.sin(torch.pi * x)).square().mean().backward()
        optimizer.step()
        falling.step()
    x = torch.linspace(-1, 1, 201).reshape(-1, 1)
    assert float(((1 - x**2) * network(x).detach() - torch.sin(torch.pi * x)).norm()) / 10 < 0.05


def test_a_copy_of_its_buffers_alone_knows_the_domain_and_so_does_one_from_the_meta_device():
    x, network = box([0.0, 0.0], [1.0, 50.0]), PhysicsMLP(2, 16, 4, 1)
    average = torch.optim.swa_utils.AveragedModel(network)
    network(x)
    average.update_parameters(network)
    torch.testing.assert_close(average.eval()(x[:3]), network(x[:3]))
    torch.testing.assert_close(average.train()(x[:300] / 9), network(x[:300] / 9))
    with torch.device("meta"):
        other = PhysicsMLP(2, 16, 4, 1)
    other.to_empty(device="cpu").load_state_dict(network.state_dict())
    assert torch.equal(other(x), network(x))


@pytest.mark.parametrize("prepare", [sc.prepare, sc.calibrate])
def test_prepare_of_plain_networks_is_refused_and_changes_nothing(prepare):
    network, x = prepared(), torch.rand(50, 2)
    before = network(x)
    with pytest.raises(ValueError, match=r"has its weights and slopes: call its own prepare\(points\)"):
        prepare(network, x)
    assert torch.equal(network(x), before)


@pytest.mark.parametrize("depth", [4, 32])
def test_it_begins_near_0_with_gradients_of_one_size_in_all_layers(depth):
    x, network = box([-1.0, -1.0], [1.0, 1.0]), PhysicsMLP(2, 64, depth, 1)
    frequencies = 30 * network.network[0].waves.detach()
    assert float(frequencies.std()) == pytest.approx(2, rel=0.25)
    assert float(network(x).detach().std()) < 0.2
    assert sc.gradient_profile(network, x).spread < 1.3


def test_the_domain_may_be_anywhere_and_of_any_size():
    shifted, outputs = box([5.0, -0.001], [1005.0, 0.001]), []
    for points in (2 * (shifted - torch.tensor([5.0, -0.001])) / torch.tensor([1000.0, 0.002]) - 1, shifted):
        torch.manual_seed(1)
        network = PhysicsMLP(2, 16, 4, 1)
        outputs.append(network(points))
    torch.testing.assert_close(*outputs, rtol=1e-2, atol=1e-3)


def test_the_first_training_batch_prepares_it_once_and_what_is_saved_is_prepared():
    x, network, other = box([0.0, 0.0], [1.0, 3.0]), PhysicsMLP(2, 16, 4, 1), PhysicsMLP(2, 16, 4, 1)
    with pytest.warns(UserWarning, match=r"no domain yet: call network\.prepare\(points\) first"):
        network.eval()(torch.zeros(1, 2))
    assert not network.is_prepared
    network.train().requires_grad_(False)
    u = network(x)
    assert not any(p.requires_grad for p in network.parameters())
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for net in (network, other):
        torch.testing.assert_close(net(x).detach(), u)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.rand(5, 2), ValueError, r"points from .* do not fill the domain: call PhysicsMLP\.prepare"),
        (torch.rand(100, 2) * torch.tensor([1.0, 0.0]), ValueError, "do not fill the domain"),
        (torch.rand(0, 2), ValueError, "0 points from .* do not fill the domain"),
        (torch.full((100, 2), torch.nan), ValueError, "leave out those that are not finite"),
        (
            torch.rand(100, 1),
            ValueError,
            r"has 2 inputs, but the points have shape \(100, 1\).*torch\.cat\(\[x, t\], 1\)",
        ),
        (torch.rand(100, 3), ValueError, r"has 2 inputs, but the points have shape \(100, 3\)"),
        (np.ones((100, 2)), TypeError, r"must be a tensor, got ndarray: give torch\.tensor\(points\)"),
    ],
)
def test_points_that_cannot_be_a_domain_are_an_error(x, error, message):
    for call in (PhysicsMLP(2, 16, 4, 1), PhysicsMLP(2, 16, 4, 1).prepare):
        with pytest.raises(error, match=message):
            call(x)


def prepared():
    network = PhysicsMLP(2, 16, 4, 1)
    network.prepare(box([0.0, 0.0], [1.0, 3.0]))
    return network


def test_vmap_and_compile_take_a_prepared_network():
    x, network = torch.rand(20, 2, requires_grad=True), prepared()
    hessians = torch.func.vmap(torch.func.hessian(lambda point: network(point).squeeze()))(x)
    (gradient,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient[:, 0].sum(), x)
    torch.testing.assert_close(hessians[:, 0], second, rtol=1e-3, atol=1e-3)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(RuntimeError, match=r"call network\.prepare\(points\) before torch\.func and compile"):
        torch.func.vmap(PhysicsMLP(2, 16, 4, 1))(x)


def derivatives(network, x):
    """Outputs, second derivatives by the first input, and the gradients of a loss with both."""
    x = x.clone().requires_grad_()
    y = u = network(x)
    for _ in range(2):
        (u,) = torch.autograd.grad(u[:, :1].sum(), x, create_graph=True)
    network.zero_grad()
    (u.square().mean() + y.square().mean()).backward()
    return [y, u, *(p.grad for p in network.parameters())]


@pytest.mark.parametrize(
    "watch",
    [
        lambda network: network.network[2].core.register_forward_hook(lambda *_: None),
        lambda network: network.network[2].register_forward_pre_hook(lambda *_: None),
        sc.Monitor,
        lambda network: network.network[2].set_submodule("linear", nn.Sequential(network.network[2].linear)),
    ],
    ids=["hook of a core", "hook of a layer", "monitor", "layer of another class"],
)
def test_where_layers_run_one_by_one_outputs_and_gradients_are_the_same(watch):
    x, network = box([0.0, 0.0], [1.0, 3.0]).double(), PhysicsMLP(2, 9, 4, 2).double()
    network.prepare(x)
    for layer in network.network[1:-1]:
        layer.core.set_slope(20 * (0.5 + torch.rand(9)))
        layer.core.set_shift(0.01 * torch.randn(9))
    expected, calls = derivatives(network, x), []
    forward = type(network.network[1]).forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(network.network[1]), "forward", lambda m, h: calls.append(m) or forward(m, h))
        torch.testing.assert_close(derivatives(network, x), expected, rtol=1e-12, atol=1e-12)
        assert calls == []
        with watch(network) or nullcontext():
            torch.testing.assert_close(derivatives(network, x), expected, rtol=1e-12, atol=1e-12)
    assert calls == list(network.network[1:-1])


def test_it_exports_with_any_number_of_points_and_folds_by_its_inner_network():
    x, network = torch.rand(9, 2), prepared().eval()
    program = torch.export.export(network, (x[:5],), dynamic_shapes=({0: torch.export.Dim("points", min=2)},))
    torch.testing.assert_close(program.module()(x), network(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"PhysicsMLP with its own forward, .* counterpart: fold model\.network"):
        sc.fold(network)
    folded = sc.fold(network.network)
    assert not any(type(module).__module__.startswith("sigmoidcore") for module in folded.modules())
    plain = folded((x - network.centre) / network.radius) * 10
    torch.testing.assert_close(plain, network(x), rtol=1e-3, atol=1e-4)


def terms(net):
    return [net.weight.square().sum(), 1e4 * net.bias.square().sum()]


def test_balanced_losses_pull_equally_and_keep_their_weights_between_measurements():
    net, gradients = nn.Linear(3, 2), []
    balanced = BalancedLosses(net.parameters(), every=2)
    balanced(terms(net)).backward()
    assert float(net.weight.grad.norm()) == pytest.approx(float(net.bias.grad.norm()), rel=1e-5)
    weights = balanced.weights
    with torch.no_grad():
        net.weight.mul_(2)
    for _ in range(2):
        balanced(terms(net))
        gradients.append(balanced.weights)
    assert gradients[0] == weights
    assert gradients[1][0] < weights[0]
    assert BalancedLosses(net.parameters(), every=0)(terms(net)) == sum(terms(net))


def test_a_term_without_a_gradient_keeps_its_weight():
    net = nn.Linear(3, 2)
    balanced = BalancedLosses(net.parameters())
    balanced([*terms(net), (0 * net.bias).sum(), net.bias.sum() * float("inf")])
    assert balanced.weights[2:] == [1, 1]


def test_terms_that_are_not_those_of_the_call_before_are_an_error():
    net = nn.Linear(3, 2)
    balanced = BalancedLosses(net.parameters())
    balanced(terms(net))
    with pytest.raises(ValueError, match="losses has 1 terms, those before had 2"):
        balanced(terms(net)[:1])
    with pytest.raises(TypeError, match="must be a list of terms"):
        balanced(torch.stack(terms(net)))


@pytest.mark.parametrize("options", [{"every": -1}, {"momentum": 1.0}])
def test_an_invalid_option_is_an_error_that_names_it(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        BalancedLosses(nn.Linear(1, 1).parameters(), **options)
