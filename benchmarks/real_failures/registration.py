"""Layers that the network uses but does not register: plain lists, plain objects, and layers that are frozen."""

import torch
from torch import Tensor, nn

from real_failures.data import accuracy, classes, images, negative_error
from real_failures.program import Program, Training

cross_entropy = nn.functional.cross_entropy
mse_loss = nn.functional.mse_loss


class MetaOptimizer(nn.Module):
    """Two recurrent cells, coordinate by coordinate, that turn gradients into updates of a small problem."""

    def __init__(self, hidden: int, repaired: bool):
        super().__init__()
        self.linear1 = nn.Linear(1, hidden)
        lstms = [nn.LSTMCell(hidden, hidden), nn.LSTMCell(hidden, hidden)]
        self.lstms = nn.ModuleList(lstms) if repaired else lstms
        self.linear2 = nn.Linear(hidden, 1)
        self.linear2.weight.data.mul_(0.1)

    def forward(self, problems):
        matrices, goals = problems
        weights = torch.zeros_like(goals)
        losses, states = [], [None] * len(self.lstms)
        for _ in range(8):
            errors = torch.einsum("nij,nj->ni", matrices, weights) - goals
            losses.append(errors.square().mean())
            gradients = torch.einsum("nij,ni->nj", matrices, errors).detach()
            hidden = torch.tanh(self.linear1(gradients.reshape(-1, 1)))
            for place, cell in enumerate(self.lstms):
                states[place] = cell(hidden, states[place])
                hidden = states[place][0]
            weights = weights + self.linear2(hidden).reshape(weights.shape)
        return torch.stack(losses)


def meta_optimizer(repaired: bool) -> Training:
    problems = torch.eye(4) + 0.3 * torch.randn(16, 4, 4), torch.randn(16, 4)
    model = MetaOptimizer(10, repaired)
    return Training(
        model,
        batch=lambda number: (problems, None),
        loss=lambda losses, _: losses.sum(),
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: -model(problems)[-1].item(),
    )


class Inference(nn.Module):
    """Sum of embeddings, hidden layers in a list, classifier."""

    def __init__(self, words: int, hidden: int, layers: int, repaired: bool):
        super().__init__()
        self.embedding = nn.Embedding(words, hidden)
        self.hids = []
        for _ in range(layers):
            self.hids.append([nn.Linear(hidden, hidden), nn.Tanh()])
        if repaired:
            self.hids = nn.ModuleList(nn.Sequential(*pair) for pair in self.hids)
        self.classifier = nn.Linear(hidden, 3)

    def forward(self, words):
        hidden = self.embedding(words).sum(1)
        for linear, activation in self.hids:
            hidden = activation(linear(hidden))
        return self.classifier(hidden)


def sentence_pairs(repaired: bool) -> Training:
    words = torch.randint(12, (192, 4))
    labels = (words[:, :2].sum(1) - words[:, 2:].sum(1)).sign() + 1
    model = Inference(12, 16, 4, repaired)
    return Training(
        model,
        batch=lambda number: (words, labels),
        loss=cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        score=lambda model: accuracy(model, words, labels),
    )


class SentenceFilters(nn.Module):
    """Convolutions of three widths over the vectors of words, the maximum of each over time, classifier."""

    def __init__(self, features: int, kinds: int, repaired: bool):
        super().__init__()
        convolutions = [nn.Conv1d(features, 2, width) for width in (3, 4, 5)]
        self.conv1d = nn.ModuleList(convolutions) if repaired else convolutions
        self.linear = nn.Linear(6, kinds)

    def forward(self, sentences):
        return self.linear(torch.cat([conv(sentences).amax(2) for conv in self.conv1d], 1))


def sentence_convolutions(repaired: bool) -> Training:
    labels = torch.arange(120) % 4
    phrases = torch.randn(4, 8, 3)
    inputs = torch.randn(120, 8, 10)
    for sentence, label, start in zip(inputs, labels, torch.randint(8, (120,)), strict=True):
        sentence[:, start : start + 3] = phrases[label] + 0.3 * torch.randn(8, 3)
    model = SentenceFilters(8, 4, repaired)
    return Training(
        model,
        batch=lambda number: (inputs, labels),
        loss=cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=2e-2),
        score=lambda model: accuracy(model, inputs, labels),
    )


