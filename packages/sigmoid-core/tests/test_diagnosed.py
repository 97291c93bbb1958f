"""A diagnosis knows cores as it knows PyTorch's activations, and stands beside an Equalizer."""

import copy
import math

import pytest
import torch
from torch import nn

import sigmoidcore as sc

X, SEQUENCES = torch.randn(32, 6), torch.randn(16, 5, 8)


class LastStep(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        return self.rnn(x)[0][:, -1]


def sources(diagnosis):
    return {layer.name: [diagnosis.layers[i].name for i in layer.sources] for layer in diagnosis.layers}


@pytest.mark.parametrize(
    ("model", "inputs", "kinds"),
    [
        (sc.MLP(6, 8, 2, 3), X, ["Linear", "SigmoidCore", "Linear", "SigmoidCore", "Linear"]),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3), sc.SigmoidCore(4, dim=1), nn.Flatten(), nn.Linear(144, 3)),
            torch.randn(4, 1, 8, 8),
            ["Conv2d", "SigmoidCore", "Linear"],
        ),
        (LastStep(sc.recurrent.CoreLSTM(8, 4, batch_first=True)), SEQUENCES, ["CoreLSTM"]),
    ],
)
def test_the_layers_of_our_own_networks(model, inputs, kinds):
    assert [layer.kind for layer in sc.diagnose(model, inputs).layers] == kinds


def test_converted_and_folded_networks_have_the_layers_of_the_plain_one():
    plain = nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    expected = sources(sc.diagnose(plain, X))
    model = copy.deepcopy(plain)
    sc.convert(model)
    diagnosis = sc.diagnose(model, X)
    assert sources(diagnosis) == expected
    assert [layer.kind for layer in diagnosis.layers][1::2] == ["SigmoidCore"] * 2
    sc.calibrate(model, X)
    assert sources(sc.diagnose(sc.fold(model), X)) == expected


@pytest.mark.parametrize("centered", [False, True])
def test_a_core_has_the_relative_slopes_of_its_scaled_preactivations(centered):
    core = sc.SigmoidCore(4, alpha=3.0, centered=centered, scale=1.7)
    core.set_shift(torch.tensor([-1.0, 0.0, 0.5, 4.0]))
    x = torch.randn(50, 4)
    layer = next(x for x in sc.diagnose(nn.Sequential(nn.Identity(), core, nn.Linear(4, 1)), x).layers if x.name == "1")
    exact = sc.gain.mean_relative_slope(3 * (x - core.shift))
    assert layer.relative_slope == pytest.approx(float(exact.mean()), abs=1e-6)
    assert layer.saturated == float((exact < 0.05).double().mean())


def test_two_monitors_and_an_equalizer_measure_the_same_gradients():
    model, x, y = sc.MLP(8, 16, 5, 3), torch.randn(64, 8), torch.randint(3, (64,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with (
        sc.Monitor(model, every=1) as first,
        sc.Equalizer(model, optimizer, every=1, tolerance=1e9) as equalizer,
        sc.Monitor(model, every=2) as second,
    ):
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert ([m.step for m in first.measurements], [m.step for m in second.measurements]) == ([0, 1, 2], [0, 2])
    gradients = [layer.gradient for layer in first.measurements[2].layers]
    assert gradients == [layer.gradient for layer in second.measurements[1].layers]
    cores = [layer.gradient for layer in first.measurements[2].layers if layer.role == "weights"][:5]
    assert [math.exp(size) for size in equalizer.history[2].log_sizes] == pytest.approx(cores, rel=1e-5)


def test_a_non_finite_sparse_input_is_refused():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.core, self.last = nn.Linear(4, 8), sc.SigmoidCore(8, centered=True), nn.Linear(8, 2)

        def forward(self, x, edges):
            return torch.sparse.mm(edges, self.last(self.core(torch.sparse.mm(edges, self.first(x)))))

    edges = torch.eye(30)
    edges[0, 0] = math.nan
    with pytest.raises(ValueError, match="1 non-finite"):
        sc.prepare(Graph(), (torch.randn(30, 4), edges.to_sparse()))
