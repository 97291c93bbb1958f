"""Trials: recorded steps are trained again on copies, as they were and with one edit."""

import copy
import dataclasses
import inspect
import math
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_post_hook

import unstuck
from unstuck.findings import NONE_TRIED, STANDS, Finding, Severity
from unstuck.report.trials import trial_text
from unstuck.rules import RULES
from unstuck.trials import Recording, edits, replacements, tried, verdict
from unstuck.trials.training import train

pytestmark = pytest.mark.trials
SECONDS = 60.0


def batch(samples: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(samples, 8)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def network(*end: nn.Module, inner: nn.Module | None = None, outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 32), inner or nn.Tanh(), nn.Linear(32, outputs), *end)


def suspected(rule: str) -> Finding:
    return Finding(rule, "", Severity.WARNING, (), 0.0, 0.0, "", "")


def recorded(model, loss, x, y, optimizer=None, steps: int = 4) -> Recording:
    """The recording of a short training."""
    optimizer = optimizer or torch.optim.Adam(model.parameters(), 1e-2)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    return monitor.recording


def of(rule: str, recording: Recording):
    """The trial of a rule."""
    findings, _trials = tried([suspected(rule)], recording, SECONDS)
    return findings[0].trial


def test_a_softmax_before_cross_entropy_is_proved():
    diagnosis = unstuck.diagnose(network(nn.Softmax(1)), *batch(), F.cross_entropy)
    trial = diagnosis.findings[0].trial
    assert diagnosis.findings[0].rule == "US601"
    assert trial.proved
    assert trial.edit == "without `softmax` in `3`"
    assert trial.after[-1] < trial.before[-1]
    assert "Proved by a trial: without `softmax` in `3`, 100 steps bring the loss from" in " ".join(
        str(diagnosis).split()
    )
    assert unstuck.Diagnosis.from_json(diagnosis.to_json()).findings[0].trial.edit == trial.edit


def test_inputs_that_are_too_large_for_the_loss_are_proved_by_standardised_ones():
    x, y = batch()
    loss = lambda outputs, targets: F.cross_entropy(outputs.exp(), targets)  # noqa: E731
    assert (
        of("US401", recorded(network(inner=nn.Identity()), loss, 1e4 * x + 1e5, y)).edit == "with standardised inputs"
    )


@pytest.mark.parametrize("end", [nn.Identity(), nn.Softmax(1)])
def test_a_loss_of_logarithms_that_reads_something_else_is_proved(end):
    trial = of("US601", recorded(network(end), F.nll_loss, *batch()))
    assert trial.proved
    assert trial.edit.startswith("with logarithms of probabilities in `nll_loss`")
    assert 0 < trial.after[-1] < trial.after[0]


@pytest.mark.parametrize("x", [torch.tensor([0.2, 0.8]), torch.tensor([[2.0, -1.0]])])
def test_logarithms_are_those_of_probabilities_or_of_the_softmax_also_of_a_single_sample(x):
    expected = x.log() if x.dim() == 1 else x.log_softmax(1)
    (node,) = recorded(network(), F.nll_loss, *batch()).steps[-1].calls("nll_loss")
    y = torch.tensor(1) if x.dim() == 1 else torch.tensor([1])
    torch.testing.assert_close(replacements.with_logarithms(1, node, x, y), F.nll_loss(expected, y))


def test_an_adapter_that_came_after_the_optimizer_of_a_frozen_network_is_proved():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    model.requires_grad_(False)
    model.insert(2, nn.Linear(32, 32))
    trial = of("US303", recorded(model, F.cross_entropy, *batch(), optimizer))
    assert (trial.proved, trial.edit) == (True, "with the parameters in the optimizer that are in none")


def test_a_healthy_network_learns_its_batch():
    model = network()
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for x, y in [batch() for _ in range(6)]:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    diagnosis = monitor.diagnosis(SECONDS)
    assert diagnosis.healthy
    assert diagnosis.trials.steps == 100
    assert diagnosis.trials.left < 0.5
    assert "it learns the recorded batches" in str(diagnosis)


def test_a_loss_that_falls_from_far_above_chance_to_there_shows_no_learning():
    hidden = [part for _ in range(8) for part in (nn.Linear(8, 8), nn.Sigmoid())]
    model = nn.Sequential(*hidden, nn.Linear(8, 3))
    with torch.no_grad():
        model[-1].weight *= 100
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for x, y in [batch() for _ in range(6)]:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    diagnosis = monitor.diagnosis(SECONDS)
    assert diagnosis.trials.left < 0.5
    assert [f.severity for f in diagnosis.findings if f.rule == "US101"] == [Severity.WARNING]
    assert "it learns the recorded batches slowly" in str(diagnosis)


