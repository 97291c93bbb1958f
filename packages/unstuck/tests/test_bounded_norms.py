"""US201 and US207 know the places of norms: in converted models, and in models with a Dynamic Tanh of their own."""

import pytest
import torch
from torch import nn

import sigmoidcore as sc


class DynamicTanh(nn.Module):
    def __init__(self, features, alpha=1.0):
        super().__init__()
        self.alpha, self.weight = nn.Parameter(torch.tensor([alpha])), nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x):
        return torch.tanh(self.alpha * x) * self.weight + self.bias


@pytest.mark.parametrize("converted", [True, False])
def test_a_place_with_too_large_an_alpha_is_found_and_one_with_the_right_alpha_is_not(converted):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), DynamicTanh(32), nn.Linear(32, 2))
    batch = torch.randn(64, 8), torch.randint(2, (64,)), nn.functional.cross_entropy
    assert sc.diagnose(model, *batch).healthy
    with torch.no_grad():
        model[1].alpha.fill_(100.0)
    name = "1.tanh"
    if converted:
        name = "1.core"
        sc.convert(model, norms=True)
    (finding,) = sc.diagnose(model, *batch).findings
    assert (finding.rule, finding.layers) == ("US201", (name,))
    if converted:
        sc.calibrate(model, batch[0], saturation=0.5)
        assert sc.diagnose(model, *batch).healthy


class Residual(nn.Module):
    """Embeddings of a size, and blocks with a place in front of each branch."""

    def __init__(self, place, size=1.0, blocks=3):
        super().__init__()
        self.embed = nn.Embedding(20, 32)
        nn.init.normal_(self.embed.weight, std=size)
        self.norms = nn.ModuleList(place(32) for _ in range(blocks))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 32)) for _ in range(blocks)
        )
        self.last, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, tokens):
        x = self.embed(tokens)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return self.head(self.last(x).mean(1))


def case(place, **options):
    torch.manual_seed(0)
    inputs, targets = torch.randint(20, (64, 10)), torch.randint(5, (64,))
    return Residual(place, **options), inputs, targets, nn.functional.cross_entropy


def rules(diagnosis):
    return [finding.rule for finding in diagnosis.findings]


@pytest.mark.parametrize("options", [{"size": 0.02}, {"size": 0.001}])
def test_a_dynamic_tanh_whose_alpha_is_too_small_is_found_and_the_call_mends_it(options):
    model, inputs, targets, loss_fn = case(lambda n: DynamicTanh(n, 0.5), **options)
    (finding,) = sc.diagnose(model, inputs, targets, loss_fn).findings
    assert (finding.rule, finding.layers[0]) == ("US207", "norms.0.tanh")
    exec(finding.call, {"model": model, "inputs": inputs, "sc": sc, "torch": torch})
    assert sc.diagnose(model, inputs, targets, loss_fn).healthy
    assert isinstance(model.norms[0], DynamicTanh)


def test_converted_norms_that_were_not_calibrated_are_found_and_calibrated():
    model, inputs, targets, loss_fn = case(nn.LayerNorm, size=0.02)
    sc.convert(model, norms=True, exclude=["layers.*", "last"])
    (finding,) = sc.diagnose(model, inputs, targets, loss_fn).findings
    assert (finding.rule, finding.call) == ("US207", "sc.calibrate(model, inputs)")
    exec(finding.call, {"model": model, "inputs": inputs, "sc": sc})
    assert sc.diagnose(model, inputs, targets, loss_fn).healthy


@pytest.mark.parametrize("alpha", [0.1, 0.5, 2.0])
def test_usual_alphas_are_healthy(alpha):
    model, *batch = case(lambda n: DynamicTanh(n, alpha))
    assert sc.diagnose(model, *batch).healthy


def test_a_weight_that_makes_up_for_it_or_that_starts_at_0_is_healthy():
    for weight in (100.0, 0.0):
        model, *batch = case(lambda n: DynamicTanh(n, 0.01))
        for norm in model.norms:
            nn.init.constant_(norm.weight, weight)
        assert "US207" not in rules(sc.diagnose(model, *batch))
    model, inputs, *loss = case(nn.LayerNorm)
    sc.convert(model, norms=True)
    sc.calibrate(model, inputs, saturation=0.01)
    assert "US207" not in rules(sc.diagnose(model, inputs, *loss))


def test_the_call_for_too_large_an_alpha_leaves_other_norms_and_activations():
    model, inputs, targets, loss_fn = case(lambda n: DynamicTanh(n, 100.0))
    (finding,) = (f for f in sc.diagnose(model, inputs, targets, loss_fn).findings if f.rule == "US201")
    exec(finding.call, {"model": model, "inputs": inputs, "sc": sc})
    assert isinstance(model.last, nn.LayerNorm)
    assert isinstance(model.layers[0][1], nn.Tanh)
    assert "US201" not in rules(sc.diagnose(model, inputs, targets, loss_fn))


def test_a_layer_with_a_matrix_and_a_bounded_output_is_no_place_of_a_norm():
    class Bounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.alpha = nn.Parameter(0.005 * torch.randn(4, 16)), nn.Parameter(torch.ones(1))

        def forward(self, x):
            return torch.tanh(self.alpha * nn.functional.linear(x, self.weight))

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), Bounded())
    found = sc.diagnose(model, torch.randn(64, 16), torch.randint(4, (64,)), nn.functional.cross_entropy)
    assert "US207" not in rules(found)
