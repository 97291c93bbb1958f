"""Slopes that follow the profile: which change and by how much, in chains, in graphs and beside products."""

import copy
import math

import numpy as np
import pytest
import torch
from core_support.equalized import DEPTH, assert_same, cores, idle, log_profile, slopes, snapshot, step
from support.labelled import Labelled
from torch import nn

from sigmoidcore import MLP, Equalizer, Monitor, SigmoidCore, calibrate, gradient_profile, prepare
from sigmoidcore.equalizer.profile_rule import ProfileRule
from sigmoidcore.observation.graph import Trunk

pytestmark = pytest.mark.filterwarnings("ignore:no parameter of the model is in the optimizer")  # of `idle`


def softened(difference):
    """By how much a slope makes up for a difference of excesses: a tenth, and all of it from a factor of 20 on."""
    return difference * min(1.0, max(0.1, (difference / math.log(20)) ** 2))


def test_inside_the_band_nothing_is_touched_bit_for_bit(model, batch):
    cores(model)[3].slope.mul_(1.5)
    before, optimizer = snapshot(model), idle()
    with Equalizer(model, optimizer, every=1) as equalizer:
        for _ in range(5):
            step(model, optimizer, batch)
    assert all(1.2 < s.spread < 4 and (s.slopes, s.neurons) == (0, 0) for s in equalizer.history)
    assert_same(model, before)


