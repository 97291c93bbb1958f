"""Copies that are one, teachers, groups, hidden parts and places."""

import copy
import gc
import threading
import weakref
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

import unstuck
from unstuck.step import Replay, recorder, state

MINE = ("US303", "US309", "US502", "US509", "US510", "US606", "US703", "US704", "US705", "US706")
ROWS, WORDS = 32, 12


def codes(model, loss, batch, steps=14, after=lambda: None, rate=1e-2):
    """Warnings and errors of a training on `loss(*batch(step))`."""
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=rate)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for step in range(steps):
            optimizer.zero_grad()
            loss(*batch(step)).backward()
            optimizer.step()
            after()
    findings = monitor.diagnosis(seconds=0.0).findings
    return [f.rule for f in findings if f.rule in MINE and f.severity != "note"]


def mlp(*widths, dropout=0.0):
    layers = [(nn.Linear(a, b), nn.Tanh(), nn.Dropout(dropout)) for a, b in pairwise(widths)]
    return nn.Sequential(*[layer for group in layers for layer in group][:-2])


def policy():
    return nn.Sequential(nn.Embedding(WORDS, 16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, WORDS))


def log_odds(model, ids):
    return model(ids)[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]


def dpo(model, reference, counted):
    def loss(chosen, rejected):
        new, old = ([(log_odds(m, x) * counted).sum(1) for x in (chosen, rejected)] for m in (model, reference))
        return -functional.logsigmoid((new[0] - old[0]) - (new[1] - old[1])).mean()

    return loss


def answers(step):
    """A prompt of two words with a chosen and a rejected answer."""
    asked, chosen, rejected = (torch.randint(a, b, (ROWS, 3)) for a, b in ((0, WORDS), (0, 6), (6, WORDS)))
    return torch.cat([asked, chosen], 1), torch.cat([asked, rejected], 1)


def test_a_reference_that_is_the_policy_is_named():
    model, answer = policy(), torch.arange(5) > 1
    assert "US705" in codes(model, dpo(model, model, answer), answers)
    assert "US705" not in codes(model, dpo(model, copy.deepcopy(model), answer), answers)


def test_answers_are_their_own_targets_and_may_be_compared_with_others():
    """Of a loss that is nearly linear in its margins, it does not matter which answers make a pair."""
    model, reference = policy(), copy.deepcopy(policy())

    def loss(chosen, rejected):
        margins = [(log_odds(model, x) - log_odds(reference, x).detach()).sum(1) for x in (chosen, rejected)]
        return -functional.logsigmoid(0.01 * (margins[0] - margins[1])).mean()

    assert "US704" not in codes(model, loss, answers, steps=120, rate=1e-3)


def test_a_mask_that_counts_the_prompt_of_both_answers_is_named():
    model = policy()
    assert "US705" in codes(model, dpo(model, copy.deepcopy(model), torch.arange(5) < 2), answers)


@pytest.mark.parametrize(("moves_along", "expected"), [(True, ["US705"]), (False, [])])
def test_log_probabilities_of_the_policy_itself_as_those_of_a_reference_are_named(moves_along, expected):
    """They come with the batch: no call of the step shows where they are from."""
    model = policy()
    reference = model if moves_along else copy.deepcopy(model)

    def batch(step):
        pair = answers(step)
        with torch.no_grad():
            return pair, [log_odds(reference, x).sum(1) for x in pair]

    def loss(pair, old):
        new = [log_odds(model, x).sum(1) for x in pair]
        return -functional.logsigmoid((new[0] - old[0]) - (new[1] - old[1])).mean()

    assert [code for code in codes(model, loss, batch) if code == "US705"] == expected


@pytest.mark.parametrize("made", [lambda x: x / x.detach(), lambda x: x - x.detach() + 0.5])
def test_a_loss_that_is_constant_on_purpose_is_healthy(made):
    model, words = policy(), torch.randint(WORDS, (ROWS, 6))
    assert "US705" not in codes(model, lambda ids: made(-log_odds(model, ids).mean()), lambda step: (words,))


