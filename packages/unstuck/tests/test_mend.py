"""Mend: its changes, what it does not touch, and that a step without improvement is undone."""

import copy
import dataclasses

import pytest
import torch
from sigmoidcore.diagnosis.repair import Change
from support.untouched import untouched
from torch import nn

import sigmoidcore as sc
from sigmoidcore.nn.recurrent import CoreLSTM
from unstuck.findings import Severity

CROSS_ENTROPY = nn.functional.cross_entropy


def mlp(activation, depth, width=32, features=8, classes=4):
    layers = [nn.Linear(features, width), activation()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, classes))


def batch(samples=200, features=8, classes=4):
    return torch.randn(samples, features), torch.randint(classes, (samples,))


def deep_sigmoids(depth=30):
    model = mlp(nn.Sigmoid, depth)
    return model, sc.diagnose(model, *batch(), CROSS_ENTROPY)


def trained(model):
    """As after a training: no bias is constant, and weights are over the edge of their first distribution."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return model


def saturated_by_offset(activation=nn.Tanh):
    """The first 24 of the 32 neurons of the second layer of a trained network are shut."""
    model = trained(mlp(activation, 3))
    with torch.no_grad():
        model[2].bias[:24] += 20
    return model, sc.diagnose(model, *batch(), CROSS_ENTROPY)


def rules(diagnosis):
    return {f.rule for f in diagnosis.findings if f.severity is not Severity.NOTE}


def test_30_untrained_sigmoids_are_prepared_and_learn_at_the_named_rate():
    model, diagnosis = deep_sigmoids()
    assert "US101" in rules(diagnosis)
    mending = diagnosis.mend()
    assert "US101" not in rules(mending.after)
    assert [change.what for change in mending.done] == ["converted", "prepared"]
    assert mending.done[0].how == "30 Sigmoid -> 30 cores, centered"
    assert mending.before.measurement.profile.spread > 1e10
    assert sc.gradient_profile(model, *batch(), CROSS_ENTROPY).spread < 3
    assert mending.train == "optimizer = torch.optim.Adam(sc.depth_scaled_lr(model))"
    subject = diagnosis.subject
    names = {"torch": torch, "sc": sc, "model": model}
    exec(mending.train, names)
    for _ in range(25):
        names["optimizer"].zero_grad()
        loss = CROSS_ENTROPY(model(subject.inputs), subject.targets)
        loss.backward()
        names["optimizer"].step()
    assert loss < 1.2 < 1.37 < diagnosis.measurement.loss


def test_untrained_relus_without_a_gradient_get_fresh_weights_and_learn():
    model = mlp(nn.ReLU, 20)
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight *= 0.3
    mending = sc.diagnose(model, *batch(), CROSS_ENTROPY).mend()
    assert [change.what for change in mending.done] == ["drawn"]
    assert mending.after.healthy
    assert mending.train == "optimizer = torch.optim.Adam(sc.depth_scaled_lr(model))"


def test_trained_weights_stay():
    model = trained(mlp(nn.Tanh, 12))
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight *= 0.5
    weights = copy.deepcopy(dict(model.named_parameters()))
    mending = sc.diagnose(model, *batch(), CROSS_ENTROPY).mend()
    assert [change.what for change in mending.done] == ["converted", "calibrated"]
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())


def test_a_network_that_does_not_learn_although_its_diagnosis_is_better_is_not_called_mended():
    model = mlp(nn.Sigmoid, 20)
    inputs, _ = batch()
    diagnosis = sc.diagnose(model, inputs, None, lambda outputs, _: 1 + 1e-6 * outputs.square().mean())
    with untouched(model):
        mending = diagnosis.mend()
    assert mending.done == ()
    text = " ".join(str(mending).split())
    assert "converted and prepared, but undone because in 25 steps on the batch, the loss falls to 1, and to 1" in text


def test_without_a_loss_no_training_is_tried_and_the_report_says_so():
    model = mlp(nn.Sigmoid, 20)
    mending = sc.diagnose(model, batch()[0]).mend()
    assert mending.done
    assert mending.train is None
    assert "no training was tried without a loss function" in str(mending)


def test_only_the_saturated_neurons_of_the_named_activation_are_opened():
    model, diagnosis = saturated_by_offset()
    assert "US201" in rules(diagnosis)
    mending = diagnosis.mend()
    assert [type(layer) for layer in model[1::2]] == [nn.Tanh, sc.SigmoidCore, nn.Tanh]
    core = model[3]
    assert torch.equal(core.slope, torch.full((32,), 2.0))
    assert bool((core.shift[:24] > 19).all())
    assert torch.equal(core.shift[24:], torch.zeros(8))
    assert mending.after.healthy
    assert mending.done == (
        Change("converted", "3", "1 Tanh -> 1 core, the same function"),
        Change("opened", "3", "24 of 32 neurons opened"),
    )
    assert mending.left == ()


def test_neurons_saturated_by_scale_get_a_smaller_slope():
    model = trained(mlp(nn.Sigmoid, 2))
    with torch.no_grad():
        model[2].weight[:20] *= 1000
    diagnosis = sc.diagnose(model, *batch(), CROSS_ENTROPY)
    assert "US201" in rules(diagnosis)
    diagnosis.mend()
    assert bool((model[3].slope[:20] < 0.5).all())
    assert torch.equal(model[3].slope[20:], torch.ones(12))
    assert isinstance(model[1], nn.Sigmoid)


def test_a_vanishing_gradient_behind_saturated_neurons_is_repaired_with_them():
    model = trained(mlp(nn.Sigmoid, 10))
    with torch.no_grad():
        model[-3].bias += 20
    diagnosis = sc.diagnose(model, *batch(), CROSS_ENTROPY)
    assert rules(diagnosis) == {"US201"}
    mending = diagnosis.mend()
    assert mending.after.healthy
    assert mending.done[-1].what == "calibrated"


class Twice(nn.Module):
    """Calls tanh twice, by name; the second one is shut."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        with torch.no_grad():
            self.second.bias.fill_(-30)

    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


