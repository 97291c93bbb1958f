"""Pairs, choices, axes and places of a recorded training: US708 to US710, and causes of older rules."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import unstuck
from unstuck.measure.measurement import Measurement
from unstuck.rules import pairs
from unstuck.rules.evidence import Evidence

ROWS = 32
EYE, OWN = torch.eye(2 * ROWS, dtype=torch.bool), torch.arange(2 * ROWS)


def trained(model, batch, loss, steps=30):
    """The rules that are loud after some steps."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    with unstuck.Monitor(model, every=5, trials=True) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(batch())).backward()
            optimizer.step()
    found = monitor.diagnosis(seconds=0).findings
    return {finding.rule for finding in found if finding.severity != "note"}


def mlp(features=8, width=16):
    return nn.Sequential(nn.Linear(features, 32), nn.GELU(), nn.Linear(32, width))


def simclr(positives, side_by_side=False, scale=5.0, hidden=True, alike=False):
    def batch():
        points = torch.randn(ROWS, 8)
        views = [points + (0 if alike else 0.3) * torch.randn(ROWS, 8) for _ in range(2)]
        return torch.stack(views, 1).flatten(0, 1) if side_by_side else torch.cat(views)

    def loss(features):
        features = functional.normalize(features, dim=-1)
        scores = scale * features @ features.T
        return functional.cross_entropy(scores.masked_fill(EYE, -1e9) if hidden else scores, positives)

    return trained(mlp(), batch, loss)


HALVES, NEIGHBOURS = (OWN + ROWS) % (2 * ROWS), OWN ^ 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"positives": HALVES}, set()),
        ({"positives": NEIGHBOURS, "side_by_side": True}, set()),
        ({"positives": NEIGHBOURS}, {"US708"}),
        ({"positives": HALVES, "side_by_side": True}, {"US708"}),
        ({"positives": HALVES, "hidden": False, "scale": 20.0}, {"US708"}),
        ({"positives": HALVES, "alike": True}, {"US705"}),
        ({"positives": HALVES, "scale": 0.1}, {"US709"}),
        ({"positives": HALVES, "scale": 1000.0}, {"US709"}),
    ],
)
def test_positives_and_scales_of_two_views_are_judged(options, expected):
    assert simclr(**options) == expected


@pytest.mark.parametrize(("rows", "scale", "expected"), [(256, 1.0, True), (256, 5.0, False), (64, 1.0, True)])
def test_cosines_of_many_candidates_need_a_temperature(rows, scale, expected):
    features, targets = torch.randn(rows, 8), torch.arange(rows)

    def loss(outputs):
        one, other = (functional.normalize(x, dim=-1) for x in (outputs, outputs + 0.1 * features[:, :4]))
        return functional.cross_entropy(scale * one @ other.T, targets)

    assert ("US709" in trained(mlp(8, 4), lambda: features, loss)) is expected


@pytest.mark.parametrize("kind", ["shares", "learned"])
def test_a_loss_of_cosines_without_a_temperature_may_fall_if_targets_are_shares_or_the_scale_trains(kind):
    features, targets = torch.randn(256, 8), torch.arange(256)

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.scale = mlp(8, 4), nn.Parameter(torch.ones(()), requires_grad=kind == "learned")

        def forward(self, x):
            one, other = (functional.normalize(z, dim=-1) for z in (self.body(x), self.body(x + 0.1)))
            return self.scale * one @ other.T

    def loss(logits):
        if kind == "learned":
            return functional.cross_entropy(logits, targets)
        teacher = functional.normalize(features, dim=-1)
        return functional.kl_div(logits.log_softmax(1), (teacher @ teacher.T).softmax(1), reduction="batchmean")

    assert "US709" not in trained(Scaled(), lambda: features, loss)


