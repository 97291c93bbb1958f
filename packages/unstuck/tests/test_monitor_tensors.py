"""Losses of derivatives, and tensors that are no plain arrays: what of them is measured, and what is said."""

import copy
import dataclasses
import itertools
import json

import pytest
import torch
from support.labelled import Labelled
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from unstuck import Monitor, diagnose, rules


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


def smooth():
    """A network of tanhs whose second derivatives are large."""
    sizes = (2, 16, 16, 16, 16)
    hidden = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in itertools.pairwise(sizes)]
    net = nn.Sequential(*hidden, nn.Linear(16, 1))
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.5)
    return net


def curvature_loss(net, x):
    """A loss of second derivatives, and of next to nothing of the output itself."""
    u = net(x)
    (first,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first[:, 0].sum(), x, create_graph=True)
    return second[:, 0].square().mean() + 1e-6 * u.square().mean()


def test_exploding_gradients_are_not_judged_if_the_loss_contains_derivatives():
    net, x = smooth(), torch.randn(64, 2, requires_grad=True)
    optimizer = sgd(net, 1e-9)
    with Monitor(net, every=1) as monitor:
        for _ in range(2):
            optimizer.zero_grad()
            curvature_loss(net, x).backward()
            optimizer.step()
    assert all(m.differentiated for m in monitor.measurements)
    fresh = Monitor(net)
    fresh.load_state_dict(json.loads(json.dumps(monitor.state_dict())))
    fresh.remove()
    for judged in (monitor, fresh):
        assert "US102" not in [found.rule for found in judged.diagnosis().findings]
        assert any("US102" in note for note in judged.measurements[-1].notes)
    blind = [dataclasses.replace(m, differentiated=False) for m in monitor.measurements]
    assert "US102" in [found.rule for found in rules.find(blind)]  # it is the derivatives that it rests for


def test_a_loss_of_derivatives_alone_has_one_note():
    net, x = smooth(), torch.rand(64, 2, requires_grad=True)
    optimizer = sgd(net)
    with Monitor(net, every=1) as monitor:
        (first,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        first.square().mean().backward()
        optimizer.step()
    (note,) = monitor.measurements[-1].notes
    assert "derivatives of the outputs" in note


def test_derivatives_outside_of_the_loss_do_not_count():
    net, x = smooth(), torch.randn(64, 2, requires_grad=True)
    optimizer = sgd(net, 1e-9)
    with Monitor(net, every=1) as monitor:
        torch.autograd.grad(net(x).sum(), x)  # a saliency map
        curvature_loss(net, x)  # is shown, and not learned
        net(x).square().mean().backward()
        optimizer.step()
    assert not monitor.measurements[-1].differentiated


def test_tensor_subclasses_are_measured_as_plain_tensors():
    model, inputs = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3), nn.Tanh()), torch.randn(24, 8)
    optimizer, found = sgd(model, 1e-30), []
    for x in (inputs, inputs.as_subclass(Labelled)):
        with Monitor(model, every=1) as monitor:
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(monitor.measurements[-1])
    assert found[0].layers == found[1].layers
    assert found[0].input_spread == found[1].input_spread


class Graph(nn.Module):
    """A network on a graph, whose edges are a sparse matrix: given, or kept as a buffer."""

    def __init__(self, edges=None):
        super().__init__()
        self.first, self.core, self.last = nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)
        self.register_buffer("edges", edges)

    def forward(self, x, edges=None):
        edges = self.edges if edges is None else edges
        return torch.sparse.mm(edges, self.last(self.core(torch.sparse.mm(edges, self.first(x)))))


@pytest.fixture
def edges():
    return (torch.rand(30, 30) < 0.2).float()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_inputs_are_reported_as_not_measured(edges, layout):
    net, x = Graph(), torch.randn(30, 4)
    sparse = edges.to_sparse(layout=layout)
    found = []
    for given in (sparse, edges):
        optimizer = sgd(net, 0.0)
        with Monitor(net, every=1) as monitor:
            net(x, given).square().mean().backward()
            optimizer.step()
        found.append(monitor.measurements[-1])
    assert found[0].notes == ("an input of the model: it is a sparse tensor",)
    for layer, other in zip(found[0].layers, found[1].layers, strict=True):
        assert layer.gradient == pytest.approx(other.gradient, rel=1e-5)
        assert layer.rms == pytest.approx(other.rms, rel=1e-5)
    assert diagnose(net, (x, sparse)).measurement.notes[0] == "an input of the model: it is a sparse tensor"


def test_nested_tensors_are_reported_as_not_measured():
    class Ragged(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.inside, self.last = nn.Linear(2, 4), nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x):
            x = self.before(x)
            ragged = torch.nested.nested_tensor_from_jagged(x, torch.tensor([0, 3, 8]))
            return self.last(self.inside(ragged).values())

    measured = diagnose(Ragged(), torch.randn(8, 2)).measurement
    assert any(note == "the output of inside: it is a nested tensor" for note in measured.notes)
    assert {layer.name: layer.gradient is None for layer in measured.layers} == {
        "before": False, "inside": True, "last": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    "raised",
    [
        lambda error, y: error**y,
        lambda error, y: error.pow(y),
        lambda error, y: torch.pow(error, exponent=y),
        lambda error, y: 2.0**error * y,
        lambda error, y: error.float_power(y).float(),
        lambda error, y: error.clone().pow_(y),
        lambda error, y: error ** y[0, 0],
    ],
)
def test_a_loss_may_have_an_exponent_for_each_element(raised):
    model, y = nn.Linear(6, 5), torch.rand(32, 5) + 1
    with Monitor(model, every=1) as monitor:
        raised((model(torch.randn(32, 6)) - y).abs() + 0.1, y).mean().backward()
        sgd(model).step()
    assert not [note for note in monitor.measurements[0].notes if "please report" in note]
    assert monitor.measurements[0].layers[0].gradient > 0


