"""What could not be judged is said, and nothing is called healthy without it."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from unstuck_support.layers import activation, chain, linear, measurement, with_weight
from unstuck_support.measurements import changed

import unstuck
from unstuck.report.text import verdict
from unstuck.rules import gaps

X, Y = torch.randn(64, 8), torch.randint(3, (64,))


def small():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def first_line(diagnosis):
    return verdict(diagnosis)


def watched(steps, samples=64, **options):
    model = small()
    optimizer = torch.optim.Adam(model.parameters())
    with unstuck.Monitor(model, every=1, **options) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X[:samples]), Y[:samples]).backward()
            optimizer.step()
    return monitor.diagnosis()


def named(*measurements):
    return {gap.what: gap.decisive for gap in gaps(measurements)}


def test_a_network_on_a_whole_batch_is_healthy_and_says_that_no_step_was_seen():
    found = unstuck.diagnose(small(), X, Y, nn.functional.cross_entropy)
    assert str(found).splitlines()[0] == first_line(found) == "healthy: 3 layers, nothing found"
    assert str(found).splitlines()[2] == "not judged: step sizes (no step was seen)"


def test_a_frozen_model_is_not_called_healthy():
    found = unstuck.diagnose(small().requires_grad_(False), X)
    assert [finding.message for finding in found.findings] == ["All 4 parameters are frozen: nothing trains."]
    assert "not judged: the training (all 4 parameters" in str(found)
    assert repr(found) == f"<Diagnosis: {first_line(found)}>"


def test_parts_that_train_in_turn_are_not_frozen():
    """As with two optimizers of one Lightning module, each of which switches the parameters of the other off."""
    one = with_weight(chain(1.0, 1.0), "0.weight", trains=False)
    other = with_weight(chain(1.0, 1.0), "1.weight", trains=False)
    assert "1 of 2 parameters" in named(one)
    assert "1 of 2 parameters" not in named(one, other)


def test_a_frozen_part_is_named():
    model = small()
    model[0].requires_grad_(False)
    found = unstuck.diagnose(model, X, Y, nn.functional.cross_entropy)
    assert first_line(found).startswith("healthy")
    assert "2 of 4 parameters (frozen)" in str(found)


@pytest.mark.parametrize(("steps", "healthy"), [(1, False), (2, False), (3, True)])
def test_a_monitor_calls_a_network_healthy_after_three_measured_steps(steps, healthy):
    assert first_line(watched(steps)).startswith("healthy") == healthy


def test_a_monitor_that_saw_one_sample_does_not_call_it_healthy():
    assert "differences between samples (1 sample)" in first_line(watched(5, samples=1))


def test_a_monitor_that_records_no_step_says_how_it_does():
    assert "what the outputs depend on (use Monitor(trials=True))" in " ".join(str(watched(3)).split())
    assert "the outputs" not in " ".join(gap.what for gap in watched(3, trials=True).gaps)


def test_neurons_of_few_rows_are_not_judged():
    few = changed(chain(1.0, 1.0), 1, rows=16)
    assert "neurons of 1 activation" in named(few)
    assert "neurons of 1 activation" not in named(chain(1.0, 1.0))
    output = measurement(linear("a", 1.0), activation("b", 1.0, 0, rows=16))
    assert not any(what.startswith("neurons") for what in named(output))


def test_layers_without_any_gradient_are_not_judged():
    no_gradient = replace(chain(1.0, 1.0), layers=tuple(replace(x, gradient=None) for x in chain(1.0, 1.0).layers))
    assert named(no_gradient)["the gradient"]
    assert "the gradient" not in named(chain(1.0, 1.0))
    frozen = with_weight(with_weight(no_gradient, "0.weight", trains=False), "2.weight", trains=False)
    assert named(frozen)["the training"]


def test_the_functions_of_several_terms_are_all_named():
    def two(outputs, targets):
        return nn.functional.mse_loss(outputs, targets) + 0.1 * nn.functional.l1_loss(outputs, targets)

    x, y = torch.randn(64, 8), torch.randn(64, 3)
    for loss, names in ((two, "(mse_loss, l1_loss)"), (nn.functional.mse_loss, "(mse_loss)")):
        assert names in str(unstuck.diagnose(small(), x, y, loss))


def test_the_gaps_are_in_the_json():
    found = watched(1)
    assert [gap["what"] for gap in json.loads(found.to_json())["gaps"]] == [gap.what for gap in found.gaps] != []
