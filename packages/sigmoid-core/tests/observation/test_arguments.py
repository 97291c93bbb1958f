"""Batches, losses and arguments of a Monitor that are refused, with the remedy."""

import math

import pytest
import torch
from torch import nn

from sigmoidcore import MLP, gradient_profile
from unstuck import Monitor

X = torch.zeros(3, 5)
MODEL = MLP(5, 4, 1, 3)


class Sink:
    """A sink that is not a function."""

    def __call__(self, measurement):
        pass


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(0, 5), r"inputs of shape \(0, 5\) hold no samples: give a batch of at least one"),
        (torch.zeros(()), r"inputs of shape \(\) hold no samples: give a batch of at least one"),
        *((X + torch.tensor([0, 0, v, 0, 0]), r"inputs hold 3 non-finite value\(s\) of 15: remove or impute")
          for v in (math.nan, math.inf, -math.inf)),
        *((none, "got none: for a model without inputs, use a Monitor") for none in ((), [], {})),
        *((value, f"inputs must be a tensor, or a tuple or dict of tensors, got {kind}: convert it first")
          for value, kind in (([[1.0, 2.0]], "list"), ("text", "str"), (3, "int"), (None, "NoneType"))),
    ],
)  # fmt: skip
def test_inputs_that_are_not_a_batch_are_an_error_with_the_reason(inputs, message):
    with pytest.raises(ValueError, match=message):
        gradient_profile(MODEL, inputs)


@pytest.mark.parametrize(
    ("targets", "loss_fn", "message"),
    [
        (torch.zeros(3), None, "targets is given without loss_fn: give both, or neither"),
        (None, nn.MSELoss(), "loss_fn is given without targets: give both, or neither"),
        (0, lambda output, _: output, r"loss_fn must give a scalar, got shape \(3, 3\)"),
    ],
)
def test_a_wrong_loss_is_an_error_that_says_why(targets, loss_fn, message):
    with pytest.raises(ValueError, match=message):
        gradient_profile(MODEL, X, targets, loss_fn)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("every", [0, -1, 1.0, True, None, "auto"], "every must be a whole number of at least 1, got"),
        ("keep", [3, 4.0, None], "keep must be a whole number of at least 4, got"),
        ("sinks", [Sink(), "a.csv", None, Sink, 3, [print, "x"], [Sink]], "sinks must be a list of functions"),
    ],
)
def test_the_monitor_refuses_an_argument_out_of_range(name, values, message):
    for value in values:
        with pytest.raises((TypeError, ValueError), match=message):
            Monitor(MODEL, **{name: value})


def test_the_monitor_refuses_an_optimizer_in_the_place_of_a_model():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got Adam"):
        Monitor(torch.optim.Adam(MODEL.parameters()))


def test_sinks_may_be_in_anything_that_can_be_gone_through():
    Monitor(MODEL, sinks=(sink for sink in (Sink(), print))).remove()