def test_batches_are_learned_by_heart_if_the_training_stands_at_chance():
    model, labels = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 4)), nn.Linear(20, 4)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with unstuck.Monitor(model, every=10, trials=True) as monitor:
        for _ in range(150):
            x = torch.randn(16, 20)
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels(x).argmax(1)).backward()
            optimizer.step()
    learns = monitor.diagnosis(SECONDS)
    for level, heart in ((math.log(4), True), (4 * math.log(4), False)):  # the second may be a sum of losses
        told = str(dataclasses.replace(learns, history=[dataclasses.replace(m, loss=level) for m in learns.history]))
        assert ("by heart" in told) == ("yet it does not learn" in told) == heart
    assert "by heart" not in str(learns)


def test_of_a_healthy_network_that_may_be_trained_already_nothing_is_said():
    diagnosis = unstuck.diagnose(network(), *batch(), F.cross_entropy)
    assert diagnosis.healthy
    assert diagnosis.trials == NONE_TRIED


def test_a_failed_copy_leaves_the_training_alone(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("unstuck.trials.recording.copied", fail)
    recording = recorded(network(), F.cross_entropy, *batch())
    assert recording.missing == "OutOfMemoryError: no memory"


def test_a_network_that_trains_beside_another_is_not_tried():
    generator, critic = network(outputs=8), network(outputs=1)
    moves = torch.optim.Adam(generator.parameters()), torch.optim.Adam(critic.parameters())
    with unstuck.Monitor(generator, every=1, trials=True) as monitor:
        for _ in range(3):
            moves[1].zero_grad()
            critic(generator(batch()[0]).detach()).sigmoid().log().mean().neg().backward()
            moves[1].step()
            moves[0].zero_grad()
            critic(generator(batch()[0])).sigmoid().log().mean().neg().backward()
            moves[0].step()
    assert monitor.recording.missing == "another network trains beside it, which the loss reads"


def test_a_training_whose_steps_do_not_learn_when_trained_again_is_not_judged():
    model, x = network(outputs=1), batch()[0]
    optimizer = torch.optim.SGD(model.parameters(), 3.0)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for _ in range(8):
            optimizer.zero_grad()
            F.mse_loss(model(x), x[:, :1]).backward()
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
            for parameter, old in zip(model.parameters(), before, strict=True):
                parameter.data.lerp_(old, 0.99)
    _findings, trials = tried((), monitor.recording, SECONDS)
    assert trials.missing == "trained again, the recorded steps do not learn as the training did"


@pytest.mark.parametrize(("limit", "rule"), [(1e-7, "US301"), (0.0, "US306")])
def test_gradients_that_are_clipped_to_nothing_are_proved(limit, rule):
    model, (x, y) = network(), batch()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with unstuck.Monitor(model, every=5, trials=True) as monitor:
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), limit)
            optimizer.step()
    (finding,) = (f for f in monitor.diagnosis(seconds=SECONDS).findings if f.rule == rule)
    assert finding.trial is not None
    assert finding.trial.proved
    assert finding.trial.edit == "with the gradients of the backward passes"


@pytest.mark.parametrize(("unscales", "expected"), [(False, [True]), (True, [])])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, partial(torch.optim.SGD, fused=True)])
def test_gradients_that_are_clipped_while_a_scaler_multiplies_them_are_proved(optimizer, unscales, expected):
    model, (x, y) = network(), batch()
    own, scaler = optimizer(model.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=2.0**14)
    with unstuck.Monitor(model, every=5, trials=True) as monitor:
        for _ in range(60):
            own.zero_grad()
            loss = F.cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            if unscales:
                scaler.unscale_(own)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(own)
            scaler.update()
    found = monitor.diagnosis(seconds=SECONDS)
    assert [f.trial.proved for f in found.findings if f.rule == "US301"] == expected
    assert monitor.measurements[-1].loss == pytest.approx(loss.item(), abs=0.02)
    assert found.trials.losses[0] == pytest.approx(monitor.measurements[0].loss, rel=0.1)


