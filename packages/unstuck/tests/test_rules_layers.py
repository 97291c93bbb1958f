"""US505, US507, US509, US510: broken networks beside healthy ones."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.layers import loud

import unstuck
from unstuck.findings import Severity

X, Y = torch.randn(128, 64), torch.randint(10, (128,))


def diagnosed(model, inputs=X, **how):
    return unstuck.diagnose(model, inputs, Y[: len(inputs)], functional.cross_entropy, **how)


def mlp(*between, outputs=10):
    return nn.Sequential(nn.Linear(64, 64), *between, nn.Linear(64, outputs))


def trained(model, inputs=X, steps=5, parameters=None, **options):
    optimizer = torch.optim.SGD(parameters or model.parameters(), **{"lr": 0.01} | options)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for i in range(steps):
            optimizer.zero_grad()
            batch = inputs[i][None] if inputs.dim() > X.dim() else inputs
            functional.cross_entropy(model(batch), Y[: len(batch)]).backward()
            optimizer.step()
    return monitor.diagnosis(seconds=0)


def test_frozen_weights_are_a_note_and_a_warning_if_only_some_are_fresh():
    model = mlp(nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    model[0].requires_grad_(False)
    (finding,) = diagnosed(model).findings
    assert (finding.rule, finding.severity, finding.layers) == ("US505", Severity.NOTE, ("0.weight",))
    nn.init.orthogonal_(model[0].weight)
    model[2].requires_grad_(False)
    (finding,) = diagnosed(model).findings
    assert (finding.rule, finding.severity, finding.layers) == ("US505", Severity.WARNING, ("2.weight",))


def test_fresh_frozen_weights_behind_trained_ones_are_a_note():
    """An adapter, a prompt or an embedding trains through a frozen model."""
    model = mlp(nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    nn.init.orthogonal_(model[4].weight)
    model[2:].requires_grad_(False)
    (finding,) = diagnosed(model).findings
    assert (finding.rule, finding.severity) == ("US505", Severity.NOTE)


@pytest.mark.parametrize("draw", [nn.Linear.reset_parameters, lambda head: nn.init.normal_(head.weight, std=0.02)])
def test_a_frozen_head_as_it_was_drawn_is_named(draw):
    model = mlp(nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    draw(model[4].requires_grad_(False))
    (finding,) = diagnosed(model).findings
    assert (finding.rule, finding.severity, finding.layers) == ("US505", Severity.WARNING, ("4.weight",))
    assert "modules_to_save" in finding.remedy


@pytest.mark.parametrize(("draw", "severity"), [(0.02, Severity.WARNING), (0.05, Severity.NOTE)])
def test_a_few_frozen_weights_before_layers_that_train_are_named_if_they_are_as_drawn(draw, severity):
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 10))
    nn.init.normal_(model[0].requires_grad_(False).weight, std=draw)
    (finding,) = diagnosed(model).findings
    assert (finding.rule, finding.severity) == ("US505", severity)


@pytest.mark.parametrize("within", [False, True])
def test_a_head_behind_the_last_linear_layer_of_an_encoder_is_a_note(within):
    model = nn.Sequential()
    model.encoder, model.head = (
        mlp(nn.ReLU(), outputs=64),
        nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    model = Online(model) if within else model
    assert [(f.rule, f.severity) for f in diagnosed(model).findings] == [("US507", Severity.NOTE)]


class Online(nn.Module):
    """A network within another one, which it runs twice, as for two views."""

    def __init__(self, online):
        super().__init__()
        self.online = online

    def forward(self, x):
        return self.online(x) + self.online(-x)


def test_an_adapter_that_is_frozen_at_its_start_is_named():
    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)
            self.adapter = nn.ModuleDict({"down": nn.Linear(64, 8), "up": nn.Linear(8, 64)}).requires_grad_(False)
            nn.init.zeros_(self.adapter["up"].weight)

        def forward(self, x):
            h = self.first(x).relu()
            return self.last(h + self.adapter["up"](self.adapter["down"](h)))

    found = [(f.rule, f.severity) for f in diagnosed(Adapted()).findings]
    assert ("US505", Severity.WARNING) in found


class Teacher(nn.Module):
    """A student, and a frozen copy of it whose answers the loss reads, or a layer that trains."""

    def __init__(self, read):
        super().__init__()
        self.student = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        nn.init.normal_(self.student[2].weight, std=0.1)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.head = nn.Linear(64, 64) if read else nn.Identity()

    def forward(self, x):
        return self.student(x), self.head(self.teacher(x + 1))


@pytest.mark.parametrize(("read", "severity"), [(False, "note"), (True, "warning")])
def test_a_teacher_that_no_layer_reads_may_be_fresh_beside_layers_with_their_own_initialisation(read, severity):
    found = unstuck.diagnose(Teacher(read), X, None, lambda outputs, _: functional.mse_loss(*outputs)).findings
    assert [f.severity for f in found if f.rule == "US505"] == [severity]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ((), ["US507"]),
        ((nn.Dropout(0.1),), ["US507"]),
        ((nn.Flatten(),), ["US507"]),
        ((nn.ReLU(),), []),
        ((nn.LayerNorm(64),), []),
        ((nn.Linear(64, 8), nn.Linear(8, 64), nn.ReLU()), ["US507"]),
        ((nn.ReLU(), nn.Linear(64, 8), nn.Linear(8, 64), nn.ReLU()), []),
    ],
    ids=["nothing", "dropout", "flatten", "ReLU", "norm", "into a code", "factorisation"],
)
def test_two_linear_layers_in_a_row_are_one_unless_they_are_a_factorisation(layers, expected):
    assert loud(diagnosed(mlp(*layers))) == expected


class Siamese(nn.Module):
    """A projection, and a prediction of another view's projection (SimSiam)."""

    def __init__(self):
        super().__init__()
        self.projector, self.predictor = mlp(nn.ReLU(), outputs=32), nn.Linear(32, 32)

    def forward(self, x):
        z = self.projector(x)
        return self.predictor(z), z


