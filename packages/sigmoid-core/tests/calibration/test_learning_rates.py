"""The learning-rate rule against rates computed by hand."""

import math
import re

import numpy as np
import pytest
import torch
from core_support.networks import Net, Towers, convolutions
from torch import nn

from sigmoidcore import MLP, SigmoidCore, convert, depth_scaled_lr, prepare
from sigmoidcore.calibration import recurrent_solver
from sigmoidcore.calibration.orthogonal import make_orthogonal
from sigmoidcore.nn import CoreRNN

ROUNDING = 0.05
"""Rates are rounded to two digits, so that equal layers share a group."""


def rates(model, lr=0.03, optimizer="adam"):
    """The rate of each parameter by name."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = depth_scaled_lr(model, lr, optimizer=optimizer)
    return {names[id(p)]: group["lr"] for group in groups for p in group["params"]}


def orthogonal(model):
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.orthogonal_(module.weight)
    return model


FIRST, HIDDEN, LAST, RECURRENT = 400, 50, 16, 370
"""The constants that the docstring states."""


def size(weight):
    """The smaller, for columns and rows, of sqrt(number / min) over the RMS of their inverse norms; 1 if orthogonal."""
    sizes = []
    for lines in (weight.t().tolist(), weight.tolist()):
        inverse = [1 / math.sqrt(sum(v * v for v in line)) for line in lines if any(line)]
        mean = math.sqrt(len(inverse) / sum(v * v for v in inverse))
        sizes.append(mean * math.sqrt(len(lines) / min(weight.shape)))
    return min(sizes)


def directions(*shapes):
    """Participation ratio of the singular values behind each of several orthogonal weights, from 1,000 draws."""
    signal = torch.eye(shapes[0][1], dtype=torch.float64).expand(1000, -1, -1)
    found = []
    for outputs, inputs in shapes:
        frame = torch.linalg.qr(torch.randn(1000, max(outputs, inputs), min(outputs, inputs), dtype=torch.float64))[0]
        signal = (frame if outputs > inputs else frame.mT) @ signal
        gram = signal @ signal.mT
        found.append(float(gram.diagonal(dim1=1, dim2=2).sum(1).square().mean() / gram.square().sum((1, 2)).mean()))
    return found


def tanhs():
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    convert(model)
    return model


class Residual(nn.Module):
    def __init__(self, width=16, blocks=3):
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.blocks = nn.ModuleList(MLP(width, width, 1, width) for _ in range(blocks))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


@pytest.mark.parametrize("depth", [1, 2, 5, 10, 100])
@pytest.mark.parametrize("lr", [0.03, 0.1])
def test_orthogonal_layers_get_a_constant_times_lr_over_depth_from_10_on_and_the_last_a_quarter_of_lr(depth, lr):
    found = rates(orthogonal(MLP(64, 64, depth, 10)), lr)
    for layer in range(depth):
        # 50 / 64 = 0.78125; 400 / 64 = 6.25; 16 / 64 = 0.25
        expected = (0.78125 if layer else 6.25) * lr / max(10, depth)
        assert found[f"{2 * layer}.weight"] == pytest.approx(expected, rel=ROUNDING)
        assert found[f"{2 * layer}.bias"] == pytest.approx(expected, rel=ROUNDING)
    assert found[f"{2 * depth}.weight"] == found[f"{2 * depth}.bias"] == pytest.approx(0.25 * lr, rel=ROUNDING)


@pytest.mark.parametrize(("inputs", "width", "depth", "outputs"), [(196, 96, 20, 10), (2, 40, 10, 1), (64, 64, 30, 10)])
def test_layers_of_one_width_share_equally_also_with_untouched_weights(inputs, width, depth, outputs):
    model = MLP(inputs, width, depth, outputs)
    found = rates(model, lr=0.01)
    sizes = [size(model[2 * layer].weight.detach()) for layer in range(depth)]
    for layer in range(depth):
        typical = float(np.median(sizes[1:])) if layer else sizes[0]
        expected = 0.01 / depth * (HIDDEN if layer else FIRST) / math.sqrt(model[2 * layer].weight.numel()) * typical
        assert found[f"{2 * layer}.weight"] == pytest.approx(expected, rel=ROUNDING, abs=0)
    assert found[f"{2 * depth}.weight"] == pytest.approx(0.01 * LAST / width, rel=ROUNDING, abs=0)


@pytest.mark.parametrize("order", ["branch first", "trunk first"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_towers_that_join_have_the_rates_that_each_has_alone(order, optimizer):
    branch, trunk = orthogonal(MLP(50, 40, 4, 40)), orthogonal(MLP(1, 40, 4, 40))
    net = Towers(branch, trunk) if order == "branch first" else Towers(trunk, branch)
    found = rates(net, optimizer=optimizer)
    for name, tower in net.named_children():
        alone = rates(tower, optimizer=optimizer)
        for layer in (0, 2, 6):
            assert found[f"{name}.{layer}.weight"] == pytest.approx(alone[f"{layer}.weight"], rel=0.25)


def test_layers_behind_a_single_feature_are_not_frozen_and_named():
    net = orthogonal(nn.Sequential(MLP(8, 16, 4, 1), MLP(1, 16, 4, 8)))
    with pytest.warns(UserWarning, match=r"Linear\(in_features=16, out_features=1, bias=True\) passes on a single"):
        found = rates(net)
    assert found["1.2.weight"] > 0.005 * found["0.2.weight"]


def test_shares_follow_the_directions_that_orthogonal_weights_of_these_shapes_pass_on():
    widths = [30, 12, 20, 20, 5, 8, 2, *[8] * 20, 3]  # so many layers that a tenth limits none
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    model = orthogonal(nn.Sequential(*(nn.Linear(inputs, outputs) for outputs, inputs in shapes)))
    more = [found - 1 for found in directions(*shapes[:-1])]
    found = rates(model)
    for layer in range(1, len(shapes) - 1):
        share, weight = min(0.1, more[layer] / sum(more)), model[layer].weight.detach()
        expected = 0.03 * share * HIDDEN / math.sqrt(weight.numel()) * size(weight)
        assert found[f"{layer}.weight"] == pytest.approx(expected, rel=2 * ROUNDING)


MODELS = {
    "MLP": lambda: MLP(8, 16, 12, 3),
    "convolutions": lambda: nn.Sequential(nn.Unflatten(1, (2, 2, 2)), convolutions(2, 8, 4, 3, size=2)),
    "residual": Residual,
    "converted": tanhs,
}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("name", MODELS)
def test_a_loop_that_loads_trained_weights_before_it_makes_the_optimizer_ends_with_the_same_weights(name, optimizer):
    x, members = torch.randn(60, 8), []

    def train(steps, saved=None):
        torch.manual_seed(0)
        model = MODELS[name]()
        prepare(model, x)
        if saved is not None:
            model.load_state_dict(saved[0])
        groups = depth_scaled_lr(model, optimizer=optimizer)
        names = {id(p): name for name, p in model.named_parameters()}
        members.append([[names[id(p)] for p in group["params"]] for group in groups])
        training = torch.optim.SGD(groups, momentum=0.5) if optimizer == "sgd" else torch.optim.Adam(groups)
        if saved is not None:
            training.load_state_dict(saved[1])
        for _ in range(steps):
            training.zero_grad()
            nn.functional.cross_entropy(model(x), x[:, :3].argmax(1)).backward()
            training.step()
        return model.state_dict(), training.state_dict()

    torch.testing.assert_close(train(10, train(30)), train(40), rtol=0, atol=0)
    assert members[0] == members[1]


def test_a_layer_that_prepare_made_small_has_its_own_rate_among_others_of_its_shape():
    parts = {"a": MLP(16, 16, 2, 16), "b": MLP(16, 16, 2, 16), "head": nn.Linear(16, 3)}
    towers = Net(lambda m, x: m.head(m.a(x) * m.b(x)), **parts)
    for model, x, name in ((towers, torch.randn(60, 16), "b.0"), (Residual(), torch.randn(60, 8), "blocks.0.0")):
        prepare(model, x)
        small = size(model.get_parameter(f"{name}.weight").detach())
        assert small < 0.5
        expected = 0.03 * 0.1 * HIDDEN / 16 * small
        assert rates(model)[f"{name}.weight"] == rates(model)[f"{name}.bias"] == pytest.approx(expected, rel=ROUNDING)


@pytest.mark.parametrize(("steps", "hidden"), [(5, 16), (64, 128)])
def test_a_recurrent_layers_rate_falls_with_the_steps_that_it_was_prepared_for_and_with_its_width(steps, hidden):
    model = Net(lambda m, x: m.head(m.rnn(x)[0][-1]), rnn=CoreRNN(3, hidden), head=nn.Linear(hidden, 10))
    untouched = rates(model)
    assert untouched["rnn.weight_hh_l0"] == pytest.approx(0.03 * RECURRENT / hidden, rel=ROUNDING)
    recurrent_solver.solve_layer(model.rnn, torch.randn(steps, 20, 3), None)
    found = rates(model)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"):
        assert found[f"rnn.{name}"] == pytest.approx(0.03 / steps * RECURRENT / hidden, rel=ROUNDING)
    assert found["head.weight"] == found["head.bias"] == pytest.approx(0.03 * 128 / hidden, rel=ROUNDING)


@pytest.mark.parametrize("factor", [1e-6, 1e-2, 37.0, 1e6])
def test_hidden_weights_times_c_get_rates_times_c_the_first_bias_at_most_that_of_size_1_and_the_last_as_before(factor):
    model = MLP(20, 30, 12, 4)
    before = rates(model)
    with torch.no_grad():
        for p in model.parameters():
            p *= factor
    first = size(model[0].weight.detach())
    for name, rate in rates(model).items():
        expected = before[name] * (1 if name.startswith("24.") else factor)
        expected *= min(1.0, 1 / first) if name == "0.bias" else 1
        assert rate == pytest.approx(expected, rel=2 * ROUNDING, abs=0)


def test_unlike_columns_give_the_rate_of_the_smaller_ones_and_columns_of_zero_are_left_out():
    model = nn.Sequential(nn.Linear(2, 64), SigmoidCore(64), nn.Linear(64, 1))
    with torch.no_grad():
        model[0].weight[:, 0], model[0].weight[:, 1] = 1.0, 1e6
    # Harmonic mean of 8 and 8e6, of two columns: 8 sqrt(2); fan_in over the smaller dimension is 1.
    assert rates(model)["0.weight"] == pytest.approx(0.003 * FIRST / math.sqrt(128) * 8 * math.sqrt(2), rel=ROUNDING)
    model = orthogonal(nn.Sequential(nn.Linear(64, 64), SigmoidCore(64), nn.Linear(64, 10)))
    with torch.no_grad():
        model[0].weight[:, :32] = 0.0
    assert rates(model)["0.weight"] == pytest.approx(0.003 * FIRST / 64 * math.sqrt(0.5), rel=ROUNDING)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("layer", [0, 2, 6])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30, math.nan, math.inf])
def test_all_rates_are_positive_and_finite_whatever_one_weight_is(value, layer, optimizer):
    model = nn.Sequential(*MLP(64, 64, 3, 64), nn.LayerNorm(64))
    with torch.no_grad():
        model[layer].weight.fill_(value)
    assert all(0 < rate < math.inf for rate in rates(model, optimizer=optimizer).values())


def test_every_parameter_is_in_exactly_one_group_also_those_of_other_layers_and_trainable_cores():
    model = nn.Sequential(
        nn.Conv1d(1, 2, 3),
        nn.Flatten(),
        MLP(12, 8, 4, 3, activation=lambda width: SigmoidCore(width, trainable=True)),
        nn.LayerNorm(3),
    )
    groups = depth_scaled_lr(model)
    grouped = [p for group in groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))
    assert rates(model)["3.weight"] == rates(model)["2.1.log_slope"] == 0.03 / 5  # four Linears, one convolution


def test_parameters_that_require_no_gradient_are_left_out():
    model = MLP(8, 8, 3, 8)
    model[2].weight.requires_grad_(False)
    model[4].bias.requires_grad_(False)
    assert rates(model).keys() == {name for name, _ in model.named_parameters()} - {"2.weight", "4.bias"}


def test_a_model_with_nothing_to_train_is_an_error():
    for model in (nn.Sequential(SigmoidCore(3)), MLP(2, 2, 1, 1).requires_grad_(False)):
        with pytest.raises(ValueError, match="no parameters that require a gradient: nothing to train"):
            depth_scaled_lr(model)


def test_a_convolutions_rate_falls_with_the_taps_of_its_kernel():
    """Adam moves all taps by the same: the same change of the function needs a rate smaller by their root."""

    def rate(size: int) -> float:
        layers = [nn.Conv2d(8, 8, size, padding=size // 2) for _ in range(4)]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 36, 2))
        for layer in layers:
            make_orthogonal(layer, torch.Generator().manual_seed(0))
        return rates(model)["2.weight"]

    assert rate(1) == pytest.approx(3 * rate(3), rel=ROUNDING)
    assert rate(1) == pytest.approx(5 * rate(5), rel=ROUNDING)


@pytest.mark.parametrize("depth", [10, 30, 300])
def test_sgd_divides_one_rate_among_orthogonal_layers(depth):
    model = orthogonal(MLP(64, 64, depth, 64))
    found = rates(model, optimizer="sgd")
    for layer in range(depth):
        assert found[f"{2 * layer}.weight"] == pytest.approx(3 / depth / 64, rel=ROUNDING)
        assert found[f"{2 * layer}.bias"] == pytest.approx(3 / depth / 64, rel=ROUNDING)
    assert found[f"{2 * depth}.weight"] == pytest.approx(3 / 64, rel=ROUNDING)


@pytest.mark.parametrize(("depth", "width"), [(10, 32), (40, 32), (20, 8)])
def test_a_step_of_sgd_changes_the_outputs_of_prepared_networks_by_the_same(depth, width):
    """r_l |d out / d W_l|^2 is 3 * share_l, and that of biases at most about as much, whatever depth and width are."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 16, generator=generator)
    totals, of_biases = [], []
    for seed in range(3):
        torch.manual_seed(seed)
        model = MLP(16, width, depth, 1)
        prepare(model, x)
        rate = rates(model, optimizer="sgd")
        hidden = [name for name, _ in model.named_parameters()][:-2]
        for sample in x[:30]:
            gradients = torch.autograd.grad(model(sample[None]).sum(), [model.get_parameter(name) for name in hidden])
            changes = {name: rate[name] * float(g.square().sum()) for name, g in zip(hidden, gradients, strict=True)}
            totals.append(sum(c for name, c in changes.items() if name.endswith("weight")))
            of_biases.append(sum(c for name, c in changes.items() if name.endswith("bias")))
    assert 1.5 < sum(totals) / len(totals) < 6
    assert sum(of_biases) / len(of_biases) < 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"lr": lr}, f"lr must be a positive finite number, got {lr}") for lr in (0.0, -0.1, math.inf, math.nan)),
        *(({"optimizer": name}, "train with Adam first, then use torch.optim.LBFGS") for name in ("lbfgs", "L-BFGS")),
        ({"optimizer": "lion"}, "optimizer must be 'adam' or 'sgd', got 'lion'"),
    ],
)
def test_an_invalid_argument_is_an_error_that_names_it(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        depth_scaled_lr(MLP(2, 2, 1, 1), **options)


def test_sgd_refuses_recurrent_layers():
    for layer in (CoreRNN(3, 4), nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 4))):
        with pytest.raises(ValueError, match="recurrent layer, for which there is no rule for SGD: use Adam"):
            depth_scaled_lr(layer, optimizer="sgd")
