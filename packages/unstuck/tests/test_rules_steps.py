"""US303 to US308: trainings whose optimizer does too little, too much, or something else."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import unstuck
from unstuck.findings import Severity

X, Y = torch.randn(128, 64), torch.randint(10, (128,))


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def loss_of(model):
    return functional.cross_entropy(model(X), Y)


def usual(model, optimizer):
    def step():
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()

    return step


def found(model, step, times=5):
    """Errors and warnings of a Monitor."""
    with unstuck.Monitor(model, every=1) as monitor:
        for _ in range(times):
            step()
    return [f for f in monitor.diagnosis().findings if f.severity is not Severity.NOTE]


def rules(*args, **others):
    return [f.rule for f in found(*args, **others)]


def sgd(model, **others):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.01} | others)


def test_a_usual_training_is_healthy(model):
    assert rules(model, usual(model, sgd(model, momentum=0.9, weight_decay=5e-4))) == []
    assert rules(model, usual(model, torch.optim.AdamW(model.parameters(), lr=1e-3))) == []


def test_parameters_that_no_optimizer_holds_are_named(model):
    (finding,) = found(model, usual(model, torch.optim.SGD(model[0].parameters(), lr=0.01)))
    assert (finding.rule, finding.layers) == ("US303", ("2.weight", "2.bias"))


def test_two_optimizers_and_updates_by_hand_hold_their_parameters(model):
    first, second = (torch.optim.SGD(layer.parameters(), lr=0.01) for layer in (model[0], model[2]))

    def both():
        for optimizer in (first, second):
            optimizer.zero_grad()
        loss_of(model).backward()
        second.step()
        first.step()

    def by_hand():
        usual(model, first)()
        with torch.no_grad():
            for p in model[2].parameters():
                p -= 0.01 * p.grad
                p.grad = None

    assert rules(model, both) == []
    assert rules(model, by_hand) == []


def test_frozen_parameters_need_no_optimizer(model):
    model[0].requires_grad_(False)
    assert rules(model, usual(model, torch.optim.SGD(model[2].parameters(), lr=0.01))) == []


def test_an_optimizer_of_another_model_is_an_error(model):
    other = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.01)
    for parameter in other.parameters():
        parameter.grad = torch.zeros_like(parameter)
    (finding,) = found(model, usual(model, optimizer))
    assert (finding.rule, finding.severity) == ("US303", Severity.ERROR)
    assert "holds no parameter of this model" in finding.message


def test_a_loop_that_never_steps_is_an_error(model):
    optimizer = sgd(model)

    def without_step():
        optimizer.zero_grad()
        loss_of(model).backward()

    assert rules(model, without_step, times=12) == ["US304"]
    assert rules(model, lambda: loss_of(model).backward()) == ["US304"]


def test_two_backward_passes_without_a_step_are_not_a_training(model):
    with unstuck.Monitor(model, every=1) as monitor:
        loss_of(model).backward()
        loss_of(model).backward()
    with pytest.raises(ValueError, match="no step was measured"):
        monitor.diagnosis()


@pytest.mark.filterwarnings("ignore:In 10 measured steps")
def test_a_loop_without_backward_is_an_error(model):
    optimizer = sgd(model)

    def without_backward():
        loss_of(model)
        optimizer.step()

    assert rules(model, without_backward, times=12) == ["US501"]


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("place", ["before the forward pass", "before backward", "after the step"])
def test_gradients_that_are_emptied_once_for_each_step_are_healthy(model, place, set_to_none):
    optimizer = sgd(model)

    def step():
        if place == "before the forward pass":
            optimizer.zero_grad(set_to_none)
        loss = loss_of(model)
        if place == "before backward":
            optimizer.zero_grad(set_to_none)
        loss.backward()
        loss_of(model).backward()  # a second micro-batch
        optimizer.step()
        if place == "after the step":
            optimizer.zero_grad(set_to_none)

    assert rules(model, step) == []


def test_gradients_that_are_never_emptied_are_named(model):
    optimizer = sgd(model, lr=0.001)

    def step():
        loss_of(model).backward()
        optimizer.step()

    (finding,) = found(model, step)
    assert (finding.rule, finding.layers) == ("US305", ("0.weight", "0.bias", "2.weight", "2.bias"))


def test_gradients_of_another_loss_may_stay_until_the_step(model):
    """A discriminator gets gradients from the generator's loss, which it empties before its own."""
    optimizer = sgd(model)

    def step():
        usual(model, optimizer)()
        (-loss_of(model)).backward()

    assert rules(model, step) == []