def test_losses_of_trials_do_not_depend_on_the_scale_of_each_step():
    found = []
    for growth in (1, 10**6):
        torch.manual_seed(0)
        model, (x, y) = network(nn.Softmax(1)), batch()
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=growth)
        with unstuck.Monitor(model, every=1, trials=True) as monitor:
            for _ in range(8):
                optimizer.zero_grad()
                scaler.scale(F.cross_entropy(model(x), y)).backward()
                scaler.step(optimizer)
                scaler.update()
        found.append([monitor.recording.last, *monitor.diagnosis(seconds=SECONDS).trials.losses[:5]])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_nothing_of_the_user_changes():
    model, (x, y) = network(nn.BatchNorm1d(3), nn.Dropout(0.1), nn.Softmax(1)), batch()
    optimizer = torch.optim.Adam(model.parameters())
    stepped = []
    hook = register_optimizer_step_post_hook(lambda optimizer, *_: stepped.append(optimizer))
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    gradients = [p.grad.clone() for p in model.parameters()]
    moments = copy.deepcopy(optimizer.state_dict())
    diagnosis = monitor.diagnosis()
    hook.remove()
    assert diagnosis.trials.steps > 0
    assert torch.equal(torch.get_rng_state(), random)
    assert stepped == [optimizer] * 3
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0, equal_nan=True)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    torch.testing.assert_close(optimizer.state_dict(), moments, rtol=0, atol=0)


def test_a_training_with_trials_is_the_same_bit_for_bit():
    results = []
    for trials in (False, True):
        torch.manual_seed(0)
        model = network(nn.Dropout(0.2))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        with unstuck.Monitor(model, every=2, trials=trials) as monitor:
            for step in range(6):
                optimizer.zero_grad()
                F.cross_entropy(model(torch.randn(16, 8)), torch.randint(3, (16,))).backward()
                optimizer.step()
                if step == 3:
                    monitor.diagnosis()
        results.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*results)


CASES = {
    "US206": lambda: recorded(network(), F.cross_entropy, batch()[0] * 1e4, batch()[1]),
    "US301": lambda: adam(1e-7),
    "US302": lambda: too_fast(network(outputs=1)),
    "US307": lambda: decayed(network()),
    "US505": lambda: recorded(frozen(), F.cross_entropy, *fixed()),
    "US507": lambda: recorded(network(inner=nn.Identity(), outputs=2), F.cross_entropy, *crossed()),
    "US510": lambda: recorded(network(nn.Dropout(0.95)), F.cross_entropy, *fixed()),
    "US602": lambda: recorded(network(outputs=1), F.mse_loss, fixed()[0], fixed()[0][:, 0]),
    "US604": lambda: recorded(network(outputs=1), F.mse_loss, fixed()[0], 1e5 + 100 * fixed()[0][:, :1]),
    "US101": lambda: recorded(deep(), F.cross_entropy, *fixed()),
    "US202": lambda: recorded(dead(), F.cross_entropy, *fixed()),
    "US401": lambda: recorded(network(nn.ReLU(), outputs=1), of_log, fixed()[0], fixed()[0][:, :1].exp()),
    "US603": lambda: recorded(network(nn.Sigmoid(), outputs=8), by_hand, 9 * fixed()[0].abs(), 9 * fixed()[0].abs()),
    "US601": lambda: recorded(network(nn.LogSoftmax(1)), lambda x, y: F.nll_loss(x.log(), y), *fixed()),
    "US501": lambda: recorded(Cut(), F.cross_entropy, *fixed()),
    "US502": lambda: recorded(Rounded(), F.cross_entropy, *fixed()),
    "US504": lambda: recorded(Unregistered(), F.cross_entropy, *fixed()),
}  # fmt: skip


def fixed() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return batch()


def crossed() -> tuple[torch.Tensor, torch.Tensor]:
    x = fixed()[0]
    return x, (x[:, 0] * x[:, 1] > 0).long()


def adam(rate: float) -> Recording:
    model = network()
    return recorded(model, F.cross_entropy, *fixed(), torch.optim.Adam(model.parameters(), rate))


def too_fast(model: nn.Module) -> Recording:
    x = fixed()[0]
    return recorded(model, F.mse_loss, x, x[:, :1], torch.optim.SGD(model.parameters(), 3.0))


def decayed(model: nn.Module) -> Recording:
    return recorded(model, F.cross_entropy, *fixed(), torch.optim.SGD(model.parameters(), 0.5, weight_decay=1.0))


def frozen() -> nn.Module:
    model = network(nn.Linear(3, 3))
    model[0].requires_grad_(False).weight.zero_()
    return model


def deep() -> nn.Module:
    inner = [layer for _ in range(12) for layer in (nn.Linear(32, 32), nn.Sigmoid())]
    return nn.Sequential(nn.Linear(8, 32), nn.Sigmoid(), *inner, nn.Linear(32, 3))


def dead() -> nn.Module:
    model = network(inner=nn.ReLU())
    nn.init.constant_(model[0].bias, -30.0)
    return model


def of_log(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.log() - targets.log()).square().mean()


def by_hand(p: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    p = p.clamp(1e-7, 1 - 1e-7)
    return -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(8, 32), nn.Linear(32, 3)
        nn.init.normal_(self.body.weight, std=1e-3)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)).detach())


