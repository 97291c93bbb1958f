"""The operation that made the first NaN or infinity is named, with its line and the values that it read."""

import pytest
import torch
from support.untouched import untouched
from torch import nn

import unstuck

MSE = nn.functional.mse_loss


class Middle(nn.Module):
    """A function between two linear layers, whose values are 0 or more."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(4, 4), nn.Linear(4, 1), function

    def forward(self, x):
        return self.last(self.function(torch.relu(self.first(x))))


def message(model, loss=MSE, **options):
    inputs, targets = torch.randn(64, 4), torch.randn(64, 1)
    with untouched(model):
        findings = unstuck.diagnose(model, inputs, targets, loss, trace_nonfinite=True, **options).findings
    return " ".join(f.message for f in findings if f.rule == "US401")


def test_an_infinity_of_the_forward_pass_is_named_with_its_line_and_values():
    text = message(Middle(lambda h: torch.log(h)))
    assert "`log` in the model itself made the first infinity (test_origin.py:" in text
    assert "torch.log(h)" in text
    assert "from (64, 4) with values from 0 to " in text


def test_a_nan_inside_a_module_is_named_with_the_module():
    class Ratio(nn.Module):
        def forward(self, h):
            return (h - h) / (h - h)

    text = message(nn.Sequential(nn.Linear(4, 4), Ratio(), nn.Linear(4, 1)))
    assert "`div` in `1` made the first NaN" in text
    assert "return (h - h) / (h - h)" in text


def test_an_infinity_of_the_backward_pass_is_named_with_the_line_of_its_forward_pass():
    text = message(Middle(lambda h: torch.sqrt(torch.relu(h - 10))))
    assert "the backward pass of `sqrt` made the first infinity" in text
    assert "torch.sqrt(torch.relu(h - 10))" in text


def test_the_loss_is_named():
    text = message(nn.Linear(4, 1), lambda outputs, targets: (outputs / (0 * targets)).mean())
    assert "`div` in the loss made the first infinity" in text
    text = message(nn.Linear(4, 1), lambda outputs, targets: torch.log(0 * outputs.sum()))
    assert "`log` in the loss made the first infinity" in text
    assert "from the number 0." in text


def test_a_mask_of_infinities_that_a_softmax_takes_away_is_not_the_cause():
    def masked(h):
        weights = torch.softmax(
            h.masked_fill(h < h.amax(-1, keepdim=True), float("-inf")).log_softmax(-1).clamp(min=-9), -1
        )
        return torch.log(weights - weights)

    assert "`log` in the model itself" in message(Middle(masked))


@pytest.mark.parametrize("trace", [True, False])
def test_a_finite_step_is_not_repeated(trace):
    calls = []
    model = Middle(lambda h: calls.append(1) or torch.tanh(h))
    unstuck.diagnose(model, torch.randn(64, 4), torch.randn(64, 1), MSE, trace_nonfinite=trace)
    assert len(calls) == 1


def test_without_it_the_finding_prints_the_call():
    net, x, y = Middle(torch.log), torch.randn(64, 4), torch.randn(64, 1)
    finding = next(f for f in unstuck.diagnose(net, x, y, MSE).findings if f.rule == "US401")
    assert finding.remedy.endswith(" This call names the operation that made the first one.")
    assert finding.call == "print(unstuck.diagnose(net, x, y, MSE, trace_nonfinite=True))"
    exec(finding.call)


def test_weights_with_nan_have_no_operation_and_no_call():
    model = nn.Linear(4, 1)
    nn.init.constant_(model.weight, float("nan"))
    finding = unstuck.diagnose(model, torch.randn(64, 4), trace_nonfinite=True).findings[0]
    assert "made the first" not in finding.message
    assert finding.call is None