@pytest.mark.parametrize(("copies", "expected"), [(1, set()), (4, {"US708"})])
def test_texts_that_a_batch_has_several_times_are_named(copies, expected):
    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.text = mlp(), mlp()

        def forward(self, pair):
            return self.image(pair[0]), self.text(pair[1])

    def batch():
        texts = torch.randn(ROWS // copies, 8).repeat(copies, 1)
        return texts + 0.1 * torch.randn(ROWS, 8), texts

    def loss(pair):
        image, text = (functional.normalize(x, dim=-1) for x in pair)
        return functional.cross_entropy(image @ text.T / 0.07, torch.arange(ROWS))

    assert trained(Towers(), batch, loss) == expected


class Codes(nn.Module):
    """The nearest code of each sample, and a decoder."""

    def __init__(self, size):
        super().__init__()
        self.encoder, self.codes, self.decoder = mlp(8, 4), nn.Embedding(16, 4), mlp(4, 8)
        nn.init.normal_(self.codes.weight, std=size)

    def forward(self, x):
        encoded = self.encoder(x)
        chosen = self.codes(torch.cdist(encoded, self.codes.weight).argmin(1))
        decoded = self.decoder(encoded + (chosen - encoded).detach())
        drawn = functional.mse_loss(chosen, encoded.detach()) + functional.mse_loss(encoded, chosen.detach())
        return functional.mse_loss(decoded, x) + drawn


@pytest.mark.parametrize(("size", "named"), [(0.1, False), (20.0, True)])
def test_codes_far_from_what_they_stand_for_are_not_used(size, named):
    points = torch.randn(128, 8)
    assert ("US710" in trained(Codes(size), lambda: points, lambda loss: loss)) is named


@pytest.mark.parametrize(
    ("used", "named"), [(3, True), (5, False), ((6, 64, 6), True), ((30, 64, 6), False), ((7.2, 512, 1), True)]
)
def test_a_few_codes_are_enough_and_the_same_experts_for_all_are_not(used, named):
    """Of 32 codes; of 64 experts, of which each sample takes six; of 512 codes."""
    used, options, taken = used if isinstance(used, tuple) else (used, 32, 1)
    answers = {"choices": [{"module": "", "options": options, "used": float(used), "taken": taken}]}
    measurement = Measurement((), (), samples=64, answers=answers)
    assert (pairs.unused_options(Evidence([measurement])) is not None) is named


class Router(nn.Module):
    """One of four experts for each sample; its weight is divided by the sum of the chosen ones or not."""

    def __init__(self, divides):
        super().__init__()
        self.router, self.experts, self.divides = nn.Linear(8, 4), nn.Linear(8, 4), divides

    def forward(self, x):
        weight, chosen = self.router(x).softmax(-1).topk(1)
        weight = weight / weight.sum(-1, keepdim=True) if self.divides else weight
        return weight * self.experts(x).gather(1, chosen)


@pytest.mark.parametrize("divides", [False, True])
def test_the_weight_of_a_single_expert_that_is_divided_by_itself_has_no_gradient(divides):
    x = torch.randn(64, 8)
    assert ("US502" in trained(Router(divides), lambda: x, lambda y: (y - x[:, :1]).square().mean())) is divides


@pytest.mark.parametrize(
    ("dim", "blank", "stride", "expected"),
    [(-1, 0, 1, set()), (0, 0, 1, {"US506"}), (-1, 2, 1, {"US601"}), (-1, 0, 6, {"US603"})],
)
def test_ctc_has_letters_last_a_blank_of_its_own_and_enough_frames(dim, blank, stride, expected):
    sounds, letters = torch.randn(16, 12, 8), torch.randint(1, 6, (16, 4))

    def loss(scores):
        frames = torch.full((16,), 12 // stride)
        likely = scores[:, ::stride].transpose(0, 1).log_softmax(dim)
        return functional.ctc_loss(likely, letters, frames, torch.full((16,), 4), blank, zero_infinity=True)

    assert expected <= trained(mlp(8, 6), lambda: sounds, loss)
    assert expected or not trained(mlp(8, 6), lambda: sounds, loss)


class Attentive(nn.Module):
    """Tokens, one embedding for each of so many places, and attention to all."""

    def __init__(self, places, later=False):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(20, 16), nn.Parameter(torch.randn(1, places, 16))
        self.attention, self.head, self.later = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 20), later

    def forward(self, ids):
        x = self.tokens(ids) + self.positions
        return self.head(x + self.attention(x, x, x)[0])


@pytest.mark.parametrize(("places", "named"), [(8, False), (1, True)])
def test_one_position_for_all_tokens_is_named(places, named):
    ids = torch.randint(20, (ROWS, 8))
    loss = lambda scores: functional.cross_entropy(scores.mT, ids.sort(1).values)  # noqa: E731
    assert ("US703" in trained(Attentive(places), lambda: ids, loss)) is named


class Denoiser(nn.Module):
    """Points and their times to what was added."""

    def __init__(self):
        super().__init__()
        self.net = mlp(9, 8)

    def forward(self, noisy, time):
        return self.net(torch.cat([noisy, time[:, None]], 1))


@pytest.mark.parametrize(
    ("times", "own", "expected"),
    [(torch.rand(ROWS), False, set()), (torch.rand(ROWS), True, {"US606"}), (torch.zeros(ROWS), False, {"US703"})],
)
def test_a_denoiser_is_given_a_time_and_not_asked_for_what_it_reads(times, own, expected):
    points, noise = torch.randn(ROWS, 8), torch.randn(ROWS, 8)
    noisy = torch.lerp(points, noise, times[:, None])
    model, target = Denoiser(), noisy if own else noise
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    with unstuck.Monitor(model, every=5, trials=True) as monitor:
        for _ in range(30):
            optimizer.zero_grad()
            functional.mse_loss(model(noisy, times), target).backward()
            optimizer.step()
    assert {f.rule for f in monitor.diagnosis(seconds=0).findings if f.severity != "note"} == expected


@pytest.mark.parametrize(("scale", "named"), [(1.0, False), (100.0, True)])
def test_inputs_that_drown_the_embeddings_of_places_are_named(scale, named):
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.places = nn.Linear(12, 16), nn.Parameter(0.1 * torch.randn(1, 6, 16))
            self.head = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 3))

        def forward(self, x):
            return self.head(self.embed(x) + self.places)

    x, labels = scale * torch.randn(ROWS, 6, 12), torch.randint(3, (ROWS, 6))
    loss = lambda scores: functional.cross_entropy(scores.mT, labels)  # noqa: E731
    assert ("US206" in trained(Patches(), lambda: x, loss)) is named


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize(
    ("reduction", "weight", "named"), [("batchmean", 1.0, False), ("mean", 1.0, True), ("mean", 50.0, False)]
)
def test_a_divergence_that_is_divided_by_the_classes_is_drowned(reduction, weight, named):
    x, labels, teacher = torch.randn(ROWS, 8), torch.randint(16, (ROWS,)), torch.randn(ROWS, 16).softmax(1)

    def loss(scores):
        soft = functional.kl_div(scores.log_softmax(1), teacher, reduction=reduction)
        return weight * soft + functional.cross_entropy(scores, labels)

    assert ("US609" in trained(mlp(), lambda: x, loss)) is named


