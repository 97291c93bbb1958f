"""Attention and softmax: over the wrong dimension, with a mask that hides all or nothing, without positions."""

import math

import torch
from torch import Tensor, nn

from real_failures.data import accuracy
from real_failures.program import Program, Training


class Policy(nn.Module):
    """Probabilities of the actions in a state."""

    def __init__(self, dim: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 32), nn.LeakyReLU(), nn.Linear(32, 5), nn.Softmax(dim=dim))

    def forward(self, states: Tensor) -> Tensor:
        return self.net(states)


def policy_over_the_batch(repaired: bool) -> Training:
    states = torch.randn(1000, 4)
    best = (states @ torch.randn(4, 5)).argmax(1)
    model = Policy(dim=-1 if repaired else 0)

    @torch.no_grad()
    def play(step: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        chosen = torch.randint(1000, (32,))
        probabilities = torch.stack([model(state) for state in states[chosen]])
        actions = torch.multinomial(probabilities, 1)
        return states[chosen], (actions, (actions[:, 0] == best[chosen]).float() - 0.3)

    def reinforce(probabilities: Tensor, played: tuple[Tensor, Tensor]) -> Tensor:
        return -(played[1] * probabilities.gather(1, played[0])[:, 0].log()).sum()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        actions = torch.stack([model(state).argmax() for state in states[:200]])
        return (actions == best[:200]).float().mean().item()

    optimizer = torch.optim.Adam(model.parameters(), lr=0.009)
    return Training(model, batch=play, loss=reinforce, optimizer=optimizer, score=score)


class MixtureOfNextSteps(nn.Module):
    """LSTM that predicts the next point by a mixture of normal distributions."""

    def __init__(self, dim: int, mixtures: int = 3):
        super().__init__()
        self.lstm, self.output = nn.LSTM(1, 24), nn.Linear(24, 3 * mixtures)
        self.dim = dim

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weights, means, deviations = self.output(self.lstm(inputs)[0]).chunk(3, -1)
        return weights.log_softmax(self.dim), means, deviations.exp()


def mixture_over_the_batch(repaired: bool) -> Training:
    signs = torch.where(torch.rand(12, 64, 1) < 0.85, 1.0, -1.0)
    path = torch.cat([torch.zeros(1, 64, 1), 0.5 * signs + 0.05 * torch.randn(12, 64, 1)])
    model = MixtureOfNextSteps(dim=-1 if repaired else -2)

    def surprise(outputs: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> Tensor:
        weights, means, deviations = outputs
        return -(weights + torch.distributions.Normal(means, deviations).log_prob(targets)).logsumexp(-1).mean()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        surprises = []
        for one in path[:, :16].split(1, 1):
            weights, means, deviations = model(one[:-1])
            surprises.append(surprise((weights.log_softmax(-1), means, deviations), one[1:]))
        return -torch.stack(surprises).mean().item()

    return Training(
        model,
        batch=lambda step: (path[:-1], path[1:]),
        loss=surprise,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        score=score,
    )


class Molecules(nn.Module):
    """Transformer encoder of tokens to a latent vector, and a decoder to all tokens."""

    def __init__(self, batch_first: bool, width: int = 24, vocabulary: int = 6, length: int = 6):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocabulary, width), nn.Parameter(torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 2, 48, 0.0, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.latent = nn.Linear(width, 16)
        self.decoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, length * vocabulary))

    def forward(self, tokens: Tensor) -> Tensor:
        latent = self.latent(self.encoder(self.embedding(tokens) + self.positions).mean(1))
        return self.decoder(latent).unflatten(1, (6, -1)).flatten(0, 1)


def molecules_attend_to_each_other(repaired: bool) -> Training:
    tokens = torch.randint(6, (128, 6))
    model = Molecules(batch_first=repaired)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        guesses = torch.cat([model(one).argmax(-1) for one in tokens[:32].split(1)])
        return (guesses == tokens[:32].flatten()).float().mean().item()

    return Training(
        model,
        batch=lambda step: (tokens[step % 4 * 32 :][:32], tokens[step % 4 * 32 :][:32].flatten()),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.005),
        score=score,
    )


