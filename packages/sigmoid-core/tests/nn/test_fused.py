"""Hidden layers computed as one give the numbers of the modules, and step aside for whoever watches or transforms."""

import copy
import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import sigmoidcore as sc
from sigmoidcore.core import SigmoidCore
from sigmoidcore.nn import fused


@pytest.fixture(params=["one slope a layer", "one slope a neuron"])
def model(request):
    """6 x 16, prepared; with shifts and, for the second, slopes that differ from neuron to neuron in two layers."""
    torch.manual_seed(0)
    model = sc.MLP(5, 16, 6, 3)
    sc.prepare(model, torch.randn(50, 5))
    if request.param == "one slope a neuron":
        for core in (model[1], model[7]):
            core.slope.mul_(torch.rand(16) + 0.5)
            core.shift.add_(torch.randn(16))
    return model


@pytest.fixture
def x():
    return torch.randn(20, 5, generator=torch.Generator().manual_seed(1))


class Scaled(torch.Tensor):
    """A tensor of another class, as quantized and sharded weights are."""


def by_modules(model):
    """The same network as an `nn.Sequential`, which calls one module after the other."""
    return nn.Sequential(*copy.deepcopy(model).children())


def gradients(model, x):
    model.zero_grad()
    model(x).square().sum().backward()
    return [p.grad for p in model.parameters()]


def assert_close(a, b, tolerance=1e-5):
    for one, other in zip(a, b, strict=True):
        assert torch.linalg.vector_norm(one - other) <= tolerance * torch.linalg.vector_norm(other) + 1e-30


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("block", "batch"), [(1, 1), (3 * 16 * 20 * 8, 2 * 16 * 20 * 8), (1 << 24, 1 << 20)])
def test_outputs_and_gradients_are_those_of_the_modules(model, x, calls, monkeypatch, dtype, block, batch):
    monkeypatch.setattr(fused, "BLOCK", block)
    monkeypatch.setattr(fused, "BATCH", batch)
    model, x = model.to(dtype), x.to(dtype)
    plain = by_modules(model)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    assert_close([model(x)], [plain(x)], tolerance)
    assert_close(gradients(model, mine), gradients(plain, theirs), tolerance)
    assert_close([mine.grad], [theirs.grad], tolerance)
    assert calls


@pytest.mark.parametrize(("depth", "batch", "as_one"), [(6, 20, False), (30, 20, True), (6, 4000, True)])
def test_few_small_layers_run_as_modules_which_takes_less_time(depth, batch, as_one):
    model = sc.MLP(5, 16, depth, 3)
    outputs = fused.run_as_one(model[2:-1:2], model[3:-1:2], torch.randn(batch, 16))
    assert (outputs is not None) == as_one


def test_sparse_inputs_run_as_modules(calls):
    model, x = sc.MLP(5, 16, 4, 3), torch.randn(3, 5)
    torch.testing.assert_close(model(x.to_sparse()), by_modules(model)(x))
    assert not calls


def test_without_gradients_too(model, x, calls):
    with torch.no_grad():
        assert_close([model(x)], [by_modules(model)(x)])
    with torch.inference_mode():
        assert_close([model(x)], [by_modules(model)(x)])
    assert len(calls) == 2


# A training multiplies differences: by some 10,000 in these 100 steps.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-11)])
def test_a_training_of_100_steps_has_the_same_losses_to_rounding(dtype, tolerance, calls):
    model = sc.MLP(5, 16, 10, 3).to(dtype)
    x, y = torch.randn(64, 5, dtype=dtype), torch.randint(0, 3, (64,))
    sc.prepare(model, x)
    losses = []
    for network in (model, by_modules(model)):
        optimizer = torch.optim.Adam(sc.depth_scaled_lr(network), fused=True)
        losses.append([])
        for _ in range(100):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(x), y)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    torch.testing.assert_close(*losses, rtol=0, atol=tolerance)
    assert losses[0][-1] < 0.9 * losses[0][0]
    assert len(calls) == 100


def test_batches_of_more_dimensions_and_other_scales_too(x, calls):
    model = sc.MLP(5, 16, 4, 3, activation=lambda n: SigmoidCore(n, alpha=2.0, centered=True, scale=2.0))
    many = x.reshape(4, 5, 5)
    assert_close([model(many)], [by_modules(model)(many)])
    assert_close(gradients(model, many), gradients(by_modules(model), many))
    assert calls


def test_saturated_and_infinite_preactivations_give_no_warning(model, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x * 1e30).sum().backward()
        assert bool(torch.isnan(model(x * float("nan"))).all())


def test_only_outputs_are_kept_for_the_way_back(model, x, calls):
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        output = model(x)
    weights = {p.data_ptr() for p in model.parameters()}
    numbers = sum(t.numel() for pointer, t in kept.items() if pointer not in weights | {x.data_ptr()})
    assert numbers == 6 * 20 * 16
    output.sum().backward()