def ppo(model, old_of):
    def loss(ids, old, gains):
        new = log_odds(model, ids)
        ratio = (new - old_of(new, old, ids)).exp()
        return -torch.min(ratio * gains, ratio.clamp(0.8, 1.2) * gains).mean()

    def rollout(step):
        if step % 4 == 0:
            rollout.ids, rollout.gains = torch.randint(WORDS, (ROWS, 6)), torch.randn(ROWS, 1)
        if step % 4 == 0 or rollout.anew:
            with torch.set_grad_enabled(rollout.graph):
                rollout.old = log_odds(model, rollout.ids).detach()
        return rollout.ids, rollout.old, rollout.gains

    rollout.anew, rollout.graph = False, True
    return loss, rollout


@pytest.mark.parametrize(
    ("old_of", "anew", "expected"),
    [
        (lambda new, old, again: old, False, []),
        (lambda new, old, again: new.detach(), False, []),
        (lambda new, old, again: again, False, ["US705"]),
        (lambda new, old, again: old, True, ["US705"]),
    ],
    ids=["kept", "first step", "with its gradient", "computed in every step"],
)
@pytest.mark.parametrize("graph", [True, False])
def test_ratios_that_are_always_one_are_named(old_of, anew, expected, graph):
    model = policy()
    loss, rollout = ppo(model, lambda new, old, ids: old_of(new, old, log_odds(model, ids)))
    rollout.anew, rollout.graph = anew, graph
    assert [code for code in codes(model, loss, rollout, steps=16) if code == "US705"] == expected


def similar(model, noise):
    def loss(x):
        views = torch.cat([x + noise * torch.randn_like(x), x + noise * torch.randn_like(x)])
        z = functional.normalize(model(views), dim=-1)
        similarity = (5 * z @ z.mT).masked_fill(torch.eye(len(z)).bool(), -1e9)
        return functional.cross_entropy(similarity, (torch.arange(len(z)) + len(x)) % len(z))

    return loss


@pytest.mark.parametrize(("noise", "dropout", "expected"), [(0.0, 0.0, ["US705"]), (0.3, 0.0, []), (0.0, 0.1, [])])
def test_two_views_that_are_one_are_named_unless_dropout_makes_them(noise, dropout, expected):
    model = mlp(8, 16, 8, dropout=dropout)
    assert codes(model, similar(model, noise), lambda step: (torch.randn(ROWS, 8),)) == expected


def distil(student, teacher, first, read=lambda student, teacher: student):
    """The teacher runs first, or last; without a gradient, or frozen."""

    def wanted(x):
        with torch.set_grad_enabled(first == "frozen"):
            return teacher(x)

    def loss(x):
        targets = wanted(x) if first else None
        logits = student(x)
        targets = wanted(x) if targets is None else targets
        odds = read(logits, targets).log_softmax(-1), targets.softmax(-1)
        return functional.kl_div(*odds, reduction="batchmean") + 0.1 * logits.square().mean()

    return loss


@pytest.mark.parametrize("first", ["", "without a gradient", "frozen"])
@pytest.mark.parametrize("case", ["dropout", "evaluation", "average", "itself"])
def test_teachers_with_dropout_or_without_a_student_are_named_and_averages_are_not(case, first):
    student = mlp(8, 16, 4, dropout=0.3)
    teacher = copy.deepcopy(student).requires_grad_(False).train(case != "evaluation")

    def average():
        for slow, fast in zip(teacher.parameters(), student.parameters(), strict=case == "average"):
            slow.data.lerp_(fast.data, 0.1 if case == "average" else 0.0)

    loss = distil(student, teacher, first)
    if case == "itself":
        loss = distil(student, teacher.eval(), first, lambda student, teacher: teacher)
    inputs = [torch.randn(ROWS, 8) for _ in range(14)]
    found = codes(student, loss, lambda step: (inputs[step],), after=average)
    assert found == {"dropout": ["US510"], "itself": ["US705"]}.get(case, [])


@pytest.mark.parametrize("first", ["", "without a gradient"])
@pytest.mark.parametrize(
    ("buffers", "training", "expected"), [(False, False, ["US509"]), (True, False, []), (False, True, [])]
)
def test_a_teacher_whose_statistics_are_not_averaged_is_named(buffers, training, expected, first):
    student = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    teacher = copy.deepcopy(student).requires_grad_(False).train(training)

    def average():
        of = (lambda model: model.state_dict().values()) if buffers else nn.Module.parameters
        for slow, fast in zip(of(teacher), of(student), strict=True):
            slow.data.lerp_(fast.data, 0.1) if slow.is_floating_point() else slow.copy_(fast)

    assert (
        codes(student, distil(student, teacher, first), lambda step: (3 + torch.randn(ROWS, 8),), after=average)
        == expected
    )