class MergeLayer(nn.Module):
    """Layers side by side, whose outputs are joined."""

    def __init__(self, layers: list[nn.Module], repaired: bool):
        super().__init__()
        self._layers = nn.ModuleList(layers) if repaired else layers

    def forward(self, inputs):
        return torch.cat([layer(inputs) for layer in self._layers], -1)


def merged_layers(repaired: bool) -> Training:
    inputs, labels = images(samples=96, size=10, kinds=8)
    branches: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(1, 3, width, padding=width // 2), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
        for width in (3, 5)
    ]
    model = nn.Sequential(MergeLayer(branches, repaired), nn.Linear(6, 8))
    return Training(
        model,
        batch=lambda number: (inputs, labels),
        loss=cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: accuracy(model, inputs, labels),
    )


class ImplicitImage(nn.Module):
    """Features of coordinates, residual networks of each channel in a list, and a layer that joins them."""

    def __init__(self, channels: int, hidden: int, repaired: bool):
        super().__init__()
        self.coordinates = nn.Linear(2, hidden)
        networks = [nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)) for _ in range(channels)]
        self.mlps = nn.ModuleList(networks) if repaired else networks
        self.expansion = nn.Linear(channels, 1)

    def forward(self, points):
        hidden = torch.sin(self.coordinates(points))
        return self.expansion(torch.cat([network(hidden) for network in self.mlps], 1))


def implicit_image(repaired: bool) -> Training:
    points = 6 * torch.rand(256, 2) - 3
    targets = (torch.sin(2 * points[:, :1]) * torch.cos(points[:, 1:]) + 0.5 * points[:, 1:].sign()).detach()
    model = ImplicitImage(4, 24, repaired)
    return Training(
        model,
        batch=lambda number: (points, targets),
        loss=nn.functional.l1_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: negative_error(model, points, targets),
    )


class PlainHead:
    """A projection to the vocabulary that forgot to be a module."""

    def __init__(self, hidden: int, vocabulary: int):
        self.linear = nn.Linear(hidden, vocabulary)

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.linear(hidden)


class Head(PlainHead, nn.Module):
    """The same, as a module."""

    def __init__(self, hidden: int, vocabulary: int):
        nn.Module.__init__(self)
        PlainHead.__init__(self, hidden, vocabulary)


class LanguageModel(nn.Module):
    """Embedding, one layer of causal attention, and a head whose weights are not tied."""

    def __init__(self, vocabulary: int, hidden: int, repaired: bool):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.layer = nn.TransformerEncoderLayer(hidden, 2, 2 * hidden, dropout=0.0, batch_first=True)
        self.final_linear = (Head if repaired else PlainHead)(hidden, vocabulary)

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.final_linear(self.layer(self.embedding(tokens), mask, is_causal=True))


def untied_head(repaired: bool) -> Training:
    successor = torch.randperm(24)
    words = [torch.randint(24, (48,))]
    for _ in range(8):
        words.append(torch.where(torch.rand(48) < 0.2, torch.randint(24, (48,)), successor[words[-1]]))
    tokens = torch.stack(words, 1)
    model = LanguageModel(24, 8, repaired)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs.transpose(1, 2), targets)

    return Training(
        model,
        batch=lambda number: (tokens[:, :-1], tokens[:, 1:]),
        loss=loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=1e-2),
        score=lambda model: -loss(model(tokens[:, :-1]), tokens[:, 1:]).item(),
    )


