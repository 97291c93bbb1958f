"""The level rule after an accident: what a sudden change of weights or inputs does to a training."""

import copy
import warnings
from functools import partial

import pytest
import torch
from core_support.equalized import DEPTH, NEVER, cores, drive
from core_support.networks import Net
from torch import nn

import sigmoidcore as sc

WARM = 35
"""Steps after which the alarm knows what is usual."""


def linears(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)][:-1]


@torch.no_grad()
def weights_times_3(model):
    for layer in linears(model):
        layer.weight.mul_(3)


@torch.no_grad()
def half_of_the_neurons_shut(model):
    for layer in linears(model):
        layer.bias[::2] -= 40


def training(model, batch, lr=0.0, **options):
    """A step of a training without progress, unless `lr` says otherwise, and its Equalizer."""
    optimizer = torch.optim.SGD(model.parameters(), lr)
    equalizer = sc.Equalizer(model, optimizer, **options)

    def step(x=batch[0]):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), batch[1]).backward()
        optimizer.step()

    return step, equalizer


def steps(step, count, *args):
    for _ in range(count):
        step(*args)


@pytest.mark.parametrize("accident", [weights_times_3, half_of_the_neurons_shut])
def test_after_a_change_of_the_weights_the_network_computes_what_it_did(model, batch, accident):
    step, equalizer = training(model, batch)
    steps(step, WARM)
    before = model(batch[0])
    accident(model)
    assert not torch.allclose(model(batch[0]), before, atol=0.1)
    with pytest.warns(RuntimeWarning, match=f"{DEPTH} of {DEPTH} cores, the first of them '1'") as warned:
        steps(step, 3)
    assert warned[0].filename == __file__  # the line of the training, not of a hook
    torch.testing.assert_close(model(batch[0]), before, rtol=1e-3, atol=1e-4)
    assert equalizer.history[-1].recovered == DEPTH
    assert equalizer.history[-1].spread < 2


