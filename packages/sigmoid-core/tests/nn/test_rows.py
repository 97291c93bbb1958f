"""Rows of hidden layers run as one wherever a converted model holds them, and nothing else about it changes."""

import copy

import pytest
import torch
from support.copies import COPIES
from torch import nn

import sigmoidcore as sc

WIDTH = 8


def layers(rows=3, inputs=WIDTH):
    return [m for i in range(rows) for m in (nn.Linear(WIDTH if i else inputs, WIDTH), nn.Tanh())]


class Inside(nn.Module):
    """A row as an attribute."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Sequential(*layers(inputs=5)), nn.Linear(WIDTH, 3)

    def forward(self, x):
        return self.decoder(self.encoder(x))


class Residual(nn.Module):
    """A row of each branch."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(*layers(2))

    def forward(self, x):
        return x + self.branch(x)


class Loop(nn.Module):
    """A row that a forward calls layer by layer, with functional tanhs."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, WIDTH), *(nn.Linear(WIDTH, WIDTH) for _ in range(3))])
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


MODELS = {
    "the model itself": (lambda: nn.Sequential(*layers(inputs=5), nn.Linear(WIDTH, 3)), 1),
    "inside a module": (Inside, 1),
    "two rows": (lambda: nn.Sequential(*layers(inputs=5), nn.LayerNorm(WIDTH), *layers(), nn.Linear(WIDTH, 3)), 2),
    "blocks of a row": (
        lambda: nn.Sequential(*(nn.Sequential(*layers(1, 5 if i == 0 else WIDTH)) for i in range(4)), nn.Linear(8, 3)),
        1,
    ),
    "residual branches": (lambda: nn.Sequential(nn.Linear(5, WIDTH), Residual(), Residual(), nn.Linear(WIDTH, 3)), 2),
    "a loop of functional calls": (Loop, 1),
}
LATER = [name for name in MODELS if name != "a loop of functional calls"]


@pytest.fixture
def x():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(1))


def outputs_and_gradients(model, x):
    model.zero_grad()
    y = model(x)
    y.square().sum().backward()
    return [y, *(p.grad.clone() for p in model.parameters())]


def assert_close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_rows_of_a_converted_model_run_as_one_with_the_same_outputs_and_gradients(name, x, calls):
    make, rows = MODELS[name]
    model = make()
    plain = copy.deepcopy(model)
    sc.convert(model)
    assert_close(outputs_and_gradients(model, x), outputs_and_gradients(plain, x))
    assert len(calls) == rows
    sc.prepare(model, x)
    calls.clear()
    model(x)
    assert len(calls) == rows


@pytest.mark.parametrize("make_copy", COPIES)
@pytest.mark.parametrize("name", MODELS)
def test_copies_run_their_own_rows(name, make_copy, x, calls):
    make, rows = MODELS[name]
    model = make()
    sc.convert(model)
    expected = model(x)
    other = make_copy(model)
    for parameter in model.parameters():
        parameter.data.zero_()
    calls.clear()
    assert torch.equal(other(x), expected)
    assert len(calls) == rows


@pytest.mark.parametrize("name", MODELS)
def test_a_second_convert_changes_nothing_and_fold_gives_the_plain_model(name, x, calls):
    make, rows = MODELS[name]
    model = make()
    plain = copy.deepcopy(model)
    sc.convert(model)
    expected = model(x)
    assert sc.convert(model).converted == ()
    assert torch.equal(model(x), expected)
    assert len(calls) == 2 * rows
    folded = sc.fold(model)
    assert str(folded) == str(plain)
    assert not any("forward" in vars(m) for m in folded.modules())
    assert_close(folded(x), expected)


@pytest.mark.parametrize("name", MODELS)
def test_a_hook_on_a_layer_runs_and_its_row_does_not(name, x, calls):
    make, rows = MODELS[name]
    model = make()
    sc.convert(model)
    seen = []
    core = next(m for m in model.modules() if isinstance(m, sc.SigmoidCore))
    handle = core.register_forward_hook(lambda module, args, output: seen.append(module))
    expected = model(x)
    assert seen == [core]
    assert len(calls) == rows - 1
    handle.remove()
    assert_close(model(x), expected)
    assert len(calls) == 2 * rows - 1


@pytest.mark.parametrize("name", LATER)
def test_layers_may_change_later(name, x, calls):
    model = MODELS[name][0]()
    sc.convert(model)
    owner = next(m for m in model.modules() if type(m) is sc.networks.Chain)
    first = next(n for n, m in owner.named_modules() if isinstance(m, sc.SigmoidCore))
    owner.set_submodule(first, nn.ReLU())
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if type(module) is sc.networks.Chain:
            module.__class__ = nn.Sequential
    assert_close(outputs_and_gradients(model, x), outputs_and_gradients(plain, x))


@pytest.mark.parametrize("name", ["the model itself", "a loop of functional calls"])
def test_compiled_and_exported_it_computes_the_same(name, x, calls):
    model = MODELS[name][0]()
    sc.convert(model)
    expected = model(x)
    calls.clear()
    torch._dynamo.reset()
    assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), expected)
    assert_close(torch.export.export(model, (x,)).module()(x), expected)
    assert not calls


def test_a_network_without_rows_keeps_its_class():
    for model in (
        nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2)),
        nn.Sequential(nn.Linear(5, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 2)),
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 3)),
        sc.MLP(5, 8, 3, 2),
    ):
        kind = type(model)
        sc.convert(model)
        assert type(model) is kind
