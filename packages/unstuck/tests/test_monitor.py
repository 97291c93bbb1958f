"""What a Monitor measures, and when: its numbers, hooks, history and state."""

import copy
import gc
import itertools
import json
import math
import weakref

import pytest
import torch
from torch import nn
from unstuck_support.monitored import (
    ROWS,
    assert_right,
    attached,
    gradients,
    gradients_by_hand,
    of_one_step,
    sgd,
    sizes,
    sizes_by_hand,
    step,
)
from unstuck_support.steps import WAYS, in_vmap, loss_of

from unstuck import Diagnosis, Monitor
from unstuck.measure.forward_pass import ForwardPass, LayerGradient
from unstuck.measure.history import History
from unstuck.monitor import PATIENCE

pytestmark = pytest.mark.usefixtures("leaves_nothing")


@pytest.mark.parametrize(("every", "steps"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (100, [0])])
def test_one_step_in_every_so_many_is_measured(model, batch, every, steps):
    optimizer = sgd(model)
    with Monitor(model, every=every) as monitor:
        for _ in range(7):
            step(model, optimizer, batch)
    assert [m.step for m in monitor.measurements] == steps
    assert all(m.samples == ROWS and m.ranks == 1 for m in monitor.measurements)
    assert Diagnosis.from_json(monitor.diagnosis().to_json()).steps == 7


def test_a_mode_around_the_forward_pass_can_be_left_before_the_loss(model, batch):
    optimizer = sgd(model)
    with Monitor(model, every=1) as monitor:
        with torch.device("meta"):
            outputs = model(batch[0])
        assert torch.empty(1).device.type == "cpu"
        loss = nn.functional.cross_entropy(outputs, batch[1])
        loss.backward()
        optimizer.step()
    assert monitor.measurements[0].loss == pytest.approx(loss.item())


def test_a_step_between_measured_ones_has_no_hooks(model, batch):
    optimizer = sgd(model)
    hooked = []
    with Monitor(model, every=3):
        for _ in range(7):
            optimizer.zero_grad()
            outputs = model(batch[0])
            hooked.append(attached())
            nn.functional.cross_entropy(outputs, batch[1]).backward()
            optimizer.step()
    assert hooked == [True, False, False, True, False, False, True]


def test_a_monitor_made_in_the_middle_of_a_step_measures_the_next_step(model, batch):
    optimizer = sgd(model)
    loss = loss_of(model, batch)
    with Monitor(model, every=5) as monitor:
        loss.backward()
        optimizer.step()
        for _ in range(6):
            step(model, optimizer, batch)
    assert [m.step for m in monitor.measurements] == [1, 5]
    assert all(math.isfinite(gradient) for gradient in sizes(monitor.measurements[0]).values())


def test_a_removed_monitor_keeps_its_measurements(model, batch):
    optimizer = sgd(model)
    monitor = Monitor(model, every=1)
    step(model, optimizer, batch)
    monitor.remove()
    monitor.remove()
    step(model, optimizer, batch)
    assert [m.step for m in monitor.measurements] == [0]


def test_a_garbage_collected_monitor_leaves_no_hooks(model):
    dropped = weakref.ref(Monitor(model, every=1))
    gc.collect()
    assert dropped() is None
    assert not attached()


def test_an_error_in_the_forward_pass_leaves_no_hooks(model, batch):
    optimizer = sgd(model)
    with Monitor(model, every=1) as monitor:
        with pytest.raises(RuntimeError, match="shapes"):
            model(torch.randn(4, 5))
        step(model, optimizer, batch)
        assert_right_before(monitor.measurements[0], model, batch)
    model[1].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), Monitor(model, every=1):
        model(batch[0])
    assert not attached()


@pytest.mark.with_bugs
@pytest.mark.parametrize(("of", "method"), [(ForwardPass, "compare"), (ForwardPass, "before"), (LayerGradient, "add")])
def test_a_bug_of_ours_is_noted_and_the_training_is_the_same(model, batch, of, method, monkeypatch):
    sound = getattr(of, method)

    def mistaken(*args):
        monkeypatch.setattr(of, method, sound)
        raise LookupError("a mistake")

    states = []
    for wrong in (False, True):
        if wrong:
            monkeypatch.setattr(of, method, mistaken)
        torch.manual_seed(0)
        network = copy.deepcopy(model)
        with Monitor(network, every=1) as monitor:
            step(network, sgd(network), batch)
        states.append(network.state_dict())
        notes = [note for note in monitor.measurements[0].notes if "please report it (LookupError: a mistake)" in note]
        assert bool(notes) == wrong
    torch.testing.assert_close(*states, rtol=0, atol=0)


