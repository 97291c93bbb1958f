"""A training that goes on from a state goes on bit for bit."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore.training import Recipe, Split, Training
from sigmoidcore.training.runs.checkpoints import Checkpoints
from sigmoidcore.training.runs.state import MismatchError

SIZES = {"in_features": 8, "width": 12, "depth": 6, "out_features": 3}


def split(samples=95):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 8, generator=generator)
    y = (x[:, 0] * 2).floor().clamp(-1, 1).long() + 1
    return Split("made up", x, y, x[:20], y[:20], 3)


def network():
    torch.manual_seed(0)
    model = sc.MLP(**SIZES)
    sc.prepare(model, split().train_x)
    return model


class Noisy(nn.Module):
    """A network whose forward pass draws from every generator."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 12), nn.Linear(12, 3)
        self.norm = nn.BatchNorm1d(12)

    def forward(self, x):
        scale = 1 + 0.1 * random.random() + 0.1 * float(np.random.rand())  # noqa: NPY002
        return self.last(nn.functional.dropout(torch.tanh(self.norm(self.first(x))), 0.3, self.training)) * scale


def final(make, recipe, stops, tmp_path):
    """The state at the end of a training that is stopped after each of these steps and made anew from a checkpoint."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state = None
    for stop in [*stops, None]:
        seed_all(5 if state is None else stop or 0)
        model = make()
        training = Training(model, split(), recipe, state)

        def on_step(progress, training=training, stop=stop):
            if progress.step == stop:
                checkpoints.save(training.state())
                raise KeyboardInterrupt

        result = training.run(on_step)
        assert result.interrupted == (stop is not None)
        if stop is None:
            return training.state(), result
        state = checkpoints.read().state
        assert state.step == stop
    raise AssertionError


def seed_all(seed):
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  the generator that such code uses


@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize("make", [network, Noisy])
@pytest.mark.parametrize("every", ["auto", 3])
def test_a_training_stopped_at_any_steps_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, make, every, seed):
    recipe = Recipe(epochs=3, batch_size=10, equalize=make is network, every=every, rates=rates(make), seed=seed)
    stops = sorted(random.Random(seed).sample(range(1, 30), 4))
    whole, result = final(make, recipe, [], tmp_path)
    parts, resumed = final(make, recipe, stops, tmp_path)
    assert result.losses == resumed.losses
    assert result.accuracies == resumed.accuracies
    for name in ("weights", "tensors"):
        first, second = getattr(whole, name), getattr(parts, name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key].nan_to_num(), second[key].nan_to_num()) for key in first)


def rates(make):
    return sc.depth_scaled_lr if make is network else lambda model, lr: [{"params": list(model.parameters()), "lr": lr}]


@pytest.mark.parametrize("stop", [9, 10, 30])
def test_a_training_can_be_stopped_at_the_end_of_an_epoch(tmp_path, stop):
    recipe = Recipe(epochs=3, batch_size=10)
    whole, _ = final(network, recipe, [], tmp_path)
    parts, _ = final(network, recipe, [stop], tmp_path)
    assert all(torch.equal(whole.weights[key], parts.weights[key]) for key in whole.weights)


def test_a_state_of_another_network_or_another_recipe_is_refused(tmp_path):
    recipe = Recipe(epochs=1, batch_size=10)
    state, _ = final(network, recipe, [], tmp_path)
    for sizes in ((8, 11, 6, 3), (8, 12, 5, 3)):
        with pytest.raises(MismatchError, match="belong to another model"):
            Training(sc.MLP(*sizes), split(), recipe, state)
    with pytest.raises(MismatchError, match="the state is of a training of 10 steps, this one has 20"):
        Training(network(), split(), Recipe(epochs=2, batch_size=10), state)


def test_a_loss_that_is_not_finite_names_the_step_the_layer_and_the_remedy():
    model = network()
    states = []
    training = Training(model, split(), Recipe(epochs=3, batch_size=10))

    def break_it(progress):
        if progress.step == 13:
            states.append(training.state())
            with torch.no_grad():
                model[4].weight[0, 0] = torch.nan

    with pytest.raises(FloatingPointError, match=r"not finite at step 14: .*4\.weight.*use a smaller lr"):
        training.run(break_it)
    with pytest.raises(FloatingPointError, match=r"4\.weight is not finite after step 13: use a smaller lr"):
        training.state()
    assert states[0].step == 13


class WithValidation(Split):
    """Its validation metric never changes, while its test metric improves in every epoch."""

    validation = True
    tests = 0

    def validation_batches(self, batch_size):
        yield self.test_x[:0], self.test_y[:0]

    def metric(self, outputs, targets):
        WithValidation.tests += len(targets)
        return float(WithValidation.tests) if len(targets) else 50.0


def test_patience_looks_at_the_validation_part_only_and_a_resumed_training_stops_too():
    data, recipe = WithValidation(**vars(split())), Recipe(epochs=50, batch_size=10, patience=2)
    training = Training(network(), data, recipe)
    result = training.run()
    assert result.validations == [50.0] * 3
    assert result.accuracies == sorted(set(result.accuracies))
    assert training.stopped_early
    again = Training(network(), data, recipe, training.state())
    assert again.finished
    assert again.run().accuracies == result.accuracies


class Peaking(WithValidation):
    """Its validation metric is best after the second epoch."""

    def metric(self, outputs, targets):
        if len(targets):
            return 1.0
        self.known.append((3.0, 5.0, 4.0, 2.0)[len(self.known)])
        return self.known[-1]


def peaking(known=()):
    data = Peaking(**vars(split()))
    object.__setattr__(data, "known", list(known))
    return data


def test_patience_keeps_the_weights_of_the_best_epoch_also_if_it_is_resumed_after_that_epoch():
    recipe, states = Recipe(epochs=50, batch_size=10, patience=2), {}
    training = Training(network(), peaking(), recipe)
    training.run(lambda progress: states.update({progress.step: training.state()}))
    assert (training.result.validations, training.kept_epoch) == ([3.0, 5.0, 4.0, 2.0], 2)
    best, later = states[2 * training.batches].weights, states[3 * training.batches]
    again = Training(network(), peaking((3.0, 5.0, 4.0)), recipe, later)
    again.run()
    for trained in (training, again):
        assert all(torch.equal(weight, best[name]) for name, weight in trained.model.state_dict().items())
    assert not all(torch.equal(weight, best[name]) for name, weight in later.weights.items())


def test_patience_without_a_validation_part_is_refused():
    with pytest.raises(ValueError, match="patience needs a validation part: use load"):
        Training(network(), split(), Recipe(patience=2))