class Rounded(Cut):
    def forward(self, x):
        return self.head(torch.tanh(self.body(x)).round())


class Unregistered(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(8, 32), nn.Linear(32, 3)]
        nn.init.normal_(self.layers[0].weight, std=1e-3)
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.layers[1](torch.tanh(self.layers[0](x))) + self.bias


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("rule", CASES)
def test_the_edit_of_a_rule_proves_it(rule):
    trial = of(rule, CASES[rule]())
    assert trial is not None
    assert trial.proved, trial


def test_uncleared_gradients_are_trained_as_they_were():
    model, (x, y) = network(), batch()
    recording = recorded(model, F.cross_entropy, x, y, torch.optim.SGD(model.parameters(), 2.0))
    findings, trials = tried([suspected("US305")], recording, SECONDS)
    assert findings[0].trial.before != findings[0].trial.after
    assert trials.losses == findings[0].trial.before


@pytest.mark.parametrize("rule", ["US301", "US302", "US101", "US510", "US206"])
def test_a_suspicion_of_a_healthy_network_is_not_proved(rule):
    x, y = batch()
    model = nn.Sequential(*(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)))
    trial = of(rule, recorded(model, F.cross_entropy, x, y, torch.optim.Adam(model.parameters(), 1e-2)))
    assert trial is None or not trial.proved


def test_proved_findings_come_first():
    recording = recorded(network(nn.Softmax(1)), F.cross_entropy, *batch())
    findings, _trials = tried([suspected("US101"), suspected("US601")], recording, SECONDS)
    assert [finding.rule for finding in findings] == ["US601", "US101"]


def test_an_error_that_is_not_proved_is_a_warning_unless_it_is_arithmetic_and_a_large_rate_that_does_no_harm_a_note():
    still = recorded(network(), lambda o, y: F.cross_entropy(o * 0.0, y), *batch())
    errors = [replace(suspected(rule), severity=Severity.ERROR) for rule in ("US301", "US302", "US401")]
    findings, _trials = tried(errors, still, SECONDS)
    assert {f.rule: f.severity for f in findings} == {"US401": "error", "US301": "warning", "US302": "note"}
    assert [f.rule for f in findings] == ["US401", "US301", "US302"]


def test_a_training_that_has_learned_what_its_latest_steps_read_is_said_to_learn():
    """The first loss was as small, but on other targets, such as the returns of a policy that was worse."""
    model, (x, _) = network(outputs=1), batch()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for step in range(200):
            targets = 10 * min(1, step / 100) * (1 + x[:, :1] / 3)
            optimizer.zero_grad()
            F.mse_loss(model(x), targets).backward()
            optimizer.step()
    with pytest.MonkeyPatch.context() as patched:  # as if its steps did not learn any more
        patched.setattr(verdict, "train", lambda recording, edit, steps, until: train(recording, edit, 0) * (steps + 1))
        (found,), trials = tried([suspected("US201")], monitor.recording, SECONDS)
    assert found.severity is Severity.NOTE
    assert trials.missing == "trained again, the recorded steps do not learn as the training did"


@pytest.mark.parametrize(("level", "expected"), [(1.0, ["US301"]), (2.0, [])])
def test_a_loss_that_rises_does_not_stand_still_for_small_steps(level, expected, monkeypatch):
    still = recorded(network(), lambda o, y: F.cross_entropy(o * 0.0, y), *batch())
    losses = lambda _recording, edit, steps, _until: [1.0] + steps * [0.01 if edit.rate > 1 else level]  # noqa: E731
    monkeypatch.setattr(verdict, "train", losses)
    assert [finding.rule for finding in tried([], still, SECONDS)[0]] == expected


def test_a_trial_that_its_time_has_cut_off_decides_nothing(monkeypatch):
    monkeypatch.setattr(verdict, "STEPS", 50)
    still = recorded(network(), lambda o, y: F.cross_entropy(o * 0.0, y), *batch())
    error = replace(suspected("US301"), severity=Severity.ERROR)
    (found,), _trials = tried([error], still, SECONDS)
    assert found.severity is Severity.WARNING
    assert trial_text(found.trial).startswith("Not decided in the time for trials")
    monkeypatch.setattr(verdict, "train", lambda *args: train(*args)[:31])
    (found,), _trials = tried([error], still, SECONDS)
    assert found.severity is Severity.ERROR


def test_what_is_said_of_the_signals_of_a_network_that_learns_is_a_note():
    model, (x, y) = network(), batch()
    learning = recorded(model, F.cross_entropy, x, y, torch.optim.Adam(model.parameters(), 1e-2))
    findings, trials = tried([suspected("US101"), suspected("US606")], learning, SECONDS)
    assert trials.left < 0.5
    assert [(finding.rule, finding.severity) for finding in findings] == [("US606", "warning"), ("US101", "note")]


