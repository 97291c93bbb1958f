"""Recurrent networks: states of other sequences, gradients that explode."""

import torch
from torch import Tensor, nn

from real_failures.data import accuracy, sequences
from real_failures.program import Program, Training


class BothDirections(nn.Module):
    """The last states of a bidirectional GRU, brought to [samples, features] by view or by transpose."""

    def __init__(self, transposed: bool, width: int = 12):
        super().__init__()
        self.gru = nn.GRU(4, width, batch_first=True, bidirectional=True)
        self.latent, self.output = nn.Linear(2 * width, 8), nn.Linear(8, 4)
        self.transposed = transposed

    def forward(self, inputs: Tensor) -> Tensor:
        state = self.gru(inputs)[1]
        state = state.transpose(0, 1).flatten(1) if self.transposed else state.view(len(inputs), -1)
        return self.output(self.latent(state).tanh())


def state_of_other_molecules(repaired: bool) -> Training:
    inputs, labels = sequences(steps=8)
    order = torch.randint(128, (200, 32))
    model = BothDirections(transposed=repaired)
    return Training(
        model,
        batch=lambda step: (inputs[order[step]], labels[order[step]]),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        score=lambda model: accuracy(model, inputs, labels),
    )


class RecurrentPolicy(nn.Module):
    """Two layers of LSTM that go on from stored states [sequences, layers, width]."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.lstm, self.output = nn.LSTM(4, width, 2, batch_first=True), nn.Linear(width, 4)

    def forward(self, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return self.output(self.lstm(inputs[0], (inputs[1], inputs[2]))[0][:, -1])


def reshaped_states(repaired: bool) -> Training:
    inputs, labels = sequences(steps=6)
    model = RecurrentPolicy()

    @torch.no_grad()
    def roll_out(chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stored = [state.transpose(0, 1) for state in model.lstm(inputs[chosen, :3])[1]]
        states = [s.transpose(0, 1).contiguous() if repaired else s.reshape(2, len(chosen), -1) for s in stored]
        return inputs[chosen, 3:], states[0], states[1]

    order = torch.randint(128, (200, 32))
    return Training(
        model,
        batch=lambda step: (roll_out(order[step]), labels[order[step]]),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        score=lambda model: accuracy(model, roll_out(torch.arange(128)), labels),
    )


class Characters(nn.Module):
    """The recurrent network of a tutorial: linear layers of input and state, without an activation."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.hidden, self.output = nn.Linear(8 + width, width), nn.Linear(8 + width, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        state = inputs.new_zeros(len(inputs), self.hidden.out_features)
        for step in range(inputs.shape[1] - 1):
            state = self.hidden(torch.cat([inputs[:, step], state], 1))
        return self.output(torch.cat([inputs[:, -1], state], 1)).log_softmax(1)


def linear_recurrence(repaired: bool) -> Training:
    letters = torch.randint(8, (64, 30))
    labels = letters[:, -4] % 4
    inputs = nn.functional.one_hot(letters, 8).float()
    model = Characters()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def step(training: Training, inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        training.loss(training.model(inputs), targets).backward()
        if repaired:
            nn.utils.clip_grad_norm_(training.model.parameters(), 0.25)
        optimizer.step()

    return Training(
        model,
        batch=lambda number: (inputs[number % 4 * 16 :][:16], labels[number % 4 * 16 :][:16]),
        loss=nn.functional.nll_loss,
        optimizer=optimizer,
        score=lambda model: accuracy(model, inputs, labels),
        step=step,
    )


PROGRAMS = [
    Program(
        name="encoder of molecules whose states are viewed, not transposed",
        source="https://github.com/PaccMann/paccmann_chemistry/issues/5",
        symptom="the batch dimension of a bidirectional GRU's state ends up mixed with the directions",
        explanation="states are [directions, samples, width] also with batch_first, so view joins those of two samples",
        causes=("information across the batch", "axes mixed"),
        make=state_of_other_molecules,
        steps=80,
        margin=0.33,
    ),
    Program(
        name="recurrent PPO whose stored states are reshaped",
        source="https://github.com/Stable-Baselines-Team/stable-baselines3-contrib/issues/111",
        symptom="states of the LSTM from the buffer are not those of their sequences",
        explanation="the buffer reshapes [sequences, layers, width] where it should swap the axes",
        causes=("information across the batch", "axes mixed"),
        make=reshaped_states,
        steps=100,
        margin=0.12,
    ),
    Program(
        name="character RNN without clipping",
        source="https://github.com/pytorch/pytorch/issues/2623",
        symptom="the loss of the tutorial's network becomes NaN on other data",
        explanation="gradients explode in the linear recurrence; clipping their norm repairs it",
        causes=("exploding gradient", "not finite", "learning rate too high"),
        make=linear_recurrence,
        steps=80,
        margin=0.34,
        layers=("hidden",),
        visible="training",
    ),
]