def test_the_saturated_one_of_two_calls_of_a_function_becomes_a_core():
    model = trained(Twice())
    mending = sc.diagnose(model, *batch(), CROSS_ENTROPY).mend()
    (name, core), *others = [(n, m) for n, m in model.named_modules() if isinstance(m, sc.SigmoidCore)]
    assert (name, others) == ("tanh_1", [])
    assert bool((core.shift < -25).all())
    assert mending.after.healthy


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.last = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        return self.last(self.lstm(x)[0][:, -1])


def test_a_forgetting_lstm_becomes_a_layer_of_cores_with_the_same_parameters():
    model = Reader()
    weights = [p.clone() for p in model.parameters()]
    parameters = [id(p) for p in model.parameters()]
    diagnosis = sc.diagnose(model, torch.randn(64, 100, 8), torch.randint(4, (64,)), CROSS_ENTROPY)
    assert rules(diagnosis) == {"US103"}
    assert diagnosis.mend().after.healthy
    assert isinstance(model.lstm, CoreLSTM)
    assert [id(p) for p in model.parameters()] == parameters
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_a_second_mend_changes_nothing():
    _, diagnosis = saturated_by_offset()
    again = diagnosis.mend().after.mend()
    assert again.done == ()
    assert "nothing was mended: the model is as it was" in str(again)


def test_another_batch_and_a_loss_of_the_outputs_alone_work():
    model = mlp(nn.Sigmoid, 20)
    inputs, labels = batch()
    diagnosis = sc.diagnose(model, inputs, None, lambda outputs, _: CROSS_ENTROPY(outputs, labels))
    other, others = batch()
    mending = diagnosis.mend(inputs=other, loss_fn=lambda outputs, _: CROSS_ENTROPY(outputs, others))
    assert mending.after.subject.inputs is other
    assert [change.what for change in mending.done] == ["converted", "prepared"]


