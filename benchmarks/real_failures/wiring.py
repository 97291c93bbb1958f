"""Wiring of architectures: outputs that nobody uses, gates without a gradient, graphs that are not normalised."""

import torch
from torch import Tensor, nn

from real_failures.data import accuracy, images, negative_error, sequences
from real_failures.program import Program, Training


class SequenceBlock(nn.Module):
    """Normalisation and a layer over the sequence; returns the layer's output, or what came in."""

    def __init__(self, ignored: bool, width: int = 24):
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(width), nn.GRU(width, width, batch_first=True)
        self.ignored = ignored

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.norm(inputs)
        outputs = self.layer(hidden)[0]
        return hidden if self.ignored else outputs


def ignored_layer(repaired: bool) -> Training:
    inputs, labels = sequences(steps=8)
    blocks = [SequenceBlock(ignored=not repaired), SequenceBlock(ignored=not repaired)]
    model = nn.Sequential(nn.Linear(4, 24), *blocks, LastStep(), nn.Linear(24, 4))
    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        score=lambda model: accuracy(model, inputs, labels),
    )


class LastStep(nn.Module):
    """The last step of sequences."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, -1]


class ConvBlock(nn.Module):
    """Convolutions, a 1 x 1 convolution beside them, and dropout; `wrong`: dropout of the input is returned."""

    def __init__(self, inputs: int, outputs: int, wrong: bool):
        super().__init__()
        self.convs = nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())
        self.reduce, self.drop = nn.Conv2d(inputs, outputs, 1), nn.Dropout(0.1)
        self.wrong = wrong

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.convs(inputs) + self.reduce(inputs)
        return self.drop(inputs if self.wrong else outputs)


def skipped_branch(repaired: bool) -> Training:
    inputs, labels = images(kinds=6, samples=240)
    wide = (inputs * torch.randn(240, 1, 1, 1).sign()).repeat(1, 8, 1, 1)
    blocks = [ConvBlock(8, 8, wrong=not repaired), ConvBlock(8, 8, wrong=not repaired)]
    model = nn.Sequential(*blocks, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(72, 6))
    return Training(
        model,
        batch=lambda step: (wide, labels),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.003),
        score=lambda model: accuracy(model, wide, labels),
    )


class Experts(nn.Module):
    """The best of several experts for each sample, times its weight: softmax before or after the choice."""

    def __init__(self, before: bool, experts: int = 4):
        super().__init__()
        self.gate = nn.Linear(8, experts, bias=False)
        self.experts = nn.ModuleList(nn.Linear(8, 1) for _ in range(experts))
        self.before = before

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.gate(inputs)
        best, chosen = (logits.softmax(1) if self.before else logits).topk(1)
        weights = best if self.before else best.softmax(1)
        outputs = torch.cat([expert(inputs) for expert in self.experts], 1)
        return weights * outputs.gather(1, chosen)


def gate_of_one_expert(repaired: bool) -> Training:
    inputs = torch.randn(512, 8)
    kinds = (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()
    targets = (inputs * torch.randn(4, 8)[kinds]).sum(1, keepdim=True)
    model = Experts(before=repaired)
    return Training(
        model,
        batch=lambda step: (inputs, targets),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.02),
        score=lambda model: negative_error(model, inputs, targets),
    )


class WalkFactors(nn.Module):
    """Two factors whose product says how likely walks between two nodes are."""

    def __init__(self, nodes: int, width: int = 6):
        super().__init__()
        self.left = nn.Parameter(0.1 * torch.randn(nodes, width))
        self.right = nn.Parameter(0.1 * torch.randn(width, nodes))

    def forward(self, adjacency: Tensor) -> Tensor:
        return self.left @ self.right


def adjacency_times_degree(repaired: bool) -> Training:
    groups = torch.arange(60) % 4
    chance = torch.where(groups[:, None] == groups, 0.7, 0.05)
    adjacency = (torch.rand(60, 60) < chance).float().triu(1)
    adjacency = adjacency + adjacency.T
    degrees = adjacency.sum(1, keepdim=True)
    step = adjacency / degrees if repaired else adjacency * degrees
    walks = sum(torch.linalg.matrix_power(step, n) for n in (1, 2, 3)) / 3
    model = WalkFactors(60)

    def loss(scores: Tensor, walks: Tensor) -> Tensor:
        logs = nn.functional.logsigmoid
        return (-60 * walks * logs(scores) - (adjacency == 0) * logs(-scores)).abs().mean()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        scores = model(adjacency)
        linked, others = scores[adjacency > 0], scores[(adjacency == 0) & ~torch.eye(60, dtype=torch.bool)]
        return (linked[:, None] > others).float().mean().item()

    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return Training(model, batch=lambda step: (adjacency, walks), loss=loss, optimizer=optimizer, score=score)


PROGRAMS = [
    Program(
        name="S4 block that ignores its layer",
        source="https://github.com/state-spaces/s4/pull/30",
        symptom="layers of blocks without a residual connection are not trained",
        explanation="the block returns the normalised input; the output of its layer has another name and is lost",
        causes=("graph cut",),
        make=ignored_layer,
        steps=40,
        margin=0.3,
        layers=("1.layer", "2.layer"),
    ),
    Program(
        name="convolutional block that drops its branches",
        source="https://github.com/speechbrain/speechbrain/issues/1124",
        symptom="the front end with residual connections skips its branches",
        explanation="dropout is applied to the input of the block instead of the sum of its branches",
        causes=("graph cut",),
        make=skipped_branch,
        steps=40,
        margin=0.2,
        layers=("0.convs.0", "1.convs.0", "0.reduce", "1.reduce"),
    ),
    Program(
        name="mixture of experts that chooses one",
        source="https://github.com/davidmrau/mixture-of-experts/issues/27",
        symptom="the gradient of the gate is always zero",
        explanation="softmax comes after the choice of one expert: a softmax of one value is 1 without a gradient",
        causes=("graph cut", "saturated units"),
        make=gate_of_one_expert,
        steps=150,
        margin=0.95,
        layers=("gate",),
    ),
    Program(
        name="walks on a graph whose steps are multiplied by degrees",
        source="https://github.com/benedekrozemberczki/AttentionWalk/issues/9",
        symptom="the loss on the target matrix becomes extremely big",
        explanation="the adjacency matrix is multiplied by the degrees instead of divided",
        causes=("targets not scaled", "normalisation wrong"),
        make=adjacency_times_degree,
        steps=150,
        margin=0.06,
    ),
]