def pretrained(inputs: Tensor, labels: Tensor, model: nn.Sequential) -> nn.Sequential:
    """The model after a short training on other labels."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model


def video_frames_with_frozen_head(repaired: bool) -> Training:
    inputs, labels = images(samples=64, kinds=8)
    features = (nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    base = pretrained(inputs, labels // 2, nn.Sequential(*features, nn.Linear(200, 4)))[:-1]
    model = nn.Sequential(base, nn.Linear(200, 32), nn.ReLU(), nn.Linear(32, 8))
    for layer in base if repaired else model[:-1]:
        layer.requires_grad_(False)
    return Training(
        model,
        batch=lambda number: (inputs, labels),
        loss=cross_entropy,
        optimizer=torch.optim.RMSprop([p for p in model.parameters() if p.requires_grad], lr=1e-3),
        score=lambda model: accuracy(model, inputs, labels),
    )


def frozen_retrieval(repaired: bool) -> Training:
    inputs, labels = classes(samples=160, features=24, kinds=20, spread=1.2)
    features = nn.Sequential(nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 6), nn.Tanh())
    base = pretrained(inputs, torch.randint(2, (160,)), nn.Sequential(features, nn.Linear(6, 2)))[0]
    model = nn.Sequential(base, nn.Linear(6, 20))
    base.requires_grad_(repaired)
    return Training(
        model,
        batch=lambda number: (inputs, labels),
        loss=cross_entropy,
        optimizer=torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3, momentum=0.9),
        score=lambda model: accuracy(model, inputs, labels),
    )


PROGRAMS = [
    Program(
        name="learned optimizer, recurrent cells in a list",
        source="https://github.com/ikostrikov/pytorch-meta-optimizer/issues/11",
        symptom="the weights of the recurrent cells of a learned optimizer do not train",
        explanation="the cells are appended to a plain list, so model.parameters() does not contain them",
        causes=("parameters not registered", "parameters not in the optimizer"),
        make=meta_optimizer,
        steps=40,
        margin=0.1,
    ),
    Program(
        name="sentence pairs, hidden layers in a list of lists",
        source="https://github.com/pytorch/pytorch/issues/715",
        symptom="the parameters of the hidden layers are missing in model.parameters()",
        explanation="modules in a plain list are not registered; nn.ModuleList registers them",
        causes=("parameters not registered", "parameters not in the optimizer"),
        make=sentence_pairs,
        steps=60,
        margin=0.09,
    ),
    Program(
        name="sentence convolutions of three widths in a list",
        source="https://github.com/pytorch/pytorch/issues/1053",
        symptom="the convolutions stay behind when the model moves to the GPU",
        explanation="a plain list of convolutions is not registered, so they do not train either",
        causes=("parameters not registered", "parameters not in the optimizer"),
        make=sentence_convolutions,
        steps=60,
        margin=0.2,
    ),
    Program(
        name="merge layer with its branches in a list",
        source="https://github.com/asyml/texar-pytorch/issues/72",
        symptom="the trainable variables of a layer that merges others are missing",
        explanation="the merge layer keeps its branches in a plain list instead of nn.ModuleList",
        causes=("parameters not registered", "parameters not in the optimizer"),
        make=merged_layers,
        steps=60,
        margin=0.2,
    ),
    Program(
        name="implicit image, networks of the channels in a list",
        source="https://github.com/LianpoWang/SLIIF/issues/13",
        symptom="ten small networks of an implicit image function are not among the parameters",
        explanation="the networks are in a plain list, so optimizer, device and checkpoint miss them",
        causes=("parameters not registered", "parameters not in the optimizer"),
        make=implicit_image,
        steps=60,
        margin=0.06,
    ),
    Program(
        name="language model with a head that is not a module",
        source="https://github.com/EleutherAI/gpt-neox/pull/267",
        symptom="a test finds that the final linear layer is not among the parameters without weight tying",
        explanation="the class of the final linear layer does not inherit from nn.Module",
        causes=("parameters not registered", "parameters not in the optimizer"),
        make=untied_head,
        steps=60,
        margin=0.45,
    ),
    Program(
        name="video frames, new layers frozen with the old ones",
        source="https://github.com/harvitronix/five-video-classification-methods/pull/26",
        symptom="the new layers for the fine-tuning turn out to be frozen",
        explanation="the code that freezes the pretrained layers also freezes the new layers on top",
        causes=("frozen parameters",),
        make=video_frames_with_frozen_head,
        steps=25,
        margin=0.07,
        layers=("1",),
    ),
    Program(
        name="clothes retrieval, all convolutions frozen",
        source="https://github.com/ihciah/deep-fashion-retrieval/issues/1",
        symptom="a reader finds all convolutions frozen; the accuracy improves quickly with the flag the other way",
        explanation="a flag freezes all pretrained layers, whose features do not suit the task",
        causes=("frozen parameters",),
        make=frozen_retrieval,
        steps=60,
        margin=0.2,
        layers=("0",),
    ),
]
