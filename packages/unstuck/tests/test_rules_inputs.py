"""US206: inputs that are not scaled, of real networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from unstuck_support.layers import loud

import unstuck
from unstuck.findings import Severity

X = torch.randn(128, 64)
LARGE = torch.tensor([10.0, 900.0, 30000.0])


def mlp(*between, outputs=10):
    return nn.Sequential(nn.Linear(64, 64), *between, nn.Linear(64, outputs))


class Embeds(nn.Module):
    """Numbers beside the embedding of a token."""

    def __init__(self):
        super().__init__()
        self.embedding, self.layers = nn.Embedding(5, 4), nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x, token):
        return self.layers(torch.cat([x, self.embedding(token)], 1))


class Branches(nn.Module):
    """One branch that normalises its inputs and one that does not."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 1)) for _ in range(2))

    def forward(self, x):
        return torch.cat([self.first(functional.layer_norm(x, (3,))), self.second(x)], 1)


def severity(model, *inputs, targets):
    torch.manual_seed(0)
    loss = functional.cross_entropy if targets.dtype == torch.long else functional.mse_loss
    found = unstuck.diagnose(model, inputs, targets, loss).findings
    return next((f.severity for f in found if f.rule == "US206"), None)


def test_large_numbers_beside_embeddings_are_named():
    x, token = torch.rand(64, 3) * LARGE, torch.randint(5, (64,))
    assert severity(Embeds(), x, token, targets=torch.randn(64, 1)) is Severity.WARNING
    assert severity(Embeds(), x / LARGE, token, targets=torch.randn(64, 1)) is None


def test_one_branch_is_enough_if_its_outputs_are_far_off():
    x = torch.randn(64, 3) * LARGE
    assert severity(Branches(), x, targets=torch.randn(64, 2)) is Severity.WARNING


def test_a_few_samples_are_enough():
    model = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 1))
    assert severity(model, torch.rand(5, 3) * LARGE, targets=torch.randn(5, 1)) is Severity.WARNING


def test_units_that_are_off_for_all_samples_because_of_their_inputs_are_explained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 12), nn.ReLU(), nn.Linear(12, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[2].weight.abs_().neg_()
        model[2].bias.zero_()
    labels = (torch.arange(64) % 2).float()[:, None]
    loss = functional.binary_cross_entropy_with_logits
    assert loud(unstuck.diagnose(model, torch.rand(64, 3) * LARGE, labels, loss)) == ["US206"]


class Divides(nn.Module):
    """Brings its inputs to the size 1."""

    def forward(self, x):
        return x / 100


@pytest.mark.parametrize("inside", [Divides(), nn.BatchNorm1d(4)], ids=["by hand", "a normalisation"])
def test_what_is_scaled_inside_is_no_fault_also_after_a_training(inside):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside, self.gru, self.head = inside, nn.GRU(4, 32, batch_first=True), nn.Linear(32, 2)

        def forward(self, x):
            return self.head(self.gru(self.inside(x.transpose(1, 2)).transpose(1, 2))[0].mean(1))

    torch.manual_seed(0)
    model, labels = Net(), torch.arange(64) % 2
    waves = torch.where(labels == 1, 0.9, 0.45)[:, None, None] * torch.arange(16)[:, None]
    x = 140 * torch.sin(waves + 6.28 * torch.rand(64, 1, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with unstuck.Monitor(model, every=10) as monitor:
        for _ in range(150):
            optimizer.zero_grad()
            functional.cross_entropy(model(x), labels).backward()
            optimizer.step()
    assert monitor.diagnosis().healthy


def test_a_logistic_regression_that_scales_its_inputs_and_is_certain_is_no_fault():
    torch.manual_seed(0)
    model, x = nn.Sequential(Divides(), nn.Linear(20, 1), nn.Sigmoid()), 100 * torch.randn(128, 20)
    with torch.no_grad():
        model[1].weight.mul_(40)
    assert loud(unstuck.diagnose(model, x, (model(x) > 0.5).float(), functional.binary_cross_entropy)) == []


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (255 * torch.rand(128, 64), ["US206"]),
        (100 * X, ["US206"]),
        (X, []),
        (5 * X, []),
        (0.1 * X, []),
        (torch.rand(128, 64), []),
        (16 * torch.rand(128, 64), []),
    ],
    ids=["bytes", "large", "unit", "somewhat large", "somewhat small", "fractions", "digits"],
)
def test_the_size_of_the_inputs(inputs, expected):
    model = mlp(nn.ReLU())
    assert loud(unstuck.diagnose(nn.Sequential(*model, nn.Sigmoid()), inputs)) == expected
    large = inputs.abs().max() > 50
    findings = [(f.rule, f.severity.value) for f in unstuck.diagnose(model, inputs).findings]
    assert findings == [(rule, "note" if large else "warning") for rule in expected], "a ReLU passes any scale on"


@pytest.mark.parametrize(("length", "expected"), [(100.0, ["US206"]), (1.0, [])])
def test_large_inputs_are_seen_behind_a_tanh_that_makes_them_small_and_beside_inputs_of_the_model_itself(
    length, expected
):
    class Rod(nn.Module):
        def __init__(self):
            super().__init__()
            self.field = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
            self.register_buffer("ends", torch.tensor([[0.0], [length]]))

        def forward(self, x):
            return self.field(x), self.field(self.ends)

    torch.manual_seed(0)
    diagnosis = unstuck.diagnose(
        Rod(), length * torch.rand(128, 1), loss_fn=lambda y, _: y[0].square().mean() + y[1].mean()
    )
    assert loud(diagnosis)[:1] == expected


@pytest.mark.parametrize("factor", [1, 1000])
def test_large_inputs_are_a_warning_if_the_first_outputs_are_far_off(factor):
    model, target = mlp(nn.ReLU(), outputs=1), torch.randn(128, 1)
    finding = unstuck.diagnose(model, 100 * X, factor * target, functional.mse_loss).findings[-1]
    assert (finding.rule, finding.severity.value) == ("US206", "warning" if factor == 1 else "note")


def test_a_normalisation_at_the_start_takes_inputs_of_any_size():
    for inputs in (255 * torch.rand(128, 64), 1e-3 * torch.rand(128, 64)):
        model = nn.Sequential(nn.BatchNorm1d(64, eps=1e-12), *mlp(nn.ReLU()))
        assert loud(unstuck.diagnose(nn.Sequential(*model, nn.Sigmoid()), inputs)) == []
    model = mlp(nn.BatchNorm1d(64), nn.ReLU())
    assert loud(unstuck.diagnose(nn.Sequential(*model, nn.Sigmoid()), 255 * torch.rand(128, 64))) == []


@pytest.mark.parametrize(("factor", "expected"), [(1.0, None), (1e-3, Severity.NOTE)])
def test_small_inputs_are_a_note(factor, expected):
    assert severity(mlp(nn.ReLU()), factor * X, targets=torch.randint(10, (128,))) is expected