class Remembers(nn.Module):
    """Keeps what its last hidden layer made, for a penalty in the loss."""

    def __init__(self):
        super().__init__()
        self.deep, self.last = mlp(nn.Sigmoid, 20)[:-1], nn.Linear(32, 4)

    def forward(self, x):
        self.hidden = self.deep(x)
        return self.last(self.hidden)


def test_a_loss_that_reads_the_model_sees_the_repaired_one():
    model = Remembers()
    seen = []

    def loss(outputs, targets):
        seen.append(float(model.hidden.detach().square().mean()))
        return CROSS_ENTROPY(outputs, targets) + model.hidden.square().mean()

    mending = sc.diagnose(model, *batch(), loss).mend()
    assert [change.what for change in mending.done] == ["converted", "prepared"]
    assert seen[-1] != seen[0]
    assert seen[-1] == pytest.approx(float(model.hidden.detach().square().mean()))


def test_a_trained_network_of_relus_is_not_changed_and_the_report_says_why():
    model = trained(mlp(nn.ReLU, 30))
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight *= 0.3
    diagnosis = sc.diagnose(model, *batch(), CROSS_ENTROPY)
    with untouched(model):
        mending = diagnosis.mend()
    assert mending.done == ()
    assert "US101" in {left.rule for left in mending.left}
    assert "1, 3, 5 and 27 more: ReLU is not a sigmoid" in " ".join(str(mending).split())


class Gated(nn.Module):
    """A gate that is always open."""

    def __init__(self):
        super().__init__()
        self.inside, self.to_gate, self.gate, self.last = (
            nn.Linear(8, 16),
            nn.Linear(8, 16),
            nn.Sigmoid(),
            nn.Linear(16, 4),
        )
        with torch.no_grad():
            self.to_gate.bias.fill_(-5)

    def forward(self, x):
        return self.last(self.inside(x) * self.gate(self.to_gate(x)))


def test_a_gate_never_becomes_a_core():
    model = trained(Gated())
    mending = sc.diagnose(model, *batch(), CROSS_ENTROPY).mend()
    assert isinstance(model.gate, nn.Sigmoid)
    assert "gate: Sigmoid its result multiplies another signal" in mending.left[0].why


def test_a_finding_that_the_batch_does_not_show_is_reported():
    model, diagnosis = saturated_by_offset()
    with torch.no_grad():
        model[2].bias[:24] -= 20
    mending = diagnosis.mend()
    assert mending.done == ()
    assert [(left.rule, left.why) for left in mending.left] == [("US201", "this batch does not show it")]


@pytest.mark.parametrize(("activation", "rates"), [(nn.Tanh, True), (nn.ReLU, False)])
def test_updates_that_a_monitor_found_too_small_are_left_with_their_remedy(activation, rates):
    model = mlp(activation, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-9)
    inputs, targets = batch()
    with sc.Monitor(model, every=5) as monitor:
        for _ in range(15):
            optimizer.zero_grad()
            CROSS_ENTROPY(model(inputs), targets).backward()
            optimizer.step()
    mending = monitor.diagnosis().mend(inputs=inputs, targets=targets, loss_fn=CROSS_ENTROPY)
    assert mending.done == ()
    assert [left.rule for left in mending.left] == ["US301"]
    assert mending.left[0].why.startswith("Raise the learning rate")
    assert ("sc.depth_scaled_lr(model) gives the rates" in mending.left[0].why) == rates