def interrupt(*_):
    raise KeyboardInterrupt


def assert_right_before(measurement, model, batch):
    """Of a step of SGD with the rate 0.1 that was made: put it back, and compare."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * parameter.grad
    assert_right(measurement, model, lambda network: loss_of(network, batch))


def test_a_warning_comes_after_ten_steps_without_a_gradient(model, batch):
    optimizer = sgd(model)

    with Monitor(model, every=100) as monitor:
        for _ in range(PATIENCE - 1):
            in_vmap(model, batch, optimizer)
        with pytest.warns(RuntimeWarning, match="no gradient reached the model, so the Monitor measures nothing"):
            in_vmap(model, batch, optimizer)
        assert not attached()
        for _ in range(5):
            in_vmap(model, batch, optimizer)
    assert not monitor.measurements


def test_layers_that_are_cut_off_are_named_though_a_scalar_beside_them_trains(model, batch):
    model.register_parameter("scale", nn.Parameter(torch.ones(())))
    optimizer = sgd(model)

    def step():
        optimizer.zero_grad()
        (model.scale * model(batch[0]).detach()).square().mean().backward()
        optimizer.step()

    with Monitor(model, every=100) as monitor:
        for _ in range(PATIENCE - 1):
            step()
        with pytest.warns(RuntimeWarning, match="no gradient reached the model"):
            step()
    (finding,) = monitor.diagnosis().findings
    assert finding.rule == "US501"
    assert "scale" not in finding.layers


def test_a_diagnosis_needs_parameters_and_a_measurement(model):
    with pytest.raises(ValueError, match="has no parameters"):
        Monitor(nn.ReLU())
    with pytest.raises(ValueError, match="no step was measured yet"), Monitor(model) as monitor:
        monitor.diagnosis()


def test_the_numbers_of_a_step_equal_an_independent_calculation(model, batch):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batches = [(torch.randn(ROWS, 8), torch.randint(0, 3, (ROWS,))) for _ in range(4)]
    with Monitor(model, every=3) as monitor:
        for k, each in enumerate(batches):
            if k == 3:
                expected = sizes_by_hand(model, lambda network: loss_of(network, batches[3]))
                of_weights = gradients_by_hand(model, lambda network: loss_of(network, batches[3]))
                outputs = dict(zip("0123456", _outputs(model, batches[3][0]), strict=True))
                before = {n: p.detach().clone() for n, p in model.named_parameters()}
            step(model, optimizer, each)
    measured = monitor.measurements[1]
    assert measured.step == 3
    assert sizes(measured) == pytest.approx(expected, rel=1e-5)
    assert gradients(measured) == pytest.approx(of_weights, rel=1e-5)
    updates = {n: ((p - before[n]).norm() / before[n].norm()).item() for n, p in model.named_parameters()}
    assert {w.name: w.update for w in measured.weights} == pytest.approx(updates, rel=1e-4)
    assert {w.name: w.size for w in measured.weights} == pytest.approx({n: b.norm().item() for n, b in before.items()})
    layers = {layer.name: layer for layer in measured.layers}
    for name, y in outputs.items():
        assert layers[name].rms == pytest.approx(y.square().mean().sqrt().item(), rel=1e-5)
        spread = y.var(0, correction=0).sum().sqrt() / y.square().mean(0).sum().sqrt()
        assert layers[name].spread == pytest.approx(spread.item(), rel=1e-4)
    y = outputs["3"]
    assert layers["3"].relative_slope == pytest.approx((4 * y * (1 - y)).mean().item(), rel=1e-5)
    assert layers["1"].dead == (outputs["1"] <= 0).all(0).double().mean().item()


@torch.no_grad()
def _outputs(model, x):
    for layer in model:
        x = layer(x)
        yield x


@pytest.mark.parametrize("way", WAYS)
def test_the_gradients_of_a_step_are_those_of_its_loss_whatever_is_done_besides(model, batch, way):
    measured = of_one_step(model, lambda optimizer: WAYS[way](model, batch, optimizer))
    assert measured.samples == ROWS
    assert_right(measured, model, lambda network: loss_of(network, batch))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_under_autocast_are_near_those_of_float32(model, batch, dtype):
    def loss(network):
        with torch.autocast("cpu", dtype=dtype):
            return loss_of(network, batch)

    measured = of_one_step(model, lambda _: loss(model).backward())
    assert {layer.dtype for layer in measured.layers} == {str(dtype).removeprefix("torch.")}
    assert_right(measured, model, loss, rel=1e-3)
    assert_right(measured, model, lambda network: loss_of(network, batch), rel=0.1)


def test_a_monitor_does_not_change_the_training(model, batch):
    def train(watched):
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.2), nn.ReLU(inplace=True), nn.Linear(16, 3))
        optimizer = torch.optim.Adam(network.parameters())
        monitor = Monitor(network, every=2) if watched else None
        for _ in range(9):
            step(network, optimizer, batch)
        if monitor is not None:
            monitor.remove()
            assert len(monitor.measurements) == 5
        return network.state_dict()

    for name, value in train(False).items():
        assert torch.equal(value, train(True)[name]), name


@pytest.mark.parametrize("keep", [4, 7])
def test_a_history_keeps_evenly_distant_measurements_and_the_latest(keep):
    thinned = History(keep)
    for given in range(1000):
        thinned.add(given)
        assert len(thinned.measurements) <= keep
        assert thinned.measurements[0] == 0
        assert thinned.measurements[-1] == given
        distances = {b - a for a, b in itertools.pairwise(thinned.measurements[:-1])}
        assert len(distances) <= 1
        assert len(thinned.measurements) >= min(given + 1, keep // 2 + 1)


def test_a_monitor_continues_from_its_state(model, batch, tmp_path):
    optimizer = sgd(model)
    with Monitor(model, every=3, keep=4) as monitor:
        for _ in range(20):
            step(model, optimizer, batch)
        torch.save(monitor.state_dict(), tmp_path / "monitor.pt")
    state = torch.load(tmp_path / "monitor.pt", weights_only=True)
    assert json.loads(json.dumps(state)) == state
    with Monitor(model, every=3, keep=4) as other:
        other.load_state_dict(state)
        assert not attached()  # step 20 is not measured
        assert [m.step for m in other.measurements] == [m.step for m in monitor.measurements]
        assert sizes(other.measurements[-1]) == pytest.approx(sizes(monitor.measurements[-1]), rel=1e-5)
        for _ in range(20):
            step(model, optimizer, batch)
    with Monitor(model, every=3, keep=4) as whole:
        for _ in range(40):
            step(model, optimizer, batch)
    assert [m.step for m in other.measurements] == [m.step for m in whole.measurements]


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"step": -1, "measurements": {"added": 0, "stride": 1, "extra": False, "kept": []}},
        {"step": 1, "measurements": None},
        {"step": 1, "measurements": {"added": 0, "stride": 0, "extra": False, "kept": []}},
        {"step": 1, "measurements": {"added": 0, "stride": 1, "extra": False, "kept": [{"layers": 3}]}},
    ],
)
def test_a_wrong_state_is_refused_and_changes_nothing(model, batch, state):
    with Monitor(model, every=3) as monitor:
        step(model, sgd(model), batch)
        before = monitor.state_dict()
        with pytest.raises(ValueError, match="this is not the state of a Monitor"):
            monitor.load_state_dict(state)
        assert monitor.state_dict() == before


def test_every_measurement_goes_to_the_sinks(model, batch):
    seen, optimizer = [], sgd(model)
    with Monitor(model, every=1, keep=4, sinks=[seen.append]) as monitor:
        for _ in range(9):
            step(model, optimizer, batch)
    assert [m.step for m in seen] == list(range(9))
    assert len(monitor.measurements) <= 4
    assert seen[-1] is monitor.measurements[-1]