class Own(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient


def test_what_cannot_run_again_says_why(monkeypatch):
    x, y = batch()
    findings, trials = tried((), recorded(network(), lambda o, y: F.cross_entropy(Own.apply(o), y), x, y), SECONDS)
    assert (findings, trials.missing) == ((), "the step has a custom autograd function")
    assert tried((), Recording(network()), SECONDS)[1].missing
    monkeypatch.setattr("unstuck.trials.recording.BYTES", 100)
    assert "larger than" in recorded(network(), F.cross_entropy, x, y).missing
    assert "not tried: weights and batches are larger" in str(unstuck.diagnose(network(), x, y, F.cross_entropy))


def test_slow_steps_are_not_tried(monkeypatch):
    recording = recorded(network(), F.cross_entropy, *batch())
    _findings, trials = tried((), recording, 1e-9)
    assert trials.missing.startswith("20 steps do not fit into")


def test_a_loss_below_0_is_not_compared():
    model, (x, y) = network(nn.LogSoftmax(1)), batch()
    recording = recorded(model, lambda o, y: o.gather(1, y[:, None]).mean(), x, y)
    _findings, trials = tried((), recording, SECONDS)
    assert math.isnan(trials.left)


def test_a_loss_below_0_that_becomes_nan_is_rescued_by_what_keeps_it_finite():
    x, quiet = fixed()[0], torch.arange(64)[:, None] < 8
    recorded_steps = recorded(network(outputs=8), lambda o, y: -(o * ~quiet).square().sum(1).sqrt().mean(), x, x)
    trial = of("US401", recorded_steps)
    assert trial.proved
    assert not math.isfinite(trial.before[-1])
    assert all(map(math.isfinite, trial.after))


def test_steps_are_kept_from_before_the_loss_was_lost():
    model, (x, y) = network(outputs=1), fixed()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    recording = recorded(model, F.mse_loss, x, 1e12 * y[:, None].float(), optimizer, steps=20)
    assert all(math.isfinite(step.loss) for step in recording.steps)
    assert math.isnan(recording.last), "the training itself is lost"
    assert of("US604", recording).proved


def test_points_that_the_loss_makes_leaves_of_are_leaves_again():
    x, model = fixed()[0], network(outputs=1)

    def equation(outputs, targets):
        points = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(points).sum(), points, create_graph=True)
        return slope.square().mean() + F.mse_loss(outputs, targets)

    _findings, trials = tried((), recorded(model, equation, x, x[:, :1]), SECONDS)
    assert not trials.missing
    assert trials.left < STANDS


def test_a_loss_that_compares_nothing_may_have_a_large_smallest_value():
    """The partial likelihood of Cox's survival model depends on ranks alone."""
    torch.manual_seed(0)
    x, model = torch.randn(64, 8), nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1), nn.Flatten(0))
    order, optimizer = torch.randperm(64), torch.optim.Adam(model.parameters(), 3e-4)
    with unstuck.Monitor(model, trials=True) as monitor:
        for _ in range(20):
            optimizer.zero_grad()
            risks = model(x)[order]
            (risks.logcumsumexp(0) - risks).mean().backward()
            optimizer.step()
    diagnosis = monitor.diagnosis(10)
    assert diagnosis.trials.left > STANDS
    assert "not learn" not in str(diagnosis)
    assert "on the recorded batches: " in str(diagnosis)


def test_only_a_monitor_with_trials_records():
    assert unstuck.Monitor(network()).recording is None


def test_all_optimizers_of_a_step_train():
    model, (x, y) = network(), batch()
    first, second = (torch.optim.SGD(model[i].parameters(), 0.1) for i in (0, 2))
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for _ in range(3):
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            first.step()
            second.step()
    assert monitor.recording.held == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("made_again", [False, True])
def test_a_recorded_step_is_over_when_its_parameters_move_again_also_where_nothing_is_measured(made_again):
    model, (x, y) = network(), batch()
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for _ in range(3)]
    with unstuck.Monitor(model, every=100, trials=True) as monitor:
        opened = []
        for i in range(3):
            optimizer = optimizers[i if made_again else 0]
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            opened.append(monitor.recording.open)
    assert opened == [True, False, False]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.LBFGS])