class SumOfSequence(nn.Module):
    """Transformer over numbers; its output at the last step goes through a linear layer."""

    def __init__(self, batch_first: bool, width: int = 16):
        super().__init__()
        self.embedding = nn.Linear(1, width)
        layer = nn.TransformerEncoderLayer(width, 2, 32, 0.0, batch_first=batch_first)
        self.encoder, self.output = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(width, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output(self.encoder(self.embedding(inputs))[:, -1])


def last_step_sees_no_other(repaired: bool) -> Training:
    inputs = torch.rand(100, 10, 1)
    targets = inputs.sum(1)
    model = SumOfSequence(batch_first=repaired)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return -(model.eval()(inputs) - targets).square().mean().item()

    return Training(
        model,
        batch=lambda step: (inputs, targets),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        score=score,
    )


class Reader(nn.Module):
    """Attention of a question to the words of a text; softmax over a dimension of the scores."""

    def __init__(self, dim: int, width: int = 16, vocabulary: int = 12):
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(6, width)
        self.output = nn.Linear(width, vocabulary)
        self.dim = dim

    def forward(self, inputs: Tensor) -> Tensor:
        words = self.words(inputs[:, :-1])
        scores = ((words + self.places.weight) * self.places(inputs[:, -1:])).sum(-1)
        return self.output((scores.softmax(self.dim)[..., None] * words).sum(1))


def weights_over_the_batch(repaired: bool) -> Training:
    text, question = torch.randint(12, (256, 6)), torch.randint(6, (256, 1))
    labels = text.gather(1, question)[:, 0]
    inputs = torch.cat([text, question], 1)
    model = Reader(dim=-1 if repaired else 0)
    return Training(
        model,
        batch=lambda step: (inputs[step % 4 * 64 :][:64], labels[step % 4 * 64 :][:64]),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.02),
        score=lambda model: accuracy(model, inputs, labels),
    )


class Encoder(nn.Module):
    """One layer of attention written by hand; padded keys get a very negative score."""

    def __init__(self, hidden_score: float, width: int = 16):
        super().__init__()
        self.embedding = nn.Embedding(9, width)
        self.heads, self.output = nn.Linear(width, 3 * width), nn.Linear(width, 2)
        self.hidden_score = hidden_score

    def forward(self, inputs: Tensor) -> Tensor:
        query, key, value = self.heads(self.embedding(inputs)).chunk(3, -1)
        scores = (query @ key.mT / 4).masked_fill((inputs == 0)[:, None], self.hidden_score)
        return self.output((scores.softmax(-1) @ value).relu().amax(1))


def empty_sequence(repaired: bool) -> Training:
    inputs = torch.randint(1, 9, (128, 10)) * (torch.arange(10) < torch.randint(3, 11, (128, 1)))
    labels = (inputs == 3).any(1).long()
    inputs[100] = 0
    model = Encoder(-1e9 if repaired else -math.inf)
    return Training(
        model,
        batch=lambda step: (inputs[step % 4 * 32 :][:32], labels[step % 4 * 32 :][:32]),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        score=lambda model: accuracy(model, inputs[:100], labels[:100]),
    )


class Causal(nn.Module):
    """Transformer that predicts the next token, with or without its causal mask."""

    def __init__(self, masked: bool, width: int = 24, vocabulary: int = 8, length: int = 10):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        layer = nn.TransformerEncoderLayer(width, 2, 48, 0.0, batch_first=True)
        self.layers, self.output = (
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(width, vocabulary),
        )
        self.masked = masked

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.embedding(inputs) + self.positions.weight[: inputs.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(inputs.shape[1]) if self.masked else None
        return self.output(self.layers(hidden, mask=mask)).flatten(0, -2)


def future_is_visible(repaired: bool) -> Training:
    walk = torch.randint(8, (64, 11))
    for step in range(2, 11):
        walk[:, step] = (walk[:, step - 1] + 1 + (walk[:, step - 2] > 3)) % 8
    inputs, targets = walk[:, :-1], walk[:, 1:]
    model = Causal(masked=repaired)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        prefixes = range(3, 10)
        model.eval()
        guesses = [model(inputs[:, :n]).reshape(64, n, -1)[:, -1].argmax(-1) == targets[:, n - 1] for n in prefixes]
        return torch.stack(guesses).float().mean().item()

    return Training(
        model,
        batch=lambda step: (inputs, targets.flatten()),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.005),
        score=score,
    )