@pytest.mark.parametrize(
    ("compared", "expected"), [(lambda z: z.detach(), []), (lambda z: torch.ones(z.shape), ["US507"])]
)
def test_two_linear_layers_are_two_if_the_loss_reads_what_is_in_between(compared, expected):
    def loss_fn(outputs, targets):
        p, z = outputs
        return -functional.cosine_similarity(p, compared(z).flip(0)).mean()

    assert [rule for rule in loud(unstuck.diagnose(Siamese(), X, Y, loss_fn)) if rule == "US507"] == expected


def test_a_linear_layer_that_others_read_too_is_healthy():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)

        def forward(self, x):
            hidden = self.first(x)
            return self.last(hidden + self.second(hidden).relu())

    assert loud(diagnosed(Skip())) == []


def test_statistics_that_stay_or_are_of_one_sample():
    (finding,) = trained(mlp(nn.BatchNorm1d(64, momentum=0.0), nn.ReLU()), 5 * X + 9, steps=60, lr=0.1).findings
    assert finding.rule == "US509"
    assert "momentum of `1` is 0" in finding.message
    assert "the loss of a batch is" in finding.message
    assert loud(trained(mlp(nn.BatchNorm1d(64, momentum=None), nn.ReLU()), 5 * X + 9, steps=60, lr=0.1)) == []

    def images(norm):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
        )

    one_by_one = torch.randn(25, 1, 9, 9) + 3 * torch.randn(25, 1, 1, 1)
    model = images(nn.BatchNorm2d(8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with unstuck.Monitor(model, every=1, trials=True) as monitor:
        for i, image in enumerate(one_by_one):
            optimizer.zero_grad()
            functional.cross_entropy(model(image[None]), Y[i : i + 1]).backward()
            optimizer.step()
    assert loud(monitor.diagnosis(seconds=0)) == ["US509"]


def test_a_model_that_stays_in_evaluation_mode_after_its_first_step():
    model = mlp(nn.BatchNorm1d(64), nn.ReLU())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with unstuck.Monitor(model, every=2, trials=True) as monitor:
        for _ in range(30):
            optimizer.zero_grad()
            functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
            model.eval()
    (found,) = [f for f in monitor.diagnosis(seconds=0).findings if f.rule == "US509"]
    assert found.message.startswith("The model trains in evaluation mode")


def test_one_normalisation_for_two_places_drifts_from_both():
    class Shared(nn.Module):
        def __init__(self, norms):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
            self.norms = nn.ModuleList(norms)

        def forward(self, x):
            low = self.norms[0](self.first(x) - 5).relu()
            return self.last(self.norms[-1](self.second(low) + 5).relu())

    assert loud(trained(Shared([nn.BatchNorm1d(64)]), steps=40)) == ["US509"]
    assert loud(trained(Shared([nn.BatchNorm1d(64), nn.BatchNorm1d(64)]), steps=40)) == []


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.9,), ["US510"]), ((0.7, 0.7), ["US510"]), ((0.5,) * 6, []), ((0.7,), []), ((0.1,) * 30, [])],
)
def test_dropout_that_leaves_a_tenth(shares, expected):
    model = mlp(nn.ReLU(), *map(nn.Dropout, shares))
    assert loud(diagnosed(model, training=True)) == expected
    assert loud(diagnosed(model)) == [], "evaluation drops nothing"