def test_steps_whose_loss_a_closure_computes_are_recorded_all_along(kind):
    model, (x, y) = network(), batch()
    optimizer, losses, first = kind(model.parameters(), 1e-2), [], copy.deepcopy(model.state_dict())

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        losses[-1] = float(loss.detach())
        return loss

    with unstuck.Monitor(model, every=3, trials=True) as monitor:
        for _ in range(20):
            losses.append(0.0)
            optimizer.step(closure)
    assert [step.loss for step in monitor.recording.steps] == pytest.approx([losses[i] for i in (9, 12, 15, 18)])
    assert all(torch.equal(value, first[name]) for name, value in monitor.recording.values.items())
    trained = train(monitor.recording, edits.Edit(""), 40)
    assert trained[-1] < 0.8 * trained[0]


def test_diagnose_calls_the_loss_once_with_trials_or_without():
    called = []

    def loss(outputs, targets):
        called.append(None)
        return F.cross_entropy(outputs, targets)

    for trials in (False, True):
        unstuck.diagnose(network(nn.Softmax(1)), *batch(), loss, trials=trials)
    assert len(called) == 2


class MadeInForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(8, 8)

    def forward(self, x):
        return nn.functional.linear(self.body(x), nn.Parameter(torch.randn(3, 8)))


def test_weights_that_are_made_in_the_forward_are_found_with_trials_or_without():
    found = [unstuck.diagnose(MadeInForward(), *batch(), F.cross_entropy, trials=trials) for trials in (False, True)]
    assert "US504" in [finding.rule for finding in found[0].findings]
    assert {finding.rule for finding in found[0].findings} == {finding.rule for finding in found[1].findings}


def test_edits_name_known_rules():
    known = {rule.id for rule in RULES}
    assert set(re.findall(r"US\d+", inspect.getsource(edits))) <= known
    assert verdict.STEPS >= verdict.FEWEST


@pytest.mark.parametrize(("rate", "rule"), [(3e-3, "US301"), (20.0, "US302"), (0.5, None)])
def test_a_training_that_stands_still_has_its_rate_tried(rate, rule):
    (x, y), deep = batch(), [nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)]
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), *deep) if rate > 1 else network()
    recording = recorded(model, F.cross_entropy, x, y, torch.optim.SGD(model.parameters(), rate), steps=60)
    findings, trials = tried((), recording, SECONDS)
    assert [f.rule for f in findings if f.trial.proved] == ([] if rule is None else [rule])
    assert trials.cause is None


def test_a_training_of_noise_has_no_wrong_rate():
    model, (x, _y) = network(outputs=1), batch()
    noise = lambda x, _y: F.mse_loss(x, torch.randn_like(x))  # noqa: E731
    recording = recorded(model, noise, x, None, torch.optim.SGD(model.parameters(), 1e-3), steps=60)
    assert tried((), recording, SECONDS)[0] == ()


@pytest.mark.parametrize(
    ("end", "loss", "scale", "expected"),
    [
        (nn.Softmax(1), F.binary_cross_entropy, 1.0, "with `binary_cross_entropy_with_logits` for"),
        (nn.Sigmoid(), F.mse_loss, 255.0, "with targets between 0 and 1 in `mse_loss`"),
        (nn.Identity(), lambda x, y: F.mse_loss(x, y.squeeze(1)), 1.0, "with targets of the shape [64, 1] in"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_that_the_step_asks_for_is_found_without_a_rule(end, loss, scale, expected):
    x, y = batch()
    targets = scale * (y > 0).float()[:, None]
    recording = recorded(network(end, outputs=1), loss, x, targets)
    edit, trial = verdict.Tries(recording, SECONDS).search()
    assert edit.words.startswith(expected)
    assert trial.proved


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_where_little_of_the_loss_is_left_only_a_cause_of_its_own_is_proved():
    x, _y = batch()
    recording = recorded(network(nn.Identity(), outputs=1), F.mse_loss, x, 3 + x[:, 0] / 2)
    tries = verdict.Tries(recording, SECONDS)
    assert tries.own_left < verdict.LEARNT
    proved = [edit.words for edit in edits.edits(recording) if (result := tries.run(edit)) and result[1].proved]
    assert len(proved) == 1
    assert proved[0].startswith("with targets of the shape [64, 1] in")


def test_a_softmax_over_rows_is_none_over_a_single_class():
    """A pointer: one score for each of eight rows, and labels that cannot be learned."""
    model, x = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1), nn.Softmax(1)), torch.randn(64, 8, 6)
    targets = F.one_hot(torch.randint(8, (64,)), 8).float()[..., None]
    recording = recorded(model, F.binary_cross_entropy, x, targets)
    assert {e.loss for e in edits.edits(recording) if "with_logits" in e.words} == {"easier"}


def test_an_edit_that_changes_the_level_of_the_loss_only_proves_nothing():
    (x, _y), model = batch(), nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.9), nn.Linear(32, 1))
    nn.init.normal_(model[-1].weight, std=2.0)
    noise = lambda outputs, _y: F.mse_loss(outputs, torch.randn_like(outputs))  # noqa: E731
    recording = recorded(model, noise, x, None, torch.optim.SGD(model.parameters(), 1e-6))
    edit = next(edit for edit in edits.edits(recording) if edit.words == "without dropout")
    left, trial = verdict.Tries(recording, SECONDS).run(edit)
    assert left < 0.6
    assert not trial.proved


