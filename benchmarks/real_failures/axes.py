"""Dimensions that are mixed up: batch for time, batch for classes, view where a transposition is needed."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from real_failures.data import accuracy, explained, minibatches, sequences, shuffled
from real_failures.program import Program, Training


class RowByRow(nn.Module):
    def __init__(self, batch_first: bool):
        super().__init__()
        self.lstm = nn.LSTM(4, 32, 2, batch_first=batch_first)
        self.classifier = nn.Linear(32, 4)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.classifier(self.lstm(pictures)[0][:, -1])


def rows_of_a_picture(repaired: bool) -> Training:
    pictures, labels = sequences(200, steps=10)
    order = torch.randperm(200)
    pictures, labels = pictures[order], labels[order]
    model = RowByRow(batch_first=repaired)
    return Training(
        model,
        batch=shuffled(50, pictures, labels),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: accuracy(model, pictures, labels),
    )


class SelfAttention(nn.Module):
    def __init__(self, transposed: bool):
        super().__init__()
        self.transposed = transposed
        self.embed = nn.Linear(5, 16)
        self.project, self.output, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, series: Tensor) -> Tensor:
        hidden = self.embed(series)
        batch, length, _ = hidden.shape
        heads = (x.view(batch, length, 4, 4) for x in self.project(hidden).chunk(3, -1))
        if self.transposed:
            query, key, value = (x.transpose(1, 2) for x in heads)
        else:
            query, key, value = (x.reshape(batch, 4, length, 4) for x in heads)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, length, 16)
        return self.head(hidden + self.output(mixed)).squeeze(-1)


def heads_by_view(repaired: bool) -> Training:
    keys = torch.stack([torch.randperm(8) % 4 for _ in range(512)])
    values = torch.randn(512, 8)
    series = torch.cat([F.one_hot(keys, 4).float(), values[:, :, None]], 2)
    partner = ((keys[:, :, None] == keys[:, None]).float() @ values[:, :, None]).squeeze(2) - values
    model = SelfAttention(transposed=repaired)
    return Training(
        model,
        batch=minibatches(128, series, partner),
        loss=nn.MSELoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: explained(model, series, partner),
    )


class CharacterConvolution(nn.Module):
    def __init__(self, transposed: bool):
        super().__init__()
        self.transposed = transposed
        self.embedding = nn.Embedding(12, 8)
        self.convolution = nn.Conv1d(8, 16, 3)
        self.classifier = nn.Linear(16, 2)

    def forward(self, words: Tensor) -> Tensor:
        letters = self.embedding(words)
        letters = letters.transpose(1, 2) if self.transposed else letters.view(len(words), 8, -1)
        return self.classifier(self.convolution(letters).relu().amax(2))


def letters_by_view(repaired: bool) -> Training:
    words = torch.randint(12, (384, 10))
    rows = torch.arange(0, 384, 2)
    place = torch.randint(8, (192,))
    for offset, letter in enumerate((3, 1, 4)):
        words[rows, place + offset] = letter
    labels = (torch.arange(384) % 2 == 0).long()
    model = CharacterConvolution(transposed=repaired)
    return Training(
        model,
        batch=minibatches(64, words[:256], labels[:256]),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: accuracy(model, words[256:], labels[256:]),
    )


class Translator(nn.Module):
    def __init__(self, transposed: bool):
        super().__init__()
        self.transposed = transposed
        self.source, self.target = nn.Embedding(8, 16), nn.Embedding(9, 16)
        self.encoder = nn.LSTM(16, 16, bidirectional=True, batch_first=True)
        self.decoder = nn.LSTM(16, 32, batch_first=True)
        self.head = nn.Linear(32, 8)

    def combined(self, states: Tensor) -> Tensor:
        return (states.transpose(0, 1) if self.transposed else states).reshape(1, states.shape[1], 32)

    def forward(self, texts: tuple[Tensor, Tensor]) -> Tensor:
        source, before = texts
        hidden, cell = (self.combined(states) for states in self.encoder(self.source(source))[1])
        return self.head(self.decoder(self.target(before), (hidden, cell))[0])


def directions_by_view(repaired: bool) -> Training:
    source = torch.randint(8, (256, 5))
    target = source.flip(1)[:, :3]
    before = torch.cat([torch.full((256, 1), 8), target[:, :-1]], 1)
    model = Translator(transposed=repaired)

    def batch(step: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        rows = torch.randperm(256)[:64]
        return (source[rows], before[rows]), target[rows]

    def right(model: nn.Module) -> float:
        with torch.no_grad():
            return (model((source, before)).argmax(-1) == target).float().mean().item()

    return Training(
        model,
        batch=batch,
        loss=lambda outputs, targets: F.cross_entropy(outputs.transpose(1, 2), targets),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=right,
    )


class SentenceEncoder(nn.Module):
    def __init__(self, time_first: bool):
        super().__init__()
        self.time_first = time_first
        self.embedding = nn.Embedding(16, 8)
        self.layers = nn.Sequential(nn.Linear(80, 32), nn.Tanh(), nn.Linear(32, 4))

    def forward(self, text: Tensor) -> Tensor:
        words = self.embedding(text)
        words = words.transpose(0, 1) if self.time_first else words
        return self.layers(words.reshape(len(text), -1))


def time_first_before_a_dense_layer(repaired: bool) -> Training:
    labels = torch.randint(4, (256,))
    text = torch.where(torch.rand(256, 10) < 0.4, 4 * labels[:, None], 0) + torch.randint(4, (256, 10))
    model = SentenceEncoder(time_first=not repaired)
    return Training(
        model,
        batch=shuffled(64, text, labels),
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: accuracy(model, text, labels),
    )


PROGRAMS = [
    Program(
        name="LSTM over the rows of digits without batch_first",
        source="https://github.com/pytorch/pytorch/issues/1538",
        symptom="the accuracy differs with and without batch_first",
        explanation="the LSTM takes the batch for the time, so samples see each other and not their rows",
        causes=("information across the batch",),
        make=rows_of_a_picture,
        steps=60,
        margin=0.36,
        layers=("lstm",),
    ),
    Program(
        name="attention heads by view",
        source="https://github.com/zhouhaoyi/Informer2020/issues/59",
        symptom="the relation between heads and time steps is broken",
        explanation="view is used to swap the dimensions of time and heads, where a transposition is needed",
        causes=("axes mixed",),
        make=heads_by_view,
        steps=100,
        margin=0.4,
    ),
    Program(
        name="convolution over letters by view",
        source="https://github.com/galsang/BiDAF-pytorch/issues/17",
        symptom="the loss falls more slowly than with a transposition",
        explanation="view is used to bring the embedding before the letters, which mixes both",
        causes=("axes mixed",),
        make=letters_by_view,
        steps=80,
        margin=0.11,
    ),
    Program(
        name="states of two directions by view",
        source="https://github.com/facebookresearch/fairseq/issues/239",
        symptom="the outputs of a sample are not those that it should have",
        explanation="view joins the directions of a bidirectional LSTM and mixes the samples of the batch",
        causes=("information across the batch",),
        make=directions_by_view,
        steps=100,
        margin=0.35,
    ),
    Program(
        name="sentences with time first before a dense layer",
        source="https://github.com/TobiasLee/Chinese-Hip-pop-Generation/pull/8",
        symptom="the dense layer gets words of other sentences",
        explanation="inputs transposed for a recurrent encoder are reshaped to rows for a dense layer",
        causes=("information across the batch",),
        make=time_first_before_a_dense_layer,
        steps=60,
        margin=0.33,
    ),
]
