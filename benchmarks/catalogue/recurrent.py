"""Recurrent networks: here a gradient can vanish or explode through time as well."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

import sigmoidcore as sc
from catalogue.case import Case, Problem, sequences, train

cross_entropy = nn.functional.cross_entropy


class Reader(nn.Module):
    """Reads a sequence and says its class from the last output."""

    def __init__(self, recurrent: nn.RNNBase | sc.recurrent.CoreRNN) -> None:
        super().__init__()
        self.recurrent = recurrent
        self.head = nn.Linear(recurrent.hidden_size, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


def reader(
    recurrent: Callable[[], nn.RNNBase],
    steps: int,
    change: Callable[[nn.RNNBase], None] | None = None,
) -> Problem:
    model = Reader(recurrent())
    if change is not None:
        with torch.no_grad():
            change(model.recurrent)
    return model, *sequences(steps=steps), cross_entropy


def rnn(nonlinearity: str = "tanh") -> nn.RNNBase:
    return nn.RNN(8, 32, nonlinearity=nonlinearity, batch_first=True)


def lstm(layers: int = 1) -> nn.RNNBase:
    return nn.LSTM(8, 32, layers, batch_first=True)


def gru() -> nn.RNNBase:
    return nn.GRU(8, 32, batch_first=True)


def radius(of: float) -> Callable[[nn.RNNBase], None]:
    """The recurrent matrix is orthogonal times this."""

    def change(recurrent: nn.RNNBase) -> None:
        nn.init.orthogonal_(recurrent.weight_hh_l0, of)
        nn.init.zeros_(recurrent.bias_hh_l0)
        nn.init.zeros_(recurrent.bias_ih_l0)

    return change


def forget(bias: float) -> Callable[[nn.RNNBase], None]:
    """The bias of an LSTM's forget gates."""

    def change(recurrent: nn.RNNBase) -> None:
        recurrent.bias_ih_l0[32:64] = bias
        recurrent.bias_hh_l0[32:64] = 0

    return change


def chrono(longest: int) -> Callable[[nn.RNNBase], None]:
    """Forget gates open for 1 to `longest` steps, input gates the other way round (Tallec and Ollivier, 2018)."""

    def change(recurrent: nn.RNNBase) -> None:
        times = torch.empty(32).uniform_(1, longest - 1).log()
        recurrent.bias_hh_l0.zero_()
        recurrent.bias_ih_l0[32:64] = times
        recurrent.bias_ih_l0[:32] = -times

    return change


class Loop(nn.Module):
    """A recurrent network written out: h = relu(W x + V h), V orthogonal times `factor`."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.read = nn.Linear(8, 32)
        self.again = nn.Linear(32, 32, bias=False)
        self.head = nn.Linear(32, 4)
        nn.init.orthogonal_(self.again.weight, factor)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 32)
        for step in x.unbind(1):
            h = torch.relu(self.read(step) + self.again(h))
        return self.head(h)


class Tagger(nn.Module):
    """Reads both ways and says a class at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(8, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0])


def tagged() -> Problem:
    inputs, targets = sequences()
    repeated = targets[:, None].expand(-1, inputs.shape[1])
    return Tagger(), inputs, repeated, lambda outputs, classes: cross_entropy(outputs.flatten(0, 1), classes.flatten())


class Cells(nn.Module):
    """A cell in a loop; `between` is what happens to the state at the end of a step."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.cell = nn.GRUCell(16, 32)
        self.head = nn.Linear(32, 4)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 32)
        for step in x.unbind(1):
            state = self.between(self.cell(self.embed(step), state))
        return self.head(state)


def cells(between: Callable[[Tensor], Tensor], steps: int) -> Problem:
    return Cells(between), *sequences(steps=steps), cross_entropy


def prepared(steps: int) -> Problem:
    inputs, targets = sequences(steps=steps)
    model = Reader(sc.recurrent.CoreRNN(8, 32, batch_first=True))
    sc.prepare(model, inputs, targets=targets, loss_fn=cross_entropy)
    return model, inputs, targets, cross_entropy


def trained() -> Problem:
    problem = reader(gru, 20)
    train(problem, torch.optim.Adam(problem[0].parameters(), lr=3e-3), 80)
    return problem


BROKEN = (
    Case(
        "RNN, tanh, recurrent weights x 0.3, 50 steps",
        "0.3^50",
        partial(reader, rnn, 50, radius(0.3)),
        ("US103",),
        ("recurrent",),
    ),
    Case(
        "RNN, PyTorch's default, 100 steps",
        "the spectral radius is about 0.6",
        partial(reader, rnn, 100),
        ("US103",),
        ("recurrent",),
    ),
    Case(
        "LSTM, PyTorch's default, 400 steps",
        "half is forgotten in every step",
        partial(reader, lstm, 400),
        ("US103",),
        ("recurrent",),
    ),
    Case(
        "LSTM, forget gates shut, 40 steps",
        "bias -5: all is forgotten in every step",
        partial(reader, lstm, 40, forget(-5.0)),
        ("US103",),
        ("recurrent",),
    ),
    Case(
        "GRU, PyTorch's default, 300 steps",
        "half is forgotten in every step",
        partial(reader, gru, 300),
        ("US103",),
        ("recurrent",),
    ),
    Case(
        "GRU cell, state detached in every step",
        "state.detach(): only the last step learns, and nothing that has to be remembered",
        partial(cells, lambda state: state.detach(), 12),
        ("US501",),
        ("embed.weight", "embed.bias", "cell.weight_ih", "cell.weight_hh", "cell.bias_ih", "cell.bias_hh"),
    ),
)

HEALTHY = (
    Case("RNN, tanh, orthogonal, 30 steps", "radius 1", partial(reader, rnn, 30, radius(1.0))),
    Case("RNN, PyTorch's default, 8 steps", "short", partial(reader, rnn, 8)),
    Case("LSTM, PyTorch's default, 10 steps", "short", partial(reader, lstm, 10)),
    Case("LSTM, two layers, 10 steps", "short", partial(reader, partial(lstm, 2), 10)),
    Case("LSTM, chrono, 100 steps", "it remembers as long as the sequence is", partial(reader, lstm, 100, chrono(100))),
    Case("LSTM, forget gates open, 40 steps", "bias 2", partial(reader, lstm, 40, forget(2.0))),
    Case(
        "a loop of Linear and ReLU, 30 steps",
        "orthogonal weights times the root of 2",
        lambda: (Loop(2**0.5), *sequences(steps=30), cross_entropy),
    ),
    Case("GRU, PyTorch's default, 10 steps", "short", partial(reader, gru, 10)),
    Case("GRU, trained, 20 steps", "confident", trained),
    Case("GRU cell in a loop, 12 steps", "the same layer, 12 times", partial(cells, lambda state: state, 12)),
    Case("LSTM both ways, a class at every step", "each step has its own gradient", tagged),
    Case("RNN of cores, 60 steps", "sigmoids, prepared", partial(prepared, 60), slow=True),
)
