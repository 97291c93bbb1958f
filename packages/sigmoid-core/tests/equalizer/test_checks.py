"""What the Equalizer refuses, with the remedy, before it attaches."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sigmoidcore import MLP, Equalizer
from sigmoidcore.integrations.sinks import CSV

MODEL = MLP(4, 8, 3, 2)
OPTIMIZER = torch.optim.Adam(MODEL.parameters())
A_SINK = CSV("never written.csv")


@pytest.mark.parametrize("options", [{"every": 1}, {"tolerance": np.float32(1.5)}, {"floor": np.float32(0.5)}])
def test_the_equalizer_takes_numbers_of_any_type(options):
    Equalizer(MODEL, OPTIMIZER, **options).remove()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("every", [0, -1, 1.0, True, None, "often"], 'every must be "auto" or a number of steps of at least 1, got'),
        ("tolerance", [1, 0.5, -3.0, math.inf, math.nan, None, "2"], "tolerance must be a factor above 1, got"),
        ("floor", [0, 1, 2.0, math.nan, None, "low"], "floor must be between 0 and 1, got"),
        ("sinks", [A_SINK, "a.csv", None, CSV, 3, [print, "x"], [CSV], [[print]]], "sinks must be a list of functions"),
    ],
)
def test_the_equalizer_refuses_an_argument_out_of_range_before_it_attaches(name, values, message):
    for value in values:
        with pytest.raises((TypeError, ValueError), match=message):
            Equalizer(MODEL, OPTIMIZER, **{name: value})
    assert not OPTIMIZER._optimizer_step_pre_hooks


def test_the_optimizer_of_another_model_is_a_warning_and_one_of_a_part_is_not():
    with pytest.warns(RuntimeWarning, match="no parameter of the model is in the optimizer"):
        Equalizer(MLP(4, 8, 3, 2), OPTIMIZER).remove()
    Equalizer(MODEL, torch.optim.Adam(MODEL[0].parameters())).remove()


def test_its_repr_is_one_line():
    with Equalizer(MODEL, OPTIMIZER) as equalizer:
        assert repr(equalizer) == "Equalizer(3 cores, every='auto', 0 samples)"


def test_a_model_and_an_optimizer_that_have_changed_places_are_named():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got Adam"):
        Equalizer(OPTIMIZER, MODEL)
    for optimizer, named in ((nn.Linear(2, 2), "Linear"), (None, "NoneType"), (torch.optim.Adam, "type")):
        with pytest.raises(TypeError, match=rf"optimizer must be the torch\.optim\.Optimizer .*, got {named}"):
            Equalizer(MODEL, optimizer)
