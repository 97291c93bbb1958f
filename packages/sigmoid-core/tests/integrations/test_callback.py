"""What holds for the callbacks of all frameworks; tests/integrations runs them in the frameworks themselves."""

import importlib
import sys

import pytest
import torch
from torch import nn

from sigmoidcore import MLP, SigmoidCore
from sigmoidcore.integrations.callback import TrainingCallback
from sigmoidcore.nn import CoreLSTM

FRAMEWORKS = {
    "lightning": (["lightning", "lightning.pytorch", "pytorch_lightning"], "lightning"),
    "transformers": (["transformers", "transformers.trainer_callback"], r"transformers\[torch\]"),
}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_missing_framework_is_named(name, monkeypatch):
    modules, package = FRAMEWORKS[name]
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"sigmoidcore.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=rf"missing: pip install \"?{package}"):
        importlib.import_module(f"sigmoidcore.integrations.{name}")


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(20, 8)), torch.randint(0, 3, (20,))).backward()
        optimizer.step()


def equalized(callback):
    return [sample.step for sample in callback.equalizer.history]


@pytest.fixture
def training():
    model = MLP(8, 16, 3, 3)
    return model, torch.optim.Adam(model.parameters())


def test_a_state_is_loaded_before_a_training_or_during_it(training):
    first = TrainingCallback(every=1, monitor_every=1)
    first.begin(*training)
    train(*training, 3)
    first.remove()
    state = first.state_dict()
    before, during = TrainingCallback(every=1, monitor_every=1), TrainingCallback(every=1, monitor_every=1)
    before.load_state_dict(state)
    assert before.state_dict() == state
    before.begin(*training)
    during.begin(*training)
    during.load_state_dict(state)
    train(*training, 1)
    for callback in (before, during):
        callback.remove()
        assert equalized(callback) == [m.step for m in callback.monitor.measurements] == [0, 1, 2, 3]


def test_only_a_resumed_training_keeps_the_history(training):
    callback = TrainingCallback(every=1, monitor_every=1)
    for resumed, expected in ((False, [0, 1]), (True, [0, 1, 2, 3]), (False, [0, 1])):
        callback.begin(*training, resumed=resumed)
        train(*training, 2)
        callback.remove()
        assert equalized(callback) == expected


def test_the_state_of_another_model_is_refused_and_nothing_stays_attached(training):
    callback, other = TrainingCallback(), MLP(8, 16, 5, 3)
    callback.begin(*training)
    train(*training, 2)
    callback.remove()
    again = TrainingCallback()
    again.load_state_dict(callback.state_dict())
    optimizer = torch.optim.Adam(other.parameters())
    with pytest.raises(ValueError, match=r"a model with 3 cores.*this one has 5"):
        again.begin(other, optimizer)
    train(other, optimizer, 2)
    assert equalized(again) == []


def test_an_error_at_the_beginning_leaves_nothing_attached(training):
    callback = TrainingCallback(every=1, monitor_every=1)
    with pytest.raises(ValueError, match="no parameters"):  # of the Monitor, after the Equalizer was attached
        callback.begin(nn.Sequential(SigmoidCore(8)), training[1])
    train(*training, 1)
    assert equalized(callback) == []


@pytest.mark.parametrize("options", [{"tolerance": 0.5}, {"floor": 2}, {"monitor_every": "auto"}, {"sinks": [3]}])
def test_an_invalid_argument_is_refused_at_the_beginning_of_the_training(training, options):
    with pytest.raises((ValueError, TypeError), match=r"tolerance|floor|every|sinks"):
        TrainingCallback(**options).begin(*training)
    train(*training, 1)


@pytest.mark.parametrize("model", [nn.Linear(8, 3), CoreLSTM(8, 3)])
def test_a_model_without_cores_that_an_equalizer_reads_is_monitored_only(model):
    callback = TrainingCallback(monitor_every=1)
    callback.begin(model, None)
    callback.remove()
    assert callback.equalizer is None
    assert callback.monitor is not None
    for options in ({"every": 5}, {"monitor_every": None}):
        with pytest.raises(ValueError, match=r"no cores|recurrent cores only"):
            TrainingCallback(**options).begin(model, torch.optim.Adam(model.parameters()))


def test_equalizer_and_monitor_can_be_left_out(training):
    callback = TrainingCallback(every=None, monitor_every=1)
    callback.begin(training[0], None)
    callback.remove()
    assert callback.equalizer is None
    callback = TrainingCallback(monitor_every=None)
    callback.begin(*training)
    callback.remove()
    with pytest.raises(ValueError, match="nothing was measured"):
        callback.diagnosis()


@pytest.mark.parametrize("main", [True, False])
def test_sinks_are_called_in_the_main_process_only(training, main):
    samples = []
    callback = TrainingCallback(every=1, monitor_every=1, sinks=[samples.append])
    callback.begin(*training, main=main)
    train(*training, 1)
    callback.remove()
    assert len(samples) == 2 * main


def test_a_removed_callback_sees_nothing_more_and_keeps_its_history(training):
    callback = TrainingCallback(every=1, monitor_every=1)
    callback.remove()  # before a training it does nothing
    callback.begin(*training)
    train(*training, 2)
    for _ in range(2):
        callback.remove()
        train(*training, 1)
    assert equalized(callback) == [0, 1]
    assert callback.diagnosis().measurement.step == 1