def test_after_an_accident_in_a_loss_that_contains_derivatives_too(model, batch):
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    equalizer = sc.Equalizer(model, optimizer)

    def step():
        x = batch[0].clone().requires_grad_()
        (by_inputs,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        optimizer.zero_grad()
        (by_inputs - 1).square().mean().backward()
        optimizer.step()

    steps(step, WARM)
    before = model(batch[0])
    weights_times_3(model)
    with pytest.warns(RuntimeWarning, match=f"{DEPTH} of {DEPTH} cores"):
        steps(step, 3)
    torch.testing.assert_close(model(batch[0]), before, rtol=1e-3, atol=1e-4)
    assert sum(sample.slopes + sample.neurons for sample in equalizer.history) == 0


def test_a_second_recovery_comes_without_a_warning_and_no_sooner_than_twenty_steps_later(model, batch):
    step, equalizer = training(model, batch)
    steps(step, WARM)
    weights_times_3(model)
    with pytest.warns(RuntimeWarning):
        steps(step, 3)
    weights_times_3(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(step, 10)
        assert sum(sample.recovered > 0 for sample in equalizer.history) == 1
        steps(step, 15)
        half_of_the_neurons_shut(model)
        steps(step, 4)
    assert sum(sample.recovered > 0 for sample in equalizer.history) == 2


def test_old_data_that_return_in_the_pause_restore_the_old_slopes_and_then_the_rule_rests(model, batch):
    step, equalizer = training(model, batch, tolerance=NEVER)
    steps(step, WARM)
    before = [core.slope.clone() for core in cores(model)]
    with pytest.warns(RuntimeWarning):
        steps(step, 4, 20 * batch[0] + 30)
    for x in (batch[0], 20 * batch[0] + 30, batch[0]):
        steps(step, 4, x)
    assert sum(sample.recovered > 0 for sample in equalizer.history) == 2
    for core, slope in zip(cores(model), before, strict=True):
        torch.testing.assert_close(core.slope, slope)


def test_what_leaves_the_profile_less_level_is_taken_back(model, batch):
    step, equalizer = training(model, batch, tolerance=NEVER)
    steps(step, WARM)
    with torch.no_grad():
        model[0].weight.mul_(4)  # which the first core makes up for
        model[7].slope.mul_(1e-3)  # somebody has set it: it stays
    slopes = [core.slope.clone() for core in cores(model)]
    steps(step, 3)
    assert equalizer.history[-1].step == WARM + 2
    assert all(sample.recovered == 0 for sample in equalizer.history)
    assert all(torch.equal(core.slope, slope) for core, slope in zip(cores(model), slopes, strict=True))
    assert all(p.grad is None for p in model.parameters())  # they were those of other slopes


def test_inputs_in_another_unit_change_the_first_core_alone(model, batch):
    step, equalizer = training(model, batch, tolerance=NEVER)  # whose gradient is then smaller: units of inputs
    steps(step, WARM)
    before, slopes = model(batch[0]), [core.slope.clone() for core in cores(model)]
    with pytest.warns(RuntimeWarning):
        steps(step, 3, 20 * batch[0] + 30)
    after = [core.slope for core in cores(model)]
    torch.testing.assert_close(after[0], slopes[0] / 20)
    assert equalizer.history[-1].recovered == 1
    assert all(torch.equal(a, b) for a, b in zip(after[1:], slopes[1:], strict=True))
    torch.testing.assert_close(model(20 * batch[0] + 30), before, rtol=1e-3, atol=1e-3)


def test_a_healthy_training_is_the_same_with_the_alarm(model, batch):
    plain, watched = (nn.Sequential(*each) for each in (copy.deepcopy(model), model))  # which run layer by layer
    (step, _), (watched_step, equalizer) = training(plain, batch, 0.02, every=1000), training(watched, batch, 0.02)
    steps(step, 60)
    steps(watched_step, 60)
    assert all(sample.recovered == 0 for sample in equalizer.history)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


def test_slopes_that_somebody_has_set_stay(model, batch):
    step, equalizer = training(model, batch)
    steps(step, WARM)
    torch.manual_seed(5)
    other = sc.MLP(8, 16, DEPTH, 3)
    sc.prepare(other, 5 * batch[0], saturation=2.0)
    weights_times_3(other)
    model.load_state_dict(other.state_dict())
    steps(step, 3)
    assert all(sample.recovered == 0 for sample in equalizer.history)
    torch.testing.assert_close(model[1].slope, other[1].slope, rtol=1, atol=0)


def test_samples_at_fixed_steps_are_all_that_there_are(model, batch):
    step, equalizer = training(model, batch, every=10)
    steps(step, WARM)
    weights_times_3(model)
    steps(step, 10)
    assert [sample.step for sample in equalizer.history] == [0, 10, 20, 30, 40]
    assert all(sample.recovered == 0 for sample in equalizer.history)


def test_a_training_that_is_resumed_recovers_like_one_that_was_not(model, batch):
    step, equalizer = training(model, batch, 0.01)
    steps(step, WARM)
    weights_times_3(model)
    with pytest.warns(RuntimeWarning):
        steps(step, 30)
    again = copy.deepcopy(model)
    other_step, other = training(again, batch, 0.01)
    other.load_state_dict(copy.deepcopy(equalizer.state_dict()))
    for network, one in ((model, step), (again, other_step)):
        half_of_the_neurons_shut(network)
        steps(one, 10)
    assert equalizer.history[-1].recovered + equalizer.history[-2].recovered >= DEPTH
    assert list(equalizer.history) == list(other.history)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_evaluations_do_not_recover(model, batch):
    step, equalizer = training(model, batch)
    steps(step, WARM)
    weights_times_3(model)
    steps(step, 2)  # it rings
    slope = model[1].slope.clone()
    with torch.no_grad():
        model(100 * batch[0])
    model.eval()
    model(100 * batch[0])
    model.train()
    assert torch.equal(model[1].slope, slope)
    with pytest.warns(RuntimeWarning):
        step()
    assert equalizer.history[-1].recovered == DEPTH


def test_a_checkpoint_that_runs_again_is_not_restored_in_the_backward_pass(model, batch):
    inner = nn.Sequential(*model[1:])

    again = partial(torch.utils.checkpoint.checkpoint, inner, use_reentrant=True)
    whole = Net(lambda m, x: again(m.first(x)), first=model[0], rest=inner)
    step, _ = training(whole, batch)
    steps(step, WARM)
    slope = model[1].slope.clone()
    weights_times_3(model)
    steps(step, 3)
    assert torch.equal(model[1].slope, slope)


def test_a_core_whose_shift_was_set_is_left_alone(model, batch):
    step, equalizer = training(model, batch, tolerance=NEVER)
    steps(step, WARM)
    with torch.no_grad():  # computes the same, with other preactivations
        model[2].bias += 5
        model[3].shift += 5
        model[0].weight.mul_(20)
    shift = model[3].shift.clone()
    with pytest.warns(RuntimeWarning, match=f"1 of {DEPTH} cores"):
        steps(step, 3)
    assert equalizer.history[-1].recovered == 1
    assert torch.equal(model[3].shift, shift)


def test_a_few_images_tell_no_level_however_many_positions_they_have():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), sc.SigmoidCore(4, dim=1), nn.Flatten(), nn.Linear(4 * 36, 3))
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 3
    for count, recovered in ((2, 0), (16, 1)):
        step, equalizer = training(copy.deepcopy(model), (images[:count], labels[:count]), tolerance=NEVER)
        steps(step, WARM)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            steps(step, 3, 100 * images[:count])
        assert len(equalizer.history) > 1
        assert sum(sample.recovered for sample in equalizer.history) == recovered