def test_what_runs_before_a_step_is_kept_if_its_loss_reads_it_and_an_evaluation_is_not(monkeypatch):
    monkeypatch.setattr(recorder, "MOST_AHEAD", 5000)
    student, teacher = mlp(8, 16, 4), mlp(8, 12, 4)
    optimizer, x = torch.optim.SGD(student.parameters(), lr=0.1), torch.randn(ROWS, 8)
    with unstuck.Monitor(student, every=1, trials=True) as monitor:
        for evaluations in (0, 0, 3, 200, 1500):
            with torch.no_grad():
                for _ in range(evaluations):
                    student(x)
                wanted = teacher(x) + torch.randn(ROWS, 4)
            optimizer.zero_grad()
            functional.mse_loss(student(x), wanted).backward()
            optimizer.step()
    few, some, more, many = monitor.recording.steps
    ran = [node.function for node in few.before if node.op == "call_function"]
    assert ran == ["linear", "tanh", "dropout", "linear", "randn", "add"]
    assert len(more.before) == len(some.before) == len(few.before)
    assert not many.before, "no evaluation of 6,000 calls is recorded"
    for step in (few, some, more, many):
        (target,) = (node for node in step.needed() if node.op == "constant")
        assert torch.equal(Replay(state(student)).losses(step)[0], Replay(state(student)).losses(step)[0]), (
            "no new noise"
        )
        assert (target.made_by is None) == (step is many)


@pytest.mark.parametrize(("frozen", "expected"), [(True, []), (False, ["US309"])])
def test_a_teacher_that_learns_with_its_student_is_named(frozen, expected):
    both = nn.ModuleList([mlp(8, 16, 4), mlp(8, 12, 4)])
    both[1].requires_grad_(not frozen)

    def loss(x):
        return functional.kl_div(both[0](x).log_softmax(-1), both[1](x).softmax(-1), reduction="batchmean")

    assert codes(both, loss, lambda step: (torch.randn(ROWS, 8),)) == expected


def test_batches_of_an_evaluation_are_not_kept():
    """Neither while it runs, nor by the steps that are recorded after it."""
    student, teacher = nn.Linear(2**14, 4), nn.Linear(2**14, 4).requires_grad_(False)
    optimizer, alive = torch.optim.SGD(student.parameters(), lr=0.1), []
    with unstuck.Monitor(student, every=1, trials=True) as monitor:
        for _ in range(3):
            with torch.no_grad():
                for _ in range(60):
                    x = torch.rand(64, 2**14)  # 4 MiB
                    alive.append(weakref.ref(x))
                    teacher(x)
                    assert sum(one() is not None for one in alive) < 12
                wanted = teacher(x)
            optimizer.zero_grad()
            functional.mse_loss(student(x), wanted).backward()
            optimizer.step()
        del x
        gc.collect()
        assert sum(one() is not None for one in alive) == 0
        assert monitor.recording.steps[-1].before


def test_nothing_is_recorded_beside_a_training_in_another_thread():
    model = mlp(8, 16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train():
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(ROWS, 8)).square().mean().backward()
            optimizer.step()

    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        with torch.no_grad():
            model(torch.randn(ROWS, 8))
        worker = threading.Thread(target=train)
        worker.start()
        worker.join()
        assert torch._C._len_torch_function_stack() == 0
    assert len(monitor.measurements) == 3


def test_a_target_of_the_same_network_is_another_draw():
    model = mlp(8, 16, 4, dropout=0.3)

    def loss(x):
        with torch.no_grad():
            wanted = model(x).softmax(1)
        return functional.mse_loss(model(x).softmax(1), wanted) + model(x).square().mean()

    assert codes(model, loss, lambda step: (torch.randn(ROWS, 8),)) == []


@pytest.mark.parametrize(("repeat", "expected"), [("rows", []), ("batch", ["US706"])])
def test_advantages_of_rows_with_several_prompts_are_named(repeat, expected):
    model = policy()

    def rollout(step):
        asked = torch.randperm(WORDS)[:8, None]
        asked = asked.repeat_interleave(4, 0) if repeat == "rows" else asked.repeat(4, 1)
        ids = torch.cat([asked, torch.randint(WORDS, (ROWS, 3))], 1)
        gains = torch.randn(8, 4)
        return ids, (gains - gains.mean(1, keepdim=True)).flatten()

    def loss(ids, gains):
        new = log_odds(model, ids)
        return -((new - new.detach()).exp() * gains[:, None]).mean()

    assert [code for code in codes(model, loss, rollout) if code == "US706"] == expected