def test_an_easier_loss_is_no_cause():
    """Large targets are the data's, and a ReLU cannot be meant for what is below 0."""
    x, _y = batch()
    recording = recorded(network(nn.ReLU(), outputs=1), F.mse_loss, x, -1.0 - x[:, :1].abs())
    scaled = [edit for edit in edits.edits(recording) if "targets" in edit.words]
    assert scaled
    assert all(edit.loss == "easier" for edit in scaled)


def test_an_edit_of_one_call_says_more_than_another_rate():
    by_name = {edit.words: edit for edit in edits.edits(recorded(network(nn.Softmax(1)), F.cross_entropy, *batch()))}
    assert by_name["without `softmax` in `3`"].weight < by_name["with 10 times the learning rate"].weight


@pytest.mark.parametrize("reads_later", [False, True])
def test_tokens_that_should_not_be_seen_are_proved_by_hiding_them(reads_later):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.places = nn.Embedding(12, 16), nn.Parameter(torch.randn(8, 16))
            self.project, self.head = nn.Linear(16, 48), nn.Linear(16, 12)

        def forward(self, ids):
            q, k, v = self.project(self.tokens(ids) + self.places).chunk(3, -1)
            return self.head(F.scaled_dot_product_attention(q, k, v, is_causal=not reads_later))

    model, ids = Reader(), torch.randint(12, (64, 9))
    loss = lambda outputs, y: F.cross_entropy(outputs.flatten(0, 1), y.flatten())  # noqa: E731
    recording = recorded(model, loss, ids[:, :-1], ids[:, 1:], torch.optim.Adam(model.parameters(), 3e-2), steps=30)
    trial = of("US606", recording)
    assert trial.proved is reads_later
    assert trial.edit == "with later tokens hidden" or not reads_later


def test_a_view_is_proved_by_moving_its_axes():
    targets = torch.randn(64, 3, 8)
    model = nn.Sequential(nn.Linear(8, 8))
    loss = lambda outputs, y: F.mse_loss(outputs.reshape(64, 3, 8), y)  # noqa: E731
    x = targets.transpose(1, 2).contiguous()  # [64, 8, 3]
    model = nn.Sequential(nn.Linear(3, 3))
    recording = recorded(model, loss, x, targets, torch.optim.Adam(model.parameters(), 3e-2), steps=30)
    trial = of("US506", recording)
    assert trial.proved
    assert trial.edit.startswith("with axes that are moved before `reshape`")