@pytest.mark.parametrize("tolerance", [1.2, 2.0, 5.0])
@pytest.mark.parametrize("changes", [{2: 4.0, 5: 1 / 3}, {0: 12.0}, {3: 50.0}, {6: 9.0}, {6: 1 / 9}, {1: 3.0, 2: 3.0}])
def test_outside_the_band_slopes_are_divided_by_what_exceeds_it_at_most_by_2(model, batch, tolerance, changes):
    for layer, factor in changes.items():
        cores(model)[layer].slope.mul_(factor)
    logs = log_profile(model, batch)
    middle = sorted(logs)[DEPTH // 2]
    excess = [math.copysign(max(abs(g - middle) - math.log(tolerance), 0.0), g - middle) for g in logs]
    excess.append(excess[-1])  # the last core keeps its slope: it would change all layers alike
    change = [softened(excess[i + 1] - excess[i]) for i in range(DEPTH)]
    factors = [min(2.0, max(0.5, math.exp(c))) for c in change]
    before, optimizer = snapshot(model), idle()
    with Equalizer(model, optimizer, tolerance=tolerance, floor=1e-9) as equalizer:
        step(model, optimizer, batch)
    sample = equalizer.history[0]
    assert sample.slopes == sum(f != 1 for f in factors)
    np.testing.assert_allclose(sample.log_sizes, logs, atol=1e-4)
    assert sample.spread == pytest.approx(math.exp(max(logs) - min(logs)), rel=1e-4)
    for layer, core in enumerate(cores(model)):
        old = before[f"{2 * layer + 1}.slope"]
        torch.testing.assert_close(core.slope, old * factors[layer], rtol=1e-3, atol=0)
        core.slope.copy_(old)
    assert_same(model, before)  # no weight, no shift


def test_a_slope_changes_by_2_at_most_and_the_profile_comes_back_to_the_band(model, batch):
    cores(model)[2].slope.mul_(1 / 20)
    start, optimizer = slopes(model), idle()
    with Equalizer(model, optimizer, every=1) as equalizer:
        step(model, optimizer, batch)
        assert float((slopes(model) / start).max()) == pytest.approx(2.0)
        for _ in range(20):
            step(model, optimizer, batch)
    # 2 above the median to 2 below, and what is just outside
    assert equalizer.history[-1].spread < 5 < 10 < equalizer.history[0].spread


def test_slopes_that_were_right_once_follow_no_profile(model, batch):
    optimizer = idle()
    with Equalizer(model, optimizer, every=1) as first:
        step(model, optimizer, batch)
    cores(model)[2].slope.mul_(1 / 20)
    before = slopes(model)
    with Equalizer(model, optimizer, every=1) as again:
        again.load_state_dict(first.state_dict())
        step(model, optimizer, batch)
    assert first.history[-1].spread < 2 < 10 < again.history[-1].spread
    assert torch.equal(slopes(model), before)


@pytest.mark.parametrize("stacked", [True, False])
def test_the_exception_rests_on_steps_whose_loss_contains_derivatives(model, batch, stacked):
    cores(model)[3].slope.mul_(20.0)
    before, optimizer = slopes(model), idle()
    network = model if stacked else nn.Sequential(*model.children())
    with Equalizer(network, optimizer, every=1, floor=1e-9) as equalizer:
        for derivative in (True, True, False):
            at = batch[0].clone().requires_grad_()
            output = network(at).square().sum()
            if derivative:
                output = torch.autograd.grad(output, at, create_graph=True)[0].square().sum()
            output.backward()
            optimizer.step()
            assert torch.equal(slopes(model), before) == derivative
    assert [s.slopes > 0 for s in equalizer.history] == [False, False, True]
    assert equalizer.history[0].spread > 4


def by_jacrev(model, x):
    return torch.func.vmap(torch.func.jacrev(lambda one: model(one.unsqueeze(0)).sum()))(x)


def in_forward_mode(model, x):
    with torch.autograd.forward_ad.dual_level():
        return torch.autograd.forward_ad.unpack_dual(model(torch.autograd.forward_ad.make_dual(x, x))).tangent


@pytest.mark.parametrize("derivatives", [by_jacrev, in_forward_mode])
def test_the_exception_rests_where_a_transform_or_forward_mode_has_taken_derivatives(model, batch, derivatives):
    cores(model)[3].slope.mul_(20.0)
    before, optimizer = slopes(model), idle()
    with Equalizer(model, optimizer, every=1, floor=1e-9) as equalizer:
        for derivative in (True, False):
            optimizer.zero_grad()
            more = derivatives(model, batch[0]).square().sum() if derivative else 0.0
            (model(batch[0]).square().sum() + more).backward()
            optimizer.step()
            assert torch.equal(slopes(model), before) == derivative
    assert [sample.slopes > 0 for sample in equalizer.history] == [False, True]
    monitored = torch.optim.SGD(model.parameters(), lr=0.0)
    with Monitor(model, every=1) as monitor:
        (model(batch[0]).square().sum() + derivatives(model, batch[0]).square().sum()).backward()
        monitored.step()
    assert monitor.measurements[-1].differentiated


@pytest.mark.parametrize("stacked", [True, False])
def test_tensors_with_labels_are_read_as_their_numbers(model, batch, stacked):
    x = batch[0].as_subclass(Labelled)
    profiles = [gradient_profile(model, inputs).sizes for inputs in (x, batch[0])]
    assert torch.equal(*profiles)
    twins = [copy.deepcopy(model) for _ in range(2)]
    for set_slopes in (calibrate, prepare):
        for twin, inputs in zip(twins, (x, batch[0]), strict=True):
            torch.manual_seed(0)
            set_slopes(twin, inputs)
        assert all(torch.equal(*pair) for pair in zip(*(t.state_dict().values() for t in twins), strict=True))
    network = model if stacked else nn.Sequential(*model.children())
    optimizer, samples = idle(), []
    for inputs in (x, batch[0]):
        with Equalizer(network, optimizer, every=1) as equalizer:
            network(inputs).square().sum().backward()
            optimizer.step()
        samples.append(equalizer.history[-1])
    assert samples[0].log_sizes == pytest.approx(samples[1].log_sizes, abs=1e-5)  # with labels, not computed as one


@pytest.mark.parametrize("factor", [math.nan, math.inf])
@pytest.mark.parametrize("every", [7, "auto"])
def test_gradients_that_are_not_finite_move_nothing_and_the_history_says_nan(model, batch, factor, every):
    cores(model)[2].slope.mul_(8.0)
    with torch.no_grad():
        model[8].bias[0] += 12 / cores(model)[4].slope[0]
    before, optimizer = snapshot(model), idle()
    with Equalizer(model, optimizer, every=every) as equalizer:
        step(model, optimizer, batch, factor)
        assert_same(model, before)
        sample = equalizer.history[0]
        assert math.isnan(sample.spread)
        assert (sample.slopes, sample.neurons) == (0, 0)
        for _ in range(7):
            step(model, optimizer, batch)
    assert equalizer.history[1].step == (7 if every == 7 else 1)
    assert math.isfinite(equalizer.history[1].spread)
    assert equalizer.history[1].slopes > 0


def test_trained_slopes_are_corrected_too(batch):
    model = MLP(8, 16, DEPTH, 3, activation=lambda width: SigmoidCore(width, centered=True, trainable=True))
    prepare(model, torch.randn(200, 8))
    with torch.no_grad():
        cores(model)[2].log_slope += math.log(8)
    before, optimizer = cores(model)[2].alpha.clone(), idle()
    with Equalizer(model, optimizer, floor=1e-9) as equalizer:
        step(model, optimizer, batch)
    assert equalizer.history[0].slopes > 0
    assert bool((cores(model)[2].alpha < before).all())


class Joined(nn.Module):
    """Cores 0 to 3: the first feeds the second and the third, which are joined for the last."""

    def __init__(self, norm):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.cores = nn.ModuleList(SigmoidCore(8, centered=True) for _ in range(4))
        self.norm = nn.LayerNorm(8) if norm else nn.Identity()
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        a, b, c, d = (lambda x, i=i: self.cores[i](self.linears[i](x)) for i in range(4))
        x = self.norm(a(x))
        return self.head(d(b(x) + c(x)))


@pytest.mark.parametrize("norm", [False, True])
def test_slopes_of_the_trunk_follow_but_not_those_of_branches_and_before_a_normalisation(norm, batch):
    torch.manual_seed(0)
    model, optimizer = Joined(norm), idle()
    calibrate(model, batch[0], saturation=0.5)
    for core, factor in zip(model.cores, (1 / 5, 1 / 4, 4, 1), strict=True):
        core.slope.mul_(factor)
    before = [core.slope.clone() for core in model.cores]
    with Equalizer(model, optimizer, tolerance=1.05, every=1) as equalizer:
        step(model, optimizer, batch)
    assert equalizer.history[0].slopes == (not norm)
    assert all(torch.equal(core.slope, slope) for core, slope in zip(model.cores[1:], before[1:], strict=True))
    assert bool((model.cores[0].slope > before[0]).all()) != norm


class Gated(nn.Module):
    """Core 0 feeds core 1, through a gate that core 2 is in; cores 1 and 3 are a chain."""

    def __init__(self):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(8, 8) for _ in range(5))
        self.cores = nn.ModuleList(SigmoidCore(8, centered=True) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        a, b, c, d = (lambda x, i=i: self.cores[i](self.linears[i](x)) for i in range(4))
        return self.head(d(b((y := a(x)) * torch.sigmoid(self.linears[4](c(y))))))


@pytest.mark.parametrize("changed", [0, 2])
def test_a_side_branch_that_ends_in_a_product_is_left_alone_and_the_trunk_around_it_is_not(batch, changed):
    model, optimizer = Gated(), idle()
    calibrate(model, batch[0])
    model.cores[changed].slope.mul_(1 / 10)
    with torch.no_grad():
        model.linears[2].bias[0] += 100  # a saturated neuron of the gate
    before = [core.slope.clone() for core in model.cores]
    with Equalizer(model, optimizer, every=1) as equalizer:
        for _ in range(20):
            step(model, optimizer, batch)
    assert sum(sample.neurons for sample in equalizer.history) == 0
    assert torch.equal(model.cores[2].slope, before[2])
    assert changed == 2 or bool((model.cores[0].slope > before[0]).all())


def test_ten_changes_that_bring_no_gradient_nearer_to_level_are_undone(model):
    before, rule = slopes(model), ProfileRule(cores(model), 2.0)
    trunk, errors = Trunk(list(range(DEPTH)), set()), 3 * torch.eye(DEPTH, dtype=torch.float64)[2]
    relative, enough = [torch.ones(16)] * DEPTH, torch.ones(DEPTH, dtype=torch.bool)
    assert [len(rule.follow(errors, relative, trunk, enough)) for _ in range(11)] == [2] * 11
    torch.testing.assert_close(slopes(model), before)
    assert rule.follow(errors, relative, trunk, enough) == []


@pytest.mark.parametrize("steps", [1, 4], ids=["one batch", "accumulated"])
def test_a_gradient_that_fewer_than_eight_samples_make_moves_no_slope(model, batch, steps):
    cores(model)[2].slope.mul_(1 / 20)
    inputs, targets = batch[0][:8].repeat(6, 1), batch[1][:8].repeat(6)
    before, optimizer = snapshot(model), idle()

    def train(samples):
        with Equalizer(model, optimizer, every=1) as equalizer:
            weights = torch.zeros(48).index_fill(0, torch.tensor(samples), 1.0)
            for part in torch.arange(48).chunk(steps):
                losses = nn.functional.cross_entropy(model(inputs[part]), targets[part], reduction="none")
                (losses * weights[part]).sum().backward()
            optimizer.step()
            model.zero_grad()
        return equalizer.history[0]

    few = train(list(range(0, 42, 7)))  # six of them
    assert few.spread > 10
    assert few.slopes == 0
    assert_same(model, before)
    assert train(list(range(48))).slopes > 0