@pytest.mark.parametrize(
    "wrong",
    [{"levels": torch.ones(3)}, {"levels": None}, {"expected": ["0"]}, {"due": float("inf")}, {"quiet": "x"}],
    ids=str,
)
def test_a_wrong_state_changes_nothing(model, batch, wrong):
    step, equalizer = training(model, batch)
    steps(step, WARM)
    before = equalizer.state_dict()
    with pytest.raises(ValueError, match="not the state of an Equalizer"):
        equalizer.load_state_dict(before | {"recoveries": 3} | wrong)
    assert str(equalizer.state_dict()) == str(before)


def test_after_neurons_were_opened_their_core_recovers_too(model, batch):
    step, equalizer = training(model, batch, tolerance=NEVER)
    step()
    drive(model, 3, "offset", 8)
    steps(step, WARM + 20)
    assert sum(sample.neurons for sample in equalizer.history) == 16
    for _ in range(5):  # opening has changed the gradient: larger changes are usual now
        weights_times_3(model)
    with pytest.warns(RuntimeWarning, match=f"{DEPTH} of {DEPTH} cores"):
        steps(step, 4)


def test_a_loss_of_two_passes_of_which_one_evaluates_keeps_its_slopes(batch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), sc.SigmoidCore(8), nn.Linear(8, 8), sc.SigmoidCore(8), nn.Linear(8, 3))
    whole = nn.Module()
    whole.add_module("model", model)
    whole.forward = lambda x: model.eval()(x) + model.train()(x)
    step, equalizer = training(whole, batch, tolerance=NEVER)
    steps(step, WARM)
    for _ in range(6):
        weights_times_3(model)
    steps(step, 3)
    assert equalizer.history[-1].step == WARM + 2  # it rang
    assert equalizer.history[-1].recovered == 0


def test_a_step_that_is_sampled_because_of_an_alarm_moves_no_slope(model, batch):
    step, equalizer = training(model, batch, tolerance=1.0001)
    steps(step, WARM)
    assert all(sample.slopes > 0 for sample in equalizer.history)
    with torch.no_grad():
        model[-1].weight.mul_(100)  # all gradients rise, and no core reads anything else
    steps(step, 3)
    last = equalizer.history[-1]
    assert (last.step, last.slopes, last.recovered) == (WARM + 2, 0, 0)