@pytest.mark.parametrize(("weight", "named"), [(0.1, False), (1000.0, True)])
def test_a_term_that_is_always_a_small_share_of_the_loss_is_drowned(weight, named):
    x, y = torch.randn(ROWS, 8), torch.randn(ROWS, 4)
    loss = lambda out: functional.mse_loss(out, y) + weight * (1 + out.softmax(1).square().mean())  # noqa: E731
    assert ("US609" in trained(mlp(8, 4), lambda: x, loss, steps=110)) is named


class TwoInputs(nn.Module):
    """Two inputs, with weights of their own, or side by side as the coordinates of a field."""

    def __init__(self, side_by_side):
        super().__init__()
        self.first, self.second, self.both = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 16)
        self.head, self.side_by_side = nn.Linear(16, 1), side_by_side

    def forward(self, x, y):
        hidden = self.both(torch.cat([x, y], 1)) if self.side_by_side else self.first(x) + self.second(y)
        return self.head(hidden.tanh())


@pytest.mark.parametrize(
    ("side_by_side", "missing", "named"), [(False, True, True), (False, False, False), (True, True, False)]
)
def test_an_input_that_is_always_0_is_named_if_it_has_weights_of_its_own(side_by_side, missing, named):
    model, x, y = TwoInputs(side_by_side), torch.randn(ROWS, 8), torch.randn(ROWS, 8)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    with unstuck.Monitor(model, every=5, trials=True) as monitor:
        for _ in range(20):
            optimizer.zero_grad()
            functional.mse_loss(model(x, 0 * y if missing else y), x[:, :1]).backward()
            optimizer.step()
    assert ("US703" in {f.rule for f in monitor.diagnosis(seconds=0).findings if f.severity != "note"}) is named