@pytest.mark.parametrize(("alike", "expected"), [(0.6, ["US502"]), (0.0, [])])
def test_steps_without_advantages_are_named(alike, expected):
    model = policy()

    def rollout(step):
        return torch.randint(WORDS, (ROWS, 4)), torch.randn(ROWS) * (step % 5 >= 5 * alike)

    def loss(ids, gains):
        new = log_odds(model, ids)
        return -((new - new.detach()).exp() * gains[:, None]).mean()

    assert [code for code in codes(model, loss, rollout, steps=16) if code == "US502"] == expected


class Captions(nn.Module):
    """Reads an image and a word."""

    def __init__(self):
        super().__init__()
        self.image, self.words, self.head = nn.Linear(8, 16), nn.Embedding(WORDS, 16), nn.Linear(16, 4)

    def forward(self, pixels, ids):
        return self.head(torch.tanh(self.image(pixels) + self.words(ids)))


@pytest.mark.parametrize(("size", "expected"), [(0.0, ["US703"]), (1.0, [])])
def test_inputs_that_are_always_zero_are_named(size, expected):
    model = Captions()

    def batch(step):
        ids = torch.randint(WORDS, (ROWS,))
        return size * functional.one_hot(ids % 8, 8).float(), ids

    found = codes(model, lambda x, ids: functional.cross_entropy(model(x, ids), ids % 4), batch)
    assert found[:1] == expected


class Masked(nn.Module):
    """A masked autoencoder of six patches, of which it sees two."""

    def __init__(self, places=True):
        super().__init__()
        self.first, self.last, self.mixed = nn.Linear(4, 16), nn.Linear(16, 4), nn.Linear(16, 16)
        self.places = nn.Parameter(torch.randn(6, 16)) if places else 0

    def forward(self, patches, hidden):
        shown = self.first(patches * ~hidden[..., None])
        return self.last(torch.tanh(self.mixed(shown.mean(1, keepdim=True)) + self.places))


def pictures(step):
    hidden = torch.rand(ROWS, 6).argsort(1) > 1
    return torch.randn(ROWS, 6, 4) + torch.randn(ROWS, 1, 4), hidden


def error_of(model, counted):
    def loss(patches, hidden):
        outputs, kept = model(patches, hidden), counted(hidden)
        return functional.mse_loss(outputs[kept], patches.clone()[kept])

    return loss


@pytest.mark.parametrize(
    ("counted", "expected"),
    [(torch.logical_not, ["US606"]), (lambda hidden: hidden, []), (torch.ones_like, [])],
    ids=["shown", "hidden", "all"],
)
def test_a_loss_of_what_a_masked_autoencoder_is_shown_is_named(counted, expected):
    model = Masked()
    assert codes(model, error_of(model, counted), pictures) == expected


@pytest.mark.parametrize(("places", "expected"), [(False, ["US703"]), (True, [])])
def test_outputs_that_do_not_know_their_place_are_named(places, expected):
    model = Masked(places).train()
    model.mixed.weight.data *= 3

    def loss(patches, hidden):
        return ((model(patches, hidden).expand_as(patches) - patches).square().mean(-1) * hidden).sum()

    assert codes(model, loss, pictures) == expected


@pytest.mark.parametrize(("target", "expected"), [("input", ["US606"]), ("noise", [])])
def test_a_denoiser_that_is_asked_for_its_input_is_named(target, expected):
    model = mlp(3, 64, 2)

    class Denoiser(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x, time):
            return self.net(torch.cat([x, time], 1))

    denoiser = Denoiser()

    def batch(step):
        clean, noise, time = torch.ones(256, 2), torch.randn(256, 2), torch.rand(256, 1)
        return (1 - time) * clean + time * noise, time, noise

    def loss(x, time, noise):
        return functional.mse_loss(denoiser(x, time), x.clone() if target == "input" else noise)

    assert codes(denoiser, loss, batch, steps=150) == expected