@pytest.mark.parametrize(
    ("activation", "order", "expected"), [(nn.ReLU, 2, True), (nn.Tanh, 2, False), (nn.ReLU, 1, False)]
)
def test_a_second_derivative_of_straight_lines_is_named_and_proved(activation, order, expected):
    """A loss of first derivatives, as a gradient penalty, is fine with ReLU."""
    model = nn.Sequential(nn.Linear(1, 32), activation(), nn.Linear(32, 32), activation(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    with unstuck.Monitor(model, every=5, trials=True) as monitor:
        for _step in range(40):
            x = (2 * torch.rand(64, 1) - 1).requires_grad_()
            u = derivative = model(x)
            for _order in range(order):
                (derivative,) = torch.autograd.grad(derivative.sum(), x, create_graph=True)
            optimizer.zero_grad()
            ((derivative + torch.sin(3 * x)).square().mean() + u[:4].square().mean()).backward()
            optimizer.step()
    found = [f for f in monitor.diagnosis(20).findings if f.rule == "US502"]
    assert [finding.shown and finding.trial.proved for finding in found] == [True] * expected


def in_order(length: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences of numbers [samples, steps, 1], and the numbers in reverse."""
    x = torch.randint(4, (48, length))
    return x[..., None] - 1.5, x.flip(1)


class Attentive(nn.Module):
    """Self-attention of steps [samples, steps, 1], by a module that may take the samples for steps."""

    def __init__(self, positions: bool, batch_first: bool = True):
        super().__init__()
        self.encode, self.head = nn.Linear(1, 16), nn.Linear(16, 4)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=batch_first)
        self.positions = nn.Parameter(torch.randn(6, 16)) if positions else 0.0

    def forward(self, x):
        hidden = self.encode(x) + self.positions
        return self.head(hidden + self.attention(hidden, hidden, hidden)[0])


class LastStep(nn.Module):
    def __init__(self, batch_first: bool):
        super().__init__()
        self.gru, self.head = nn.GRU(1, 32, batch_first=batch_first), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


def unlinear() -> tuple[torch.Tensor, torch.Tensor]:
    x, _y = batch()
    return x, (x[:, 0] * x[:, 1] > 0).long()


class Ignored(Cut):
    def __init__(self):
        super().__init__()
        nn.init.kaiming_normal_(self.body.weight)
        self.inner = nn.Linear(32, 32)

    def forward(self, x):
        hidden = self.body(x)
        torch.tanh(self.inner(hidden))
        return self.head(hidden)


def of_tokens(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs.flatten(0, -2), labels.flatten())


def waves() -> Recording:
    x = 2 * torch.rand(256, 2) - 1
    model = nn.Sequential(nn.Linear(2, 64), Sine(), nn.Linear(64, 64), Sine(), nn.Linear(64, 1))
    targets = torch.sin(12 * x[:, :1] + 9 * x[:, 1:])
    return recorded(model, F.mse_loss, x, targets, torch.optim.Adam(model.parameters(), 3e-3))


class Sine(nn.Module):
    def forward(self, x):
        return x.sin()


def of_a_hole() -> Recording:
    x, y = batch()
    x[3, 4] = torch.nan
    return recorded(network(), F.cross_entropy, x, y)


def in_half() -> Recording:
    model = network().half()
    return recorded(
        model, lambda o, y: F.cross_entropy(o.float(), y), *(t.half() if t.is_floating_point() else t for t in batch())
    )


def of_hidden_rows() -> Recording:
    class Masked(Attentive):
        def forward(self, x):
            hidden = self.encode(x) + self.positions
            hide = torch.zeros(6, 6, dtype=torch.bool)
            hide[2] = True
            scores = (hidden @ hidden.mT).masked_fill(hide, -torch.inf)
            return self.head(hidden + scores.softmax(-1) @ hidden)

    return recorded(Masked(positions=True), of_tokens, *in_order())


def of_sequences(model: nn.Module, loss=of_tokens, last: bool = False) -> Recording:
    """A training on other sequences in each step."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for x, y in [in_order() for _ in range(4)]:
            optimizer.zero_grad()
            loss(model(x), y[:, -1] if last else y).backward()
            optimizer.step()
    return monitor.recording


@pytest.mark.parametrize(
    ("words", "make"),
    [
        (
            "without `group_norm` in `1`",
            lambda: recorded(network(inner=nn.GroupNorm(32, 32)), F.cross_entropy, *batch()),
        ),
        ("with 0 for data that are not finite", of_a_hole),
        ("in single precision", in_half),
        ("without `masked_fill` in", of_hidden_rows),
        ("with samples first in `gru`", lambda: of_sequences(LastStep(batch_first=False), F.cross_entropy, last=True)),
        ("with samples first in `multi", lambda: of_sequences(Attentive(positions=True, batch_first=False))),
        ("with positions in", lambda: of_sequences(Attentive(positions=False))),
        ("with what `tanh` in test_trials.py", lambda: recorded(Ignored(), F.cross_entropy, *unlinear())),
        ("with inputs that are 10 times larger", waves),
    ],
)
def test_an_edit_shows_a_cause_without_a_rule(words, make):
    tries = verdict.Tries(recording := make(), SECONDS)
    found = [edit for edit in edits.edits(recording) if edit.words.startswith(words)]
    assert found, [edit.words for edit in edits.edits(recording)]
    assert tries.run(found[0])[1].proved, tries.run(found[0])


def test_a_mistake_that_does_no_harm_is_a_note():
    y = torch.arange(64) % 3
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 8), nn.Linear(8, 3))
    (found,) = unstuck.diagnose(model, 8.0 * F.one_hot(y, 8), y, F.cross_entropy).findings
    assert (found.rule, found.severity, found.trial.proved) == ("US507", Severity.NOTE, False)


def test_scores_that_a_mask_hides_are_no_data_that_are_not_finite():
    class Causal(Attentive):
        def forward(self, x, mask):
            hidden = self.encode(x) + self.positions
            return self.head(hidden + self.attention(hidden, hidden, hidden, attn_mask=mask)[0])

    (x, y), mask = in_order(), nn.Transformer.generate_square_subsequent_mask(6)
    diagnosis = unstuck.diagnose(Causal(positions=True), (x, mask), y, of_tokens)
    assert "US401" not in [finding.rule for finding in diagnosis.findings]
    logs = x.abs().clamp(max=0.5) / 0.0  # no mask
    assert "US401" in [f.rule for f in unstuck.diagnose(Causal(positions=True), (-logs, mask), y, of_tokens).findings]
