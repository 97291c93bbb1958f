"""The norm rule: alpha follows u / rms(x) beyond the band, and stays inside it."""

import copy
import itertools
import math

import pytest
import torch
from core_support.equalized import assert_same, idle, snapshot
from torch import nn

import sigmoidcore as sc
from sigmoidcore.nn import BoundedNorm


def network(*more, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), *more, nn.Linear(16, 3))
    sc.convert(model, norms=True)
    x = torch.randn(100, 4)
    sc.calibrate(model, x)
    return model, x


def level(model, x):
    """alpha rms(x) of the norm."""
    with torch.no_grad():
        return float(model[1].core.slope) / 2 * float(model[0](x).square().mean().sqrt())


def scale(model, factor):
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.mul_(factor)


def step(model, optimizer, x):
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("factor", [0.51, 0.9, 1.9])
def test_inside_the_band_nothing_changes(factor):
    model, x = network()
    scale(model, factor)
    before, optimizer = snapshot(model), idle()
    with sc.Equalizer(model, optimizer, every=1) as equalizer:
        for _ in range(5):
            step(model, optimizer, x)
    assert_same(model, before)
    assert [sample.norms for sample in equalizer.history] == [0] * 5


@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("every", [1, "auto"])
def test_beyond_it_alpha_goes_a_tenth_of_the_way_each_step_until_it_is_at_the_level(factor, every):
    model, x = network()
    scale(model, factor)
    optimizer, levels = idle(), [level(model, x)]
    gain = model[1].gain.clone()
    with sc.Equalizer(model, optimizer, every=every):
        for _ in range(40):
            step(model, optimizer, x)
            levels.append(level(model, x))
    errors = [math.log(value / 0.5) for value in levels]
    for before, after in itertools.pairwise(errors):
        expected = 0.9 * before if abs(before) > 0.15 * math.log(2) else before
        assert after == pytest.approx(expected, abs=1e-5)
    assert 0.09 < abs(errors[-1]) < 0.15 * math.log(2)
    assert torch.equal(model[1].gain, gain)


def test_other_cores_keep_their_rules_and_the_norms_are_not_levelled_with_them():
    model, x = network(nn.Linear(16, 16), sc.SigmoidCore(16, centered=True, alpha=4.0))
    model[1].core.set_slope(1.1 * float(model[1].core.slope))
    before, optimizer = float(model[1].core.slope), idle()
    with sc.Equalizer(model, optimizer, every=1) as equalizer:
        model[3].set_shift(torch.full((16,), 1e4))  # all of its neurons are saturated
        step(model, optimizer, x)
    sample = equalizer.history[0]
    assert (sample.neurons, sample.norms, len(sample.log_sizes)) == (16, 0, 1)
    assert float(model[1].core.slope) == before


def test_evaluations_and_steps_between_samples_do_not_count():
    model, x = network()
    optimizer = idle()
    with sc.Equalizer(model, optimizer, every=2) as equalizer:
        step(model, optimizer, x)
        with torch.no_grad():
            model(1e3 * x)
        model.eval()
        model(1e3 * x)
        model.train()
        step(model, optimizer, 1e3 * x)
        step(model, optimizer, x)
    assert [(sample.step, sample.norms) for sample in equalizer.history] == [(0, 0), (2, 0)]


def test_numbers_that_are_not_finite_never_enter_alpha():
    model, x = network()
    before, optimizer = snapshot(model), idle()
    with sc.Equalizer(model, optimizer, every=1) as equalizer:
        step(model, optimizer, torch.full_like(x, torch.inf))
        step(model, optimizer, torch.full_like(x, torch.nan))
    assert_same(model, before)
    assert [sample.norms for sample in equalizer.history] == [0, 0]


def test_a_dynamic_tanh_that_was_not_calibrated_keeps_the_level_of_its_first_sample():
    model, x = network()
    model[1] = BoundedNorm.of_tanh(torch.tensor(4.0), None, None)
    found, optimizer = level(model, x), idle()
    with sc.Equalizer(model, optimizer, every=1) as equalizer:
        step(model, optimizer, x)
        assert float(model[1].level) == pytest.approx(found, rel=1e-5)
        scale(model, 3.0)
        step(model, optimizer, x)
    assert [sample.norms for sample in equalizer.history] == [0, 1]


def test_a_training_goes_on_from_its_state_as_if_it_had_not_stopped():
    def train(model, optimizer, equalizer, steps):
        generator = torch.Generator().manual_seed(equalizer.history[-1].step if equalizer.history else 0)
        for _ in steps:
            step(model, optimizer, 3 * torch.randn(50, 4, generator=generator))

    def fresh():
        model, _ = network()
        optimizer = torch.optim.Adam(model.parameters(), 0.1)
        return model, optimizer, sc.Equalizer(model, optimizer, every=2)

    model, optimizer, equalizer = fresh()
    train(model, optimizer, equalizer, range(9))
    state = copy.deepcopy([model.state_dict(), optimizer.state_dict(), equalizer.state_dict()])
    train(model, optimizer, equalizer, range(9))
    assert any(sample.norms for sample in equalizer.history)
    other = fresh()
    for part, saved in zip(other, state, strict=True):
        part.load_state_dict(saved)
    train(*other, range(9))
    assert_same(other[0], snapshot(model))
    assert list(other[2].history) == list(equalizer.history)


def test_compiled_steps_are_not_compiled_again_when_alpha_moves():
    model, x = network()
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    fast, optimizer = torch.compile(model, backend=backend, fullgraph=True), idle()
    with sc.Equalizer(model, optimizer, every=3):
        for factor in (1, 1, 1, 5, 1, 1, 1, 1):
            scale(model, factor)
            step(fast, optimizer, x)
    assert len(compiled) == 1
    assert level(model, x) < 5 * 0.5 * 0.9