class Vision(nn.Module):
    """A vision transformer whose patches are cut by a convolution or a view."""

    def __init__(self, places, cut):
        super().__init__()
        self.cut, self.patches = cut, nn.Conv2d(1, 16, 4, 4) if cut == "convolution" else nn.Linear(16, 16)
        self.places = nn.Parameter(torch.randn(9, 16)) if places else 0
        self.attention, self.head = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 4)

    def forward(self, x):
        if self.cut == "convolution":
            tokens = self.patches(x).flatten(2).mT
        else:
            tokens = self.patches(x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4).flatten(1, 3))
        tokens = tokens + self.places
        return self.head(self.attention(tokens, tokens, tokens)[0].mean(1))


@pytest.mark.parametrize("cut", ["convolution", "view"])
@pytest.mark.parametrize(("places", "expected"), [(False, ["US703"]), (True, [])])
def test_a_vision_transformer_without_positions_is_named(places, cut, expected):
    model = Vision(places, cut)
    batch = [(torch.randn(ROWS, 1, 12, 12), torch.randint(4, (ROWS,))) for _ in range(14)]
    assert codes(model, lambda x, y: functional.cross_entropy(model(x), y), batch.__getitem__) == expected


class OneKey(nn.Module):
    """Mixes the positions of an image that became a single one: each weight is 1, as the others would not be."""

    def __init__(self, attends):
        super().__init__()
        self.attends, self.scores, self.values, self.last = attends, nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x):
        x = x[:, None]
        scores = self.scores(x) @ x.mT if self.attends else self.scores(x).mean(-1, keepdim=True)
        return self.last(x + scores.softmax(1) * self.values(x))[:, 0]


@pytest.mark.parametrize("attends", [True, False])
def test_a_softmax_over_a_single_position_is_no_choice_of_one(attends):
    x = torch.randn(ROWS, 8)
    found = unstuck.diagnose(OneKey(attends), x, x[:, :1], functional.mse_loss).findings
    assert not any("always 1" in finding.message for finding in found)


def test_boxes_that_contain_their_targets_are_no_copies():
    """The hull of two boxes is then their union, in all of them."""
    corners = torch.tensor([-1.0, -1.0, 1.0, 1.0])

    def distance(boxes, targets):
        low, high = torch.min(boxes[:, :2], targets[:, :2]), torch.max(boxes[:, 2:], targets[:, 2:])
        inner = torch.max(boxes[:, :2], targets[:, :2]), torch.min(boxes[:, 2:], targets[:, 2:])
        own, wanted, both = ((b - a).clamp(min=0).prod(1) for a, b in (boxes.split(2, 1), targets.split(2, 1), inner))
        hull, union = (high - low).prod(1), own + wanted - both
        return (1 - both / union + (hull - union) / hull).mean()

    model, x = mlp(8, 16, 4), torch.randn(ROWS, 8)
    targets = 0.1 * corners * (1 + torch.rand(ROWS, 1))
    assert codes(model, lambda x, y: distance(corners + 0.1 * model(x), y), lambda step: (x, targets), rate=1e-4) == []


def test_the_statistics_of_another_network_are_no_input_however_many_they_are():
    generator = nn.Sequential(nn.Linear(4, ROWS), nn.BatchNorm1d(ROWS), nn.Tanh(), nn.Linear(ROWS, 8))
    judge, bce = mlp(8, 16, 1), functional.binary_cross_entropy_with_logits

    def loss(real, noise):
        ones = torch.ones(ROWS, 1)
        return bce(judge(real), ones) + bce(judge(generator(noise).detach()), 1 - ones)

    assert codes(judge, loss, lambda step: (torch.randn(ROWS, 8), torch.randn(ROWS, 4))) == []


def test_a_mask_that_is_added_to_scores_is_no_input_of_samples():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(WORDS, 16)
            layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0)
            self.encoder, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(16, WORDS)

        def forward(self, ids):  # [positions, samples], as many
            return self.head(self.encoder(self.words(ids), mask=mask))

    mask = torch.log(torch.tril(torch.ones(ROWS, ROWS)))
    model, ids = Reader(), torch.randint(WORDS, (ROWS + 1, ROWS))

    def loss(ids):
        return functional.cross_entropy(model(ids[:-1]).flatten(0, 1), ids[1:].flatten())

    assert codes(model, loss, lambda step: (ids.roll(step, 1),)) == []