def test_a_step_that_does_not_help_is_undone_with_the_structure_of_the_model():
    model = mlp(nn.ReLU, 30)
    model[31] = nn.Tanh()  # a core is level with itself, and the gradient goes on vanishing before and after it
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight *= 0.3
    diagnosis = sc.diagnose(model, *batch(), CROSS_ENTROPY)
    with untouched(model):
        mending = diagnosis.mend()
    assert mending.done == ()
    assert mending.after is mending.before
    assert "converted and calibrated, but undone without improvement" in " ".join(str(mending).split())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interruption_restores_the_model(monkeypatch, error):
    model, diagnosis = deep_sigmoids(20)

    def interrupted(model, *args, **kwargs):
        next(m for m in model.modules() if isinstance(m, sc.SigmoidCore)).set_slope(7.0)
        raise error

    monkeypatch.setattr("sigmoidcore.diagnosis.repair.mender.prepare", interrupted)
    with untouched(model), pytest.raises(error):
        diagnosis.mend()


def test_slopes_and_shifts_of_existing_cores_are_restored(monkeypatch):
    model = trained(mlp(nn.Sigmoid, 20))
    sc.convert(model)
    diagnosis = sc.diagnose(model, *batch(), CROSS_ENTROPY)

    def worse(model, *args, **kwargs):
        for core in model[1::2]:
            core.set_slope(0.5)
            core.set_shift(1.0)
        raise ValueError("the preactivations of core '1' are not finite")

    monkeypatch.setattr("sigmoidcore.diagnosis.repair.mender.calibrate", worse)
    with untouched(model):
        mending = diagnosis.mend()
    assert "the preactivations of core '1' are not finite" in " ".join(str(mending).split())


class Mixed(nn.Module):
    """A part that is mended beside all that must not be touched."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.deep = mlp(nn.Sigmoid, 20)

    def forward(self, x):
        return self.deep(self.dropout(self.norm(x)))


def test_gradients_modes_running_statistics_hooks_and_random_generators_do_not_change():
    model = trained(Mixed()).train()
    model.deep[0].eval()
    calls = []
    handle = model.deep[1].register_forward_hook(lambda *args: calls.append(1))
    inputs, targets = batch()
    CROSS_ENTROPY(model(inputs), targets).backward()
    diagnosis = sc.diagnose(model, inputs, targets, CROSS_ENTROPY)
    with untouched(model, but=("slope", "shift", *(f"deep.{i}" for i in range(1, 40, 2)))):
        mending = diagnosis.mend()
    assert [change.what for change in mending.done] == ["converted", "calibrated"]
    calls.clear()
    model(inputs)
    assert calls == [1]
    handle.remove()
    model(inputs)
    assert calls == [1]


def test_a_diagnosis_from_a_file_has_no_model_to_mend():
    _, diagnosis = saturated_by_offset()
    with pytest.raises(ValueError, match="has no model"):
        dataclasses.replace(diagnosis, subject=None).mend()


def test_a_diagnosis_without_a_batch_asks_for_one():
    _, diagnosis = saturated_by_offset()
    subject = dataclasses.replace(diagnosis.subject, inputs=None, targets=None)
    with pytest.raises(ValueError, match=r"has no batch.*inputs="):
        dataclasses.replace(diagnosis, subject=subject).mend()
    inputs, targets = batch()
    mending = dataclasses.replace(diagnosis, subject=subject).mend(inputs=inputs, targets=targets)
    assert mending.done
    assert mending.after.measurement.loss_function == "cross_entropy"


def test_targets_without_their_inputs_are_refused():
    _, diagnosis = saturated_by_offset()
    with pytest.raises(ValueError, match="targets are given without their inputs"):
        diagnosis.mend(targets=torch.zeros(3))


def test_inputs_with_nan_are_refused_and_nothing_changes():
    model, diagnosis = deep_sigmoids()
    inputs, targets = batch()
    inputs[3, 1] = float("nan")
    with untouched(model), pytest.raises(ValueError, match=r"1 non-finite value"):
        diagnosis.mend(inputs=inputs, targets=targets)


def test_the_report_fits_80_columns_and_shows_before_and_after():
    _, diagnosis = deep_sigmoids()
    lines = str(diagnosis.mend()).split("\n")
    assert lines[0] == "mended"
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("  before") and "US101" in line for line in lines)
    assert any(line.startswith("  after") for line in lines)