def accumulating(model, optimizer, early, passes=4):
    def step():
        for i in range(passes):
            if early and i == passes - 1:
                optimizer.zero_grad()
            (loss_of(model) / passes).backward()
        optimizer.step()
        if not early:
            optimizer.zero_grad()

    return step


def test_gradients_that_are_emptied_before_the_last_of_several_passes_are_wasted(model):
    assert rules(model, accumulating(model, sgd(model), early=True)) == ["US306"]
    assert rules(model, accumulating(model, sgd(model), early=False)) == []
    assert rules(model, accumulating(model, sgd(model), early=True, passes=2)) == [], "it may look ahead (SAM)"


def test_an_optimizer_that_evaluates_a_closure_several_times_uses_all_gradients(model):
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=6)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    assert "US306" not in rules(model, lambda: optimizer.step(closure))


@pytest.mark.parametrize(
    ("make", "decay", "expected"),
    [
        (torch.optim.SGD, 5.0, ["US307"]),
        (torch.optim.SGD, 1e-3, []),
        (torch.optim.AdamW, 50.0, ["US307"]),
        (torch.optim.AdamW, 0.1, []),
    ],
)
def test_a_weight_decay_that_is_stronger_than_the_gradient(model, make, decay, expected):
    assert rules(model, usual(model, make(model.parameters(), lr=1e-3, weight_decay=decay)), times=6) == expected


@pytest.mark.parametrize(("clears", "expected"), [(False, ["US305"]), (True, [])])
def test_gradients_that_add_up_beside_updates_by_hand(model, clears, expected):
    def by_hand():
        loss_of(model).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad
                if clears:
                    parameter.grad.zero_()

    assert rules(model, by_hand, times=12) == expected


def test_an_optimizer_of_each_epoch_is_named_if_it_has_a_state():
    def epoch(model, make):
        optimizer = make(model.parameters())
        for _ in range(3):
            usual(model, optimizer)()

    for make, expected in ((torch.optim.Adam, ["US308"]), (lambda p: torch.optim.SGD(p, lr=0.01), [])):
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        assert rules(model, lambda model=model, make=make: epoch(model, make), times=6) == expected


def test_a_loss_with_many_new_parameters_that_nobody_moves_is_named():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
    criterion = nn.AdaptiveLogSoftmaxWithLoss(16, 40, [10, 20])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, labels = torch.randn(80, 8), torch.arange(80) % 40
    with unstuck.Monitor(model, every=2) as monitor:
        for _ in range(12):
            optimizer.zero_grad()
            criterion.zero_grad()
            criterion(model(x), labels).loss.backward()
            optimizer.step()
    finding = next(f for f in monitor.diagnosis().findings if f.rule == "US303")
    assert len(finding.layers) > 4


@pytest.mark.parametrize("renewed", [False, True])
def test_parameters_that_take_the_places_of_trained_ones_are_in_no_optimizer(renewed):
    """As when Gaussians are split, or layers grow, in the middle of a training."""
    model, x = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)), torch.randn(64, 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with unstuck.Monitor(model, every=2) as monitor:
        for step in range(30):
            if step == 10:
                model[0].weight = nn.Parameter(model[0].weight.detach() * 2)
                if renewed:
                    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            optimizer.zero_grad()
            (model(x) - x[:, :1]).square().mean().backward()
            optimizer.step()
    found = [finding.layers for finding in monitor.diagnosis().findings if finding.rule == "US303"]
    assert found == ([] if renewed else [("0.weight",)])


def test_halves_that_train_in_turns_are_in_their_optimizers():
    model, x = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)), torch.randn(64, 8)
    optimizers = [torch.optim.Adam(model[i].parameters(), lr=0.01) for i in (0, 2)]
    with unstuck.Monitor(model, every=5) as monitor:
        for step in range(120):
            optimizers[step >= 60].zero_grad()
            (model(x) - x[:, :1]).square().mean().backward()
            optimizers[step >= 60].step()
    assert "US303" not in {finding.rule for finding in monitor.diagnosis().findings}