class Heads(nn.Module):
    """Drops in each of several branches, in series or side by side, and in the attention between samples."""

    def __init__(self, count, in_series):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(64, 64) for _ in range(count))
        self.last, self.drop, self.in_series = nn.Linear(64, 10), nn.Dropout(0.6), in_series

    def forward(self, x):
        total = torch.zeros_like(x)
        for head in self.heads:
            weights = self.drop((x @ x.T / 64).softmax(-1))
            out = weights @ head(self.drop(x)).relu()
            total = total + out
            x = out if self.in_series else x
        return self.last(total)


def test_dropouts_with_no_layer_between_them_are_in_series():
    model = mlp(nn.ReLU(), nn.Dropout(0.8), nn.LayerNorm(64), nn.Dropout(0.8))
    assert [rule for rule in loud(diagnosed(model, training=True)) if rule == "US510"] == ["US510"]


@pytest.mark.parametrize(("in_series", "expected"), [(True, ["US510"]), (False, [])])
def test_dropout_in_branches_side_by_side_leaves_the_other_ways(in_series, expected):
    found = diagnosed(Heads(4, in_series), training=True)
    assert [rule for rule in loud(found) if rule == "US510"] == expected


@pytest.mark.parametrize(("size", "expected"), [(1.0, []), (200.0, ["US201"])])
def test_saturated_outputs_are_named_if_they_are_wrong(size, expected):
    model = nn.Sequential(*mlp(nn.ReLU(), outputs=1), nn.Tanh())
    targets = (torch.arange(128.0) % 2)[:, None]
    with torch.no_grad():
        model[2].weight.mul_(size)
    assert loud(unstuck.diagnose(model, X, targets, functional.mse_loss)) == expected
    right = model(X).detach().sign()
    assert loud(unstuck.diagnose(model, X, right, functional.mse_loss)) == []


def test_a_network_of_many_layers_without_activations_is_an_experiment():
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(12)])
    for layer in model:
        nn.init.orthogonal_(layer.weight)
    assert [(f.rule, f.severity) for f in diagnosed(model).findings] == [("US507", Severity.NOTE)]


class Always(nn.Module):
    """Drops in evaluation mode, too."""

    def __init__(self, drop):
        super().__init__()
        self.layer, self.head, self.drop = nn.Linear(64, 64), nn.Linear(64, 10), drop

    def forward(self, x):
        return self.head(self.drop(self, torch.relu(self.layer(x))))


def attended(p):
    return lambda x: functional.scaled_dot_product_attention(x, x, x, dropout_p=p)


@pytest.mark.parametrize(
    ("drop", "expected"),
    [
        (lambda net, x: functional.dropout(x, 0.3), ["US510"]),
        (lambda net, x: functional.dropout(x, 0.3, net.training), []),
        (lambda net, x: x + attended(0.3)(x.unsqueeze(1)).squeeze(1), ["US510"]),
        (lambda net, x: x + attended(0.0)(x.unsqueeze(1)).squeeze(1), []),
    ],
)
def test_dropout_in_evaluation_mode_is_named(drop, expected):
    assert loud(diagnosed(Always(drop))) == expected
    assert loud(diagnosed(Always(drop), training=True)) == []


@pytest.mark.parametrize(("bias", "expected"), [(False, []), (True, ["US507"])])
def test_an_embedding_before_a_last_layer_without_a_bias_is_meant(bias, expected):
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32), nn.Linear(32, 20, bias=bias))
    assert (
        loud(unstuck.diagnose(model, torch.randn(64, 32), torch.arange(64) % 20, functional.cross_entropy)) == expected
    )