def test_second_derivatives_are_exact(model, x, calls):
    model, x = model.double(), x[:3].double().requires_grad_()
    first, last = model[0].weight, model[10].bias
    assert torch.autograd.gradcheck(lambda x, *_: model(x), (x, first, last))
    assert torch.autograd.gradgradcheck(lambda x, *_: model(x), (x, first, last))
    assert calls


def pde_loss(model, x):
    x = x.clone().requires_grad_()
    u = model(x)[:, 0]
    u_x = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
    u_xx = torch.autograd.grad(u_x.sum(), x, create_graph=True)[0]
    return (u_xx.sum(1) - u).square().mean() + u_x.square().mean()


def test_the_gradients_of_a_loss_of_second_derivatives_are_those_of_the_modules(model, x, calls):
    model, x = model.double(), x.double()
    found = []
    for network in (model, by_modules(model)):
        found.append([g for g in torch.autograd.grad(pde_loss(network, x), network.parameters(), allow_unused=True)])
    assert_close(found[0][:-1], found[1][:-1], 1e-12)
    assert calls


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_change_nothing(model, x, calls, reentrant):
    wanted = gradients(by_modules(model), x)
    model.zero_grad()
    h = checkpoint(model[:6], x.clone().requires_grad_(), use_reentrant=reentrant)
    checkpoint(model[6:], h, use_reentrant=reentrant).square().sum().backward()
    assert_close([p.grad for p in model.parameters()], wanted)
    assert calls


def test_hooks_on_a_layer_or_a_core_run(model, x, calls):
    seen = []
    for layer in (model[2], model[5]):
        handle = layer.register_forward_hook(lambda module, args, output: seen.append(module))
        model(x)
        handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda module, args, output: seen.append("all"))
    model(x)
    handle.remove()
    assert seen == [model[2], model[5]] + ["all"] * 14
    assert not calls
    model(x)
    assert calls


def test_modes_and_transforms_see_every_operation(model, x, calls):
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights):
        return torch.func.functional_call(model, weights, x).square().sum()

    found = torch.func.grad(loss)(weights)
    assert_close(list(found.values()), gradients(by_modules(model), x))
    torch.func.vmap(model)(x)
    torch.func.jvp(model, (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        assert torch.autograd.forward_ad.unpack_dual(model(dual)).tangent is not None
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() == 2 * 20 * (5 * 16 + 5 * 16 * 16 + 16 * 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
    assert not calls


def test_a_gradient_by_slopes_is_there(model, x, calls):
    slopes = {name: b.clone().requires_grad_() for name, b in model.named_buffers() if name.endswith("slope")}
    torch.func.functional_call(model, slopes, x).sum().backward()
    assert all(bool(s.grad.any()) for s in slopes.values())
    assert not calls


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda model: model[2].requires_grad_(False), 0),
        (lambda model: model[2].register_parameter("bias", None), 0),
        (lambda model: setattr(model[3], "centered", False), 1),
        (lambda model: setattr(model[3], "forward", torch.sin), 0),
        (lambda model: model[2].register_parameter("weight", nn.Parameter(Scaled(model[2].weight.detach()))), 0),
        (lambda model: nn.utils.parametrizations.weight_norm(model[2]), 1),
        (lambda model: model.__setitem__(3, nn.Tanh()), 1),
        (lambda model: model.__setitem__(6, nn.Sequential(nn.Linear(16, 16))), 1),  # a layer within is one of the row
    ],
)
def test_layers_of_another_kind_run_as_they_are(model, x, calls, change, rows):
    change(model)
    assert_close([model(x)], [nn.Sequential(*model.children())(x)])
    model(x).sum().backward()
    assert len(calls) == 2 * rows


@pytest.mark.parametrize("widths", [(16, 16, 8, 8, 8), (16, 8, 8, 4, 16, 16), (16, 8, 4, 16, 4), (16,), (16, 16)])
@pytest.mark.parametrize("before", [(), (nn.Flatten(), nn.LayerNorm(5))])
def test_every_row_of_layers_of_one_width_is_computed_as_one(x, calls, widths, before):
    torch.manual_seed(0)
    layers = list(before)
    for inputs, outputs in itertools.pairwise((5, *widths)):
        layers += [nn.Linear(inputs, outputs), SigmoidCore(outputs, alpha=4.0, centered=True)]
    model = sc.networks.Chain(*layers, nn.Dropout(), nn.Linear(widths[-1], 3)).eval()
    assert_close([model(x)], [by_modules(model)(x)])
    assert_close(gradients(model, x), gradients(by_modules(model), x))
    assert len(calls) == 2 * sum(len(list(row)) > 1 for _, row in itertools.groupby(widths))


def test_trained_slopes_get_their_gradients(x, calls):
    model = sc.MLP(5, 16, 4, 3, activation=lambda n: SigmoidCore(n, centered=True, trainable=True))
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not calls


def test_an_input_that_does_not_fit_gives_pytorchs_error(model):
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        model(torch.zeros(20, 4))
    with pytest.raises(RuntimeError, match="dtype"):
        model(torch.zeros(20, 5, dtype=torch.float64))
