"""What holds for all integrations, whether their frameworks are installed or not; see tests/integrations."""

import importlib
import subprocess
import sys

import pytest
import torch
from torch import nn

from sigmoidcore import MLP, SigmoidCore
from sigmoidcore.integrations.session import Watch, Watching

FRAMEWORKS = {
    "lightning": (["lightning", "lightning.pytorch", "pytorch_lightning"], "lightning"),
    "transformers": (["transformers", "transformers.trainer_callback"], r"transformers\[torch\]"),
    "ignite": (["ignite", "ignite.distributed", "ignite.engine"], "pytorch-ignite"),
}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_framework_that_is_missing_is_named(name, monkeypatch):
    modules, package = FRAMEWORKS[name]
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, f"sigmoidcore.integrations.{name}", raising=False)
    with pytest.raises(ImportError, match=rf"integrations\.{name} needs {package}.* missing: pip install {package}"):
        importlib.import_module(f"sigmoidcore.integrations.{name}")


def test_the_core_imports_no_integration_and_sinks_import_nothing_that_they_may_not_need():
    code = (
        "import sys, sigmoidcore; print([name for name in sys.modules if 'integrations' in name]); "
        "import sigmoidcore.integrations.sinks, sigmoidcore.integrations.session; "
        "print({'matplotlib', 'mlflow', 'pandas', 'sklearn', 'tensorboard', 'wandb'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["[]", "set()"]


def steps(model, optimizer, number):
    for _ in range(number):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randn(20, 8)), torch.randint(0, 3, (20,))).backward()
        optimizer.step()


@pytest.fixture
def training():
    model = MLP(8, 16, 3, 3)
    return model, torch.optim.Adam(model.parameters())


def test_nothing_to_do_is_an_error():
    with pytest.raises(ValueError, match="every and monitor_every are both None"):
        Watch(every=None, monitor_every=None)


def test_a_state_is_loaded_before_a_training_or_in_it(training):
    first = Watch(every=1, monitor_every=1)
    first.begin(*training)
    steps(*training, 3)
    first.end()
    state = first.state_dict()
    before, inside = Watch(every=1, monitor_every=1), Watch(every=1, monitor_every=1)
    before.load_state_dict(state)
    assert before.state_dict() == state
    before.begin(*training)
    inside.begin(*training)
    inside.load_state_dict(state)
    steps(*training, 1)
    for watch in (before, inside):
        watch.end()
        assert [sample.step for sample in watch.equalizer.history] == [0, 1, 2, 3]
        assert [m.step for m in watch.monitor.measurements] == [0, 1, 2, 3]


def test_a_training_begins_anew_unless_it_is_under_way(training):
    watch = Watch(every=1, monitor_every=1)
    for under_way, expected in ((False, [0, 1]), (True, [0, 1, 2, 3]), (False, [0, 1])):
        watch.begin(*training, under_way=under_way)
        steps(*training, 2)
        watch.end()
        assert [sample.step for sample in watch.equalizer.history] == expected


def test_the_state_of_another_model_is_refused_and_nothing_stays_attached(training):
    watch, other = Watch(), MLP(8, 16, 5, 3)
    watch.begin(*training)
    steps(*training, 2)
    watch.end()
    again = Watch()
    again.load_state_dict(watch.state_dict())
    optimizer = torch.optim.Adam(other.parameters())
    with pytest.raises(ValueError, match="a model with 3 cores, this one has 5"):
        again.begin(other, optimizer)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_an_error_at_the_start_leaves_nothing_attached(training):
    frozen = nn.Sequential(SigmoidCore(8))  # enough for an Equalizer, which begins first
    with pytest.raises(ValueError, match="no parameters"):
        Watch().begin(frozen, training[1])
    assert not training[1]._optimizer_step_pre_hooks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.5}, "tolerance must be a factor above 1, got 0.5"),
        ({"floor": 2}, "floor must be between 0 and 1, got 2"),
        ({"every": 0}, 'every must be "auto" or a number of steps of at least 1, got 0'),
        ({"monitor_every": 0}, "monitor_every must be a number of steps of at least 1, got 0"),
        ({"monitor_every": "auto"}, "monitor_every must be a number of steps of at least 1, got 'auto'"),
    ],
)
def test_an_argument_out_of_range_is_refused_before_there_is_a_training(options, message):
    with pytest.raises(ValueError, match=message):
        Watch(**options)


def test_what_is_no_sink_is_refused_before_there_is_a_training():
    with pytest.raises(TypeError, match=r"sinks hold 'samples\.csv', which is no function"):
        Watch(sinks=["samples.csv"])


def test_a_part_that_is_not_wanted_is_not_made(training):
    watch = Watch(every=None, monitor_every=1)
    watch.begin(nn.Linear(8, 3), None)
    watch.end()
    assert watch.equalizer is None
    watch = Watch(monitor_every=None)
    watch.begin(*training)
    watch.end()
    with pytest.raises(ValueError, match="nothing was measured"):
        watch.diagnosis()


def test_sinks_are_called_in_the_main_process_only(training):
    for main in (True, False):
        seen = []
        watch = Watch(every=1, monitor_every=1, sinks=[seen.append])
        watch.begin(*training, main=main)
        steps(*training, 1)
        watch.end()
        assert len(seen) == 2 * main


def test_a_callback_that_is_removed_leaves_nothing_behind_and_keeps_what_was_seen(training):
    callback = Watching()
    callback._watch = Watch(every=1, monitor_every=1)
    callback.remove()  # before a training there is nothing to take off
    callback._watch.begin(*training)
    steps(*training, 2)
    for _ in range(2):
        callback.remove()
        assert not training[1]._optimizer_step_pre_hooks
        assert not training[1]._optimizer_step_post_hooks
    assert [sample.step for sample in callback.equalizer.history] == [0, 1]
    assert callback.diagnosis().measurement.step == 1
