"""What the Equalizer, the Monitor and all callbacks refuse, with the remedy, as soon as they are given it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from sigmoidcore import MLP, Equalizer, Monitor
from sigmoidcore.equalizer.checks import check_equalizer, check_model, check_optimizer, check_steps, checked_sinks
from sigmoidcore.integrations.sinks import CSV


@pytest.mark.parametrize("every", [0, -1, 1.0, True, None, "often"])
def test_every_is_auto_or_a_number_of_steps(every):
    check_equalizer("auto", 2.0, 0.05)
    check_equalizer(1, 2.0, 0.05)
    check_steps("monitor_every", 1)
    with pytest.raises(ValueError, match='every must be "auto" or a number of steps of at least 1, got'):
        check_equalizer(every, 2.0, 0.05)
    with pytest.raises(ValueError, match="monitor_every must be a number of steps of at least 1, got"):
        check_steps("monitor_every", every)


@pytest.mark.parametrize("tolerance", [1, 0.5, -3.0, math.inf, math.nan, None, "2"])
def test_tolerance_is_a_factor_above_1(tolerance):
    check_equalizer("auto", np.float32(1.5), 0.05)
    with pytest.raises(ValueError, match=r"tolerance must be a factor above 1, got .*2 is the usual choice"):
        check_equalizer("auto", tolerance, 0.05)


@pytest.mark.parametrize("floor", [0, 1, 2.0, math.nan, None, "low"])
def test_floor_is_between_0_and_1(floor):
    check_equalizer("auto", 2, np.float32(0.5))
    with pytest.raises(ValueError, match=r"floor must be between 0 and 1, got .*0\.05 is the usual choice"):
        check_equalizer("auto", 2.0, floor)


def test_a_model_and_an_optimizer_that_have_changed_places_are_named():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    check_model(model)
    check_optimizer(optimizer)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got Adam"):
        check_model(optimizer)
    with pytest.raises(TypeError, match=r"optimizer must be the torch\.optim\.Optimizer .*, got Linear"):
        check_optimizer(model)


@pytest.mark.parametrize(
    ("optimizer", "named"), [(None, "None"), ("adam", "'adam'"), (torch.optim.Adam, "the class Adam"), (0.1, "0.1")]
)
def test_other_types_than_optimizers_are_named(optimizer, named):
    with pytest.raises(TypeError, match=f"trains the model, got {named}"):
        check_optimizer(optimizer)


def test_sinks_are_functions_in_anything_that_can_be_gone_through():
    table, seen = CSV("never written.csv"), []
    assert checked_sinks([table, seen.append]) == (table, seen.append)
    assert checked_sinks(sink for sink in (table, print)) == (table, print)
    assert checked_sinks(()) == ()


@pytest.mark.parametrize(
    ("sinks", "named"),
    [(CSV("a.csv"), "CSV"), ("a.csv", r"'a\.csv'"), (None, "None"), (CSV, "the class CSV"), (3, "3")],
)
def test_anything_but_a_list_of_sinks_is_an_error_that_shows_one(sinks, named):
    message = rf'sinks must be a list of functions of one argument, got {named}: put one in brackets.*\[CSV\("sam'
    with pytest.raises(TypeError, match=message):
        checked_sinks(sinks)


@pytest.mark.parametrize(
    ("sink", "message"),
    [
        ("x", "sinks hold 'x', which is not a function of one argument"),
        (None, "sinks hold None, which is not a function"),
        ([print], "sinks hold list, which is not a function"),
        (CSV, r"sinks hold the class CSV: make one of it, as in CSV\(\.\.\.\)"),
    ],
)
def test_anything_but_a_sink_is_an_error_that_says_how_to_make_one(sink, message):
    with pytest.raises(TypeError, match=message):
        checked_sinks([print, sink])


def test_the_equalizer_and_the_monitor_refuse_them_before_they_attach():
    model = MLP(4, 8, 3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    for options in ({"every": 0}, {"tolerance": 1}, {"floor": 1}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            Equalizer(model, optimizer, **options)
    with pytest.raises(ValueError, match="every must be a number of steps"):
        Monitor(model, 0)
    with pytest.raises(TypeError, match=r"model must be .*, got Adam"):
        Equalizer(optimizer, model)
    with pytest.raises(TypeError, match=r"optimizer must be .*, got None"):
        Equalizer(model, None)
    with pytest.raises(TypeError, match=r"model must be .*, got Adam"):
        Monitor(optimizer)
    for sinks in (CSV("never written.csv"), ["samples.csv"], [CSV], None):
        with pytest.raises(TypeError, match="sinks "):
            Equalizer(model, optimizer, sinks=sinks)
        with pytest.raises(TypeError, match="sinks "):
            Monitor(model, sinks=sinks)
    assert not optimizer._optimizer_step_pre_hooks
