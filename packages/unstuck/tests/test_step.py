"""A recorded step runs again, to the last bit, and edited; nothing of the user's changes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from unstuck.measure.probe import Probe
from unstuck.observation.process_group import Ranks
from unstuck.step import Replay, StepObserver, recorded

X, LABELS = torch.randn(12, 6), torch.arange(12) % 3


class Last(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[1][0][-1])


class Functional(nn.Module):
    """Weights of its own, views, changes in place, a part without gradients."""

    def __init__(self):
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.randn(6, 4)), nn.BatchNorm1d(4)
        self.register_buffer("scale", torch.full((4,), 2.0))

    def forward(self, x):
        h = self.norm(x @ self.weight * self.scale)
        h = h.clone()
        h[:, 0] = x[:, 0]
        h.add_(1.0).clamp_(max=3.0)
        with torch.no_grad():
            size = h.abs().mean()
        first, second = (h / size).chunk(2, 1)
        return torch.cat([first * second.sigmoid(), second], 1)[:, :3]


NETWORKS = {
    "mlp": (nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)), X),
    "convolutions": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3)),
        torch.randn(12, 1, 6, 6),
    ),
    "recurrent": (Last(), torch.randn(12, 5, 6)),
    "attention": (nn.Sequential(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True), nn.Flatten()), X[:, None]),
    "functional": (Functional(), X),
}


def values(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_gives_the_same_loss_and_gradients_again_bit_for_bit(name, autocast):
    model, x = copy.deepcopy(NETWORKS[name][0]), NETWORKS[name][1]
    before = {n: v.detach().clone() for n, v in values(model).items()}
    replay = Replay(values(model))
    torch.manual_seed(1)
    with recorded(model) as step, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = functional.cross_entropy(model(x).float()[:, :3], LABELS)
        loss.backward()
        step = step()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    torch.manual_seed(1)
    (again,) = replay.losses(step)
    again.backward()
    assert torch.equal(again, loss)
    assert not step.unfollowed
    for n, gradient in gradients.items():
        torch.testing.assert_close(replay.values[n].grad, gradient, rtol=0.1 * autocast, atol=1e-3 * autocast)
        assert model.get_parameter(n).grad is gradient
        assert torch.equal(model.get_parameter(n), before[n])
    running = [n for n in before if "running" in n]
    assert all(torch.equal(replay.values[n], values(model)[n]) for n in running)


def test_calls_have_their_module_line_and_shape():
    model = nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.Tanh(), nn.Linear(8, 3)))
    targets = torch.zeros(12, 3)
    with recorded(model) as step:
        functional.mse_loss(model(X), targets).backward()
        step = step()
    calls = [(n.function, n.module, n.shape) for n in step.calls()]
    assert calls == [
        ("linear", "0", (12, 8)), ("tanh", "1.0", (12, 8)), ("linear", "1.1", (12, 3)), ("mse_loss", None, ()),
    ]  # fmt: skip
    assert {n.target for n in step.placeholders("parameter")} == {n for n, _ in model.named_parameters()}
    assert [n.shape for n in step.placeholders("input")] == [(12, 6)]
    loss = next(step.calls("mse_loss"))
    assert loss.place[0] == __file__
    assert [n.function for n in loss.all_input_nodes] == ["linear", ""]
    assert list(next(step.calls("tanh")).users) == [list(step.calls("linear"))[1]]


def test_an_edit_replaces_a_call():
    model = nn.Sequential(nn.Linear(6, 3), nn.Softmax(1))
    with recorded(model) as step:
        functional.cross_entropy(model(X), LABELS).backward()
        step = step()
    (softmax,) = step.calls("softmax")
    (loss,) = Replay(values(model)).losses(step, {softmax: lambda x, *_, **__: x})
    assert torch.equal(loss, functional.cross_entropy(model[0](X), LABELS))


def test_the_graph_of_pytorch_prints_and_has_no_call_that_the_loss_does_not_need():
    model = nn.Sequential(nn.Linear(6, 3), nn.Tanh())
    with recorded(model) as step:
        outputs = model(X)
        outputs.argmax(1)
        outputs.square().mean().backward()
        graph = step().graph()
    graph.lint()
    assert [n.target.__name__ for n in graph.nodes if n.op == "call_function"] == ["linear", "tanh", "square", "mean"]
    assert {n.meta.get("module") for n in graph.nodes} == {None, "0", "1"}


def test_an_observer_has_all_passes_of_a_step_and_none_of_the_optimizer_or_an_evaluation():
    model = nn.Linear(6, 3)
    optimizer = torch.optim.Adam(model.parameters())
    observer = StepObserver(model)
    with observer:
        for _ in range(2):
            for part in X.chunk(3):
                model(part).square().mean().backward()
            step = observer.take()
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():
                model(X)
            assert len(list(step.calls("linear"))) == len(step.losses) == 3
            assert step.loss == pytest.approx(3 * float(step.values[0] + step.values[1] + step.values[2]) / 3)
    assert observer.take() is None


def test_what_cannot_be_repeated_is_named():
    class Sign(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sign()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    model = nn.Linear(6, 3)
    with recorded(model) as step:
        Sign.apply(model(X)).sum().backward()
        assert list(step().unfollowed) == ["a custom autograd function"]


def test_the_step_of_measured_passes_runs_again():
    model = nn.Sequential(nn.Linear(6, 8), nn.LSTM(8, 5, batch_first=True))
    probe = Probe(model, most=None, ranks=Ranks())
    probe.attach()
    one, other = (model(x)[0] for x in (X, X.flip(0)))
    loss = (one - other).square().mean() + one.abs().mean()  # of two passes
    loss.backward()
    step = probe.take_step()
    measurement = probe.conclude()
    (again,) = Replay(values(model)).losses(step)
    assert measurement.loss == pytest.approx(again.item())
    assert torch.equal(again, loss)
    assert not step.unfollowed
    assert len(list(step.placeholders("input"))) == 2