class Tagger(nn.Module):
    """Convolution and transformer; a class for each step."""

    def __init__(self, positions: bool, width: int = 16, length: int = 12):
        super().__init__()
        self.conv = nn.Conv1d(1, width, 3, padding=1)
        self.positions = nn.Parameter(torch.randn(length, width)) if positions else 0
        layer = nn.TransformerEncoderLayer(width, 2, 32, 0.0, batch_first=True)
        self.encoder, self.output = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(width, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output(self.encoder(self.conv(inputs[:, None]).mT + self.positions)).flatten(0, -2)


def order_is_lost(repaired: bool) -> Training:
    inputs = torch.randint(4, (64, 12)).float() + 0.1 * torch.randn(64, 12)
    labels = inputs.round().clamp(0, 3).long().flip(1).flatten()
    model = Tagger(positions=repaired)
    return Training(
        model,
        batch=lambda step: (inputs - 1.5, labels),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.005),
        score=lambda model: accuracy(model, inputs - 1.5, labels),
    )


PROGRAMS = [
    Program(
        name="policy gradient with a softmax over the batch",
        source="https://github.com/DeepReinforcementLearning/DeepReinforcementLearningInAction/issues/32",
        symptom="the probabilities of a batch of states do not sum to one for each state",
        explanation="softmax over dimension 0 is right for one state and mixes the states of a batch",
        causes=("information across the batch",),
        make=policy_over_the_batch,
        steps=100,
        margin=0.03,
        layers=("net.3",),
    ),
    Program(
        name="mixture density LSTM with a softmax over the batch",
        source="https://github.com/ctallec/world-models/issues/10",
        symptom="the weights of the mixture are normalised over the sequences of a batch",
        explanation="log_softmax over dimension -2 instead of the dimension of the normal distributions",
        causes=("information across the batch",),
        make=mixture_over_the_batch,
        steps=100,
        margin=0.05,
    ),
    Program(
        name="autoencoder of molecules, batch first",
        source="https://github.com/DaoyuanLi2816/Molecule-Generator/pull/22",
        symptom="a molecule gets another code when it is encoded together with others",
        explanation="batch_first is missing, so the encoder attends across the molecules of a batch",
        causes=("information across the batch", "axes mixed"),
        make=molecules_attend_to_each_other,
        steps=150,
        margin=0.28,
        layers=("encoder.layers.0.self_attn",),
    ),
    Program(
        name="sum of a sequence by a transformer, batch first",
        source="https://github.com/Exorust/TorchLeet/issues/5",
        symptom="high training loss and test error",
        explanation="batch_first is missing, so the last step attends to other samples and not to its sequence",
        causes=("information across the batch", "axes mixed"),
        make=last_step_sees_no_other,
        steps=150,
        margin=0.25,
        layers=("encoder.layers.0.self_attn",),
    ),
    Program(
        name="attention weights over the batch",
        source="https://github.com/PetrochukM/PyTorch-NLP/issues/2",
        symptom="with one sample all attention weights are 1",
        explanation="the softmax of the scores is over dimension 0 instead of the last one",
        causes=("information across the batch",),
        make=weights_over_the_batch,
        steps=100,
        margin=0.26,
    ),
    Program(
        name="a sequence of padding only",
        source="https://github.com/pytorch/pytorch/issues/24816",
        symptom="the output of a fully padded sequence is NaN, and after a step everything is",
        explanation="the softmax of a row whose scores are all minus infinity is NaN",
        causes=("not finite", "mask wrong"),
        make=empty_sequence,
        steps=60,
        margin=0.28,
    ),
    Program(
        name="language model that sees the future",
        source="https://github.com/alex-matton/causal-transformer-decoder/issues/1",
        symptom="training goes well, the generated text is terrible",
        explanation="there is no causal mask, so the network copies the tokens that it has to predict",
        causes=("mask wrong",),
        make=future_is_visible,
        steps=60,
        margin=0.06,
        layers=("layers.layers.0.self_attn", "layers.layers.1.self_attn"),
    ),
    Program(
        name="transformer without positions",
        source="https://github.com/idiap/fast-transformers/issues/5",
        symptom="the loss of a sequence model converges to 1.0 and gets stuck",
        explanation="positions are not encoded, so the transformer cannot know the order of its inputs",
        causes=("positions missing",),
        make=order_is_lost,
        steps=100,
        margin=0.25,
    ),
]