class Odd(nn.Module):
    """Calls that PyTorch takes and that measure nothing."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        y = self.first(x)
        empty = self.norm.eval()(y[:0]).sum()
        return y.mean() + torch.softmax(y.mean(), 0) + empty


def test_a_softmax_of_a_single_number_and_a_normalisation_of_nothing_are_passed_over():
    model = Odd()
    with Monitor(model, every=1) as monitor:
        model(torch.randn(8, 3)).backward()
        sgd(model).step()
    assert not [note for note in monitor.measurements[0].notes if "please report" in note]
    assert [layer.name for layer in monitor.measurements[0].weighted] == ["first"]


class Words(nn.Module):
    """The mean over the words of each sentence."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, sentences):
        return torch.stack([words.mean(0) for words in self.last(self.first(sentences).relu()).unbind()])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "error:A bug in unstuck")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_a_model_of_nested_tensors_trains_under_a_monitor(layout):
    model = Words()
    before = model.first.weight.clone()
    with Monitor(model, every=1):
        sentences = torch.nested.nested_tensor([torch.randn(n, 6) for n in (2, 3, 4)], layout=layout)
        nn.functional.cross_entropy(model(sentences), torch.tensor([0, 1, 2])).backward()
        sgd(model).step()
    assert not torch.equal(model.first.weight, before)


class Complex(nn.Module):
    """Two layers of complex numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 16, dtype=torch.cfloat), nn.Linear(16, 3, dtype=torch.cfloat)

    def forward(self, x):
        z = self.first(x.to(torch.cfloat))
        return self.last(torch.complex(z.real.relu(), z.imag.relu())).abs()


def test_gradients_of_complex_layers_are_not_taken_for_uncleared():
    model = Complex()
    optimizer = sgd(model)
    with Monitor(model, every=1) as monitor:
        for _ in range(6):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(torch.randn(32, 6)), torch.randint(3, (32,))).backward()
            optimizer.step()
    assert "US305" not in [found.rule for found in monitor.diagnosis().findings]


def test_a_model_with_scripted_parts_may_have_activations_in_them():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(8, 8)

        def forward(self, x):
            return torch.relu(self.map(x))

    traced = torch.jit.trace(Hidden(), torch.randn(2, 8))
    model = nn.Sequential(nn.Linear(6, 8), traced, nn.Linear(8, 3))
    found = diagnose(model, torch.randn(64, 6), torch.randint(3, (64,)), nn.functional.cross_entropy).findings
    assert "US507" not in [f.rule for f in found]


@pytest.mark.with_bugs
def test_a_bug_of_ours_before_a_pass_leaves_it_to_run_unmeasured(monkeypatch):
    def mistaken(*_):
        raise LookupError("a mistake")

    monkeypatch.setattr("unstuck.measure.forward_pass.ForwardPass.take_inputs", mistaken)
    model = nn.Linear(6, 3)
    with Monitor(model, every=1) as monitor, pytest.warns(RuntimeWarning, match=r"please report it .LookupError"):
        model(torch.randn(4, 6)).sum().backward()
    assert monitor.measurements == []


class Count(TorchDispatchMode):
    """Counts the operations of the user's program."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_what_measures_is_hidden_from_the_users_modes():
    model, x = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3)), torch.randn(32, 6)
    with Count() as plain:
        model(x)
    with Monitor(model, every=1), Count() as measured:
        model(x)
    assert measured.count == plain.count


def trained(model, inputs, loss, measured):
    """The weights after three steps."""
    optimizer = sgd(model)
    monitor = Monitor(model, every=1) if measured else None
    for _ in range(3):
        optimizer.zero_grad()
        loss(model(inputs)).backward()
        optimizer.step()
    if monitor is not None:
        monitor.remove()
        assert not [note for m in monitor.measurements for note in m.notes if "please report" in note]
    return [p.detach() for p in model.parameters()]


def test_functions_that_the_user_has_put_in_the_place_of_pytorchs_run_once(monkeypatch):
    relu, cross_entropy, calls = nn.functional.relu, nn.functional.cross_entropy, []

    def half(x, inplace=False):
        calls.append(x)
        return 0.5 * relu(x)

    monkeypatch.setattr(nn.functional, "relu", half)
    monkeypatch.setattr(nn.functional, "cross_entropy", lambda *a, **k: cross_entropy(*a, label_smoothing=0.1, **k))
    model, x, y = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(32, 6), torch.arange(32) % 3
    copies = [copy.deepcopy(model) for _ in range(2)]
    results = [
        trained(copied, x, lambda out: nn.functional.cross_entropy(out, y), measured)
        for measured, copied in enumerate(copies)
    ]
    torch.testing.assert_close(*results, rtol=0, atol=0)
    assert len(calls) == 6


class Cyclic(nn.Module):
    """Its output contains itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, inputs):
        outputs = {"y": self.layer(inputs["x"])}
        outputs["all"] = outputs
        return outputs


class Strange(dict):
    """A batch that is read by its keys only."""

    def values(self):
        raise LookupError("no values")


@pytest.mark.with_bugs
def test_dicts_may_contain_themselves_and_need_no_values():
    cyclic = {"x": torch.randn(32, 6)}
    cyclic["all"] = cyclic
    with Monitor(Cyclic(), every=1) as monitor:
        monitor.model(cyclic)["y"].square().mean().backward()
        sgd(monitor.model).step()
    assert monitor.measurements[0].samples == 32
    with pytest.warns(RuntimeWarning, match="please report it .LookupError"):
        trained(Cyclic(), Strange(cyclic), lambda out: out["y"].square().mean(), measured=True)