@pytest.mark.parametrize(("scale", "named"), [(1, True), (1000, False)])
def test_times_that_are_rounded_to_0_before_their_waves_are_named(scale, named):
    class Denoiser(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.time, self.leave = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x, steps):
            angles = steps[:, None] * torch.logspace(0, -3, 8)
            return self.leave(torch.tanh(self.enter(x) + self.time(torch.cat([angles.sin(), angles.cos()], 1))))

    model, x = Denoiser(), torch.randn(ROWS, 4)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    with unstuck.Monitor(model, every=5, trials=True) as monitor:
        for _ in range(20):
            time = torch.rand(ROWS)
            optimizer.zero_grad()
            functional.mse_loss(model(torch.lerp(x, -x, time[:, None]), (scale * time).long()), x).backward()
            optimizer.step()
    found = [f for f in monitor.diagnosis(seconds=0).findings if f.rule == "US703"]
    assert [finding.message for finding in found] == [
        f"The input of shape [{ROWS}] is 0 in all recorded steps."
    ] * named


@pytest.mark.parametrize(("marked", "named"), [(False, True), (True, False)])
def test_columns_of_a_table_that_nothing_marks_are_named(marked, named):
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.head = nn.Linear(1, 16), nn.Linear(16, 1)
            self.column = nn.Parameter(torch.randn(8, 16)) if marked else 0.0
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, table):
            x = self.value(table[..., None]) + self.column
            return self.head(self.attention(x, x, x)[0].mean(1))

    model = Table()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    with unstuck.Monitor(model, every=5, trials=True) as monitor:
        for _ in range(20):
            table = torch.randn(ROWS, 8)
            optimizer.zero_grad()
            functional.mse_loss(model(table), table[:, :1] - table[:, 1:2]).backward()
            optimizer.step()
    assert ("US703" in {f.rule for f in monitor.diagnosis(seconds=0).findings}) is named


def test_numbers_in_a_row_may_be_a_set():
    class Deviation(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.attention = nn.Linear(1, 16), nn.MultiheadAttention(16, 2, batch_first=True)
            self.head = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))

        def forward(self, numbers):
            x = self.value(numbers[..., None]).relu()
            return self.head((x + self.attention(x, x, x)[0]).mean(1))

    model = Deviation()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    with unstuck.Monitor(model, every=5, trials=True) as monitor:
        for _ in range(60):
            numbers = torch.rand(ROWS, 1) * torch.randn(ROWS, 8)
            optimizer.zero_grad()
            functional.mse_loss(model(numbers), 3 * numbers.std(1, keepdim=True)).backward()
            optimizer.step()
    assert "US703" not in {f.rule for f in monitor.diagnosis(seconds=0).findings}


def test_places_may_begin_at_0():
    class Rotated(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.head = nn.Embedding(16, 8), nn.Linear(8, 16)

        def forward(self, ids, offset):
            places = (offset[:, None] + torch.arange(ids.shape[1]))[..., None] * torch.logspace(0, -3, 4)
            x = self.tokens(ids)
            turned = torch.cat([x[..., :4] * places.cos() - x[..., 4:] * places.sin(), x[..., 4:]], -1)
            return self.head(turned.cumsum(1))

    model = Rotated()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    with unstuck.Monitor(model, every=5, trials=True) as monitor:
        for _ in range(20):
            ids = torch.randint(16, (ROWS, 9))
            optimizer.zero_grad()
            logits = model(ids[:, :-1], torch.zeros(ROWS, dtype=torch.long))
            functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()
    assert "US703" not in {f.rule for f in monitor.diagnosis(seconds=0).findings}


def test_the_time_of_initial_conditions_may_be_0():
    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))

        def forward(self, x, t):
            return self.net(torch.cat([x, t], 1))

    model, x, t = Field(), torch.rand(ROWS, 1), torch.rand(ROWS, 1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    with unstuck.Monitor(model, every=5, trials=True) as monitor:
        for _ in range(20):
            optimizer.zero_grad()
            start = functional.mse_loss(model(x, torch.zeros(ROWS, 1)), x.sin())
            (functional.mse_loss(model(x, t), (x - t).sin()) + start).backward()
            optimizer.step()
    assert "US703" not in {f.rule for f in monitor.diagnosis(seconds=0).findings}
