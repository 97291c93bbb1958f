"""Initialisation: both factors of a product zero, weights of unit variance, first layers too small, codes far away."""

import math

import torch
from torch import Tensor, nn

from real_failures.data import accuracy, classes, images, negative_error, tokens
from real_failures.program import Program, Training


class LowRank(nn.Module):
    """A frozen linear layer and a trained product of two thin matrices beside it."""

    def __init__(self, inputs: int, outputs: int, first: float, rank: int = 4):
        super().__init__()
        self.frozen = nn.Linear(inputs, outputs).requires_grad_(False)
        self.down = nn.Parameter(first * torch.randn(inputs, rank))
        self.up = nn.Parameter(torch.zeros(rank, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.frozen(inputs) + inputs @ self.down @ self.up


def both_adapters_zero(repaired: bool) -> Training:
    inputs, labels = classes()
    scale = 0.5 if repaired else 0.0
    model = nn.Sequential(LowRank(20, 32, scale), nn.ReLU(), LowRank(32, 32, scale), nn.ReLU(), LowRank(32, 4, scale))
    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01),
        score=lambda model: accuracy(model, inputs, labels),
    )


class ModulatedConv(nn.Module):
    """A frozen convolution whose weight is multiplied by one plus a product of two thin matrices."""

    def __init__(self, inputs: int, outputs: int, scale: float):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1).requires_grad_(False)
        self.outer = nn.Parameter(scale * torch.randn(outputs, 2))
        self.inner = nn.Parameter(scale * torch.randn(2, inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        weight = self.conv.weight * (1 + self.outer @ self.inner)[..., None, None]
        return nn.functional.conv2d(inputs, weight, self.conv.bias, padding=1)


def both_modulations_zero(repaired: bool) -> Training:
    inputs, labels = images(channels=2, size=8)
    scale = 0.1 if repaired else 0.0
    model = nn.Sequential(
        *(ModulatedConv(2, 16, scale), nn.ReLU(), ModulatedConv(16, 16, scale), nn.ReLU()),
        *(ModulatedConv(16, 4, scale), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03),
        score=lambda model: accuracy(model, inputs, labels),
    )


class EarlierLayers(nn.Module):
    """Layers whose input is a mixture of all earlier outputs, with weights that depend on the newest one."""

    def __init__(self, scale: float, width: int = 16, depth: int = 2):
        super().__init__()
        self.start, self.end = nn.Linear(8, width), nn.Linear(width, 1)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.mixers = nn.ModuleList(nn.Linear(width, i + 1, bias=False) for i in range(depth + 1))
        self.fixed = nn.ParameterList(torch.eye(i + 1)[-1] for i in range(depth + 1))
        for mixer in self.mixers:
            nn.init.normal_(mixer.weight, std=scale)

    def mixture(self, outputs: list[Tensor], number: int) -> Tensor:
        weights = self.mixers[number](outputs[-1]).relu() + self.fixed[number]
        return (torch.stack(outputs, -1) * weights[:, None]).sum(-1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = [self.start(inputs)]
        for number, layer in enumerate(self.layers):
            outputs.append(layer(self.mixture(outputs, number)))
        return self.end(self.mixture(outputs, len(self.layers)))


def mixers_zero_before_relu(repaired: bool) -> Training:
    inputs = torch.randn(256, 8)
    targets = inputs[:, :1].abs() + inputs[:, 1:2] * inputs[:, 2:3]
    model = EarlierLayers(scale=0.1 if repaired else 0.0)
    return Training(
        model,
        batch=lambda step: (inputs, targets),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        score=lambda model: negative_error(model, inputs, targets),
    )


class LanguageModel(nn.Module):
    """A small causal transformer."""

    def __init__(self, width: int = 32, vocabulary: int = 16, length: int = 12):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 64, 0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        length = inputs.shape[1]
        hidden = self.embedding(inputs) + self.positions.weight[:length]
        mask = torch.full((length, length), -math.inf).triu(1)
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask)
        return self.head(self.norm(hidden)).flatten(0, -2)


def transformer_of_unit_variance(repaired: bool) -> Training:
    inputs, targets = tokens()
    model = LanguageModel()
    for weight in (p for p in model.parameters() if p.dim() > 1):
        nn.init.normal_(weight, std=weight.shape[1] ** -0.5 if repaired else 1.0)
    return Training(
        model,
        batch=lambda step: (inputs, targets.flatten()),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.003),
        score=lambda model: accuracy(model, inputs, targets.flatten()),
    )


def uniform_weights(repaired: bool) -> Training:
    inputs, labels = images(channels=1, size=14, kinds=10, samples=200)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10, bias=False)),
    )
    for weight in (p for p in model.parameters() if p.dim() > 1):
        nn.init.uniform_(weight, -1, 1)
        if repaired:
            weight.data /= weight[0].numel() ** 0.5
    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.001),
        score=lambda model: accuracy(model, inputs, labels),
    )


class Sine(nn.Module):
    """The sine of a multiple of its input."""

    def __init__(self, frequency: float):
        super().__init__()
        self.frequency = frequency

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.sin(self.frequency * inputs)


def siren(features: int = 2, width: int = 64, first: bool = True) -> nn.Sequential:
    """Layers of sines with the initialisation of their paper; `first`: the first layer has its special rule."""
    layers: list[nn.Module] = []
    for number, inputs in enumerate((features, width, width)):
        linear = nn.Linear(inputs, width)
        bound = 1 / inputs if first and number == 0 else math.sqrt(6 / inputs) / 30
        nn.init.uniform_(linear.weight, -bound, bound)
        layers += [linear, Sine(30)]
    last = nn.Linear(width, 1)
    nn.init.uniform_(last.weight, -math.sqrt(6 / width) / 30, math.sqrt(6 / width) / 30)
    return nn.Sequential(*layers, last)


def picture(places: Tensor) -> Tensor:
    """Grey values of a picture with fine detail at places in [-1, 1]."""
    return (torch.sin(12 * places[:, :1] + 4 * places[:, 1:] ** 2) * torch.cos(9 * places[:, 1:])).detach()


def sine_network(first: bool, pixels: int | None) -> Training:
    """Fit the picture; coordinates in [-1, 1], or in pixels of a picture of this size."""
    places = 2 * torch.rand(60, 200, 2) - 1
    inputs = (places + 1) * pixels / 2 if pixels else places
    model = siren(first=first)
    return Training(
        model,
        batch=lambda step: (inputs[step % 50], picture(places[step % 50])),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=2e-4),
        score=lambda model: negative_error(model, inputs[50:].flatten(0, 1), picture(places[50:].flatten(0, 1))),
    )


def first_sine_layer(repaired: bool) -> Training:
    return sine_network(first=repaired, pixels=None)


def sines_of_pixels(repaired: bool) -> Training:
    return sine_network(first=True, pixels=None if repaired else 64)


class Quantizer(nn.Module):
    """An autoencoder whose code is replaced by the nearest vector of a codebook."""

    def __init__(self, small: bool, codes: int = 32, width: int = 64):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, width))
        self.decoder = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 20))
        self.codebook = nn.Embedding(codes, width)
        if small:
            nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)

    def forward(self, inputs: Tensor) -> Tensor:
        code = self.encoder(inputs)
        nearest = self.codebook(torch.cdist(code, self.codebook.weight).argmin(1))
        self.distance = (code.detach() - nearest).square().mean() + 0.25 * (code - nearest.detach()).square().mean()
        return self.decoder(code + (nearest - code).detach())


def codebook_of_unit_variance(repaired: bool) -> Training:
    inputs, _ = classes(kinds=16, spread=0.5)
    model = Quantizer(small=repaired)
    return Training(
        model,
        batch=lambda step: (inputs, inputs),
        loss=lambda outputs, targets: nn.functional.mse_loss(outputs, targets) + model.distance,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.003),
        score=lambda model: negative_error(model, inputs, inputs),
    )


class Tower(nn.Module):
    """Residual blocks of convolutions and a value between -1 and 1, as in a chess network."""

    def __init__(self, width: int = 16, depth: int = 4):
        super().__init__()
        self.start = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.ReLU()),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
            )
            for _ in range(depth)
        )
        self.value = nn.Sequential(nn.Flatten(), nn.Linear(width * 25, 1), nn.Tanh())

    def forward(self, boards: Tensor) -> Tensor:
        hidden = self.start(boards)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.value(hidden.relu())


def fans_without_the_kernel(repaired: bool) -> Training:
    boards = torch.randint(-1, 2, (48, 3, 5, 5)).float()
    targets = (boards.sum((1, 2, 3)) / 8).round().clamp(-1, 1)[:, None]
    model = Tower()
    for weight in (p for p in model.parameters() if p.dim() > 1):
        fans = weight.shape[0] + weight[0].numel() if weight.dim() == 2 else sum(weight.shape)
        if repaired and weight.dim() == 4:
            fans = (weight.shape[0] + weight.shape[1]) * 9
        nn.init.normal_(weight, std=math.sqrt(2 / fans))
    return Training(
        model,
        batch=lambda step: (boards, targets),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, nesterov=True),
        score=lambda model: negative_error(model, boards, targets),
    )


PROGRAMS = [
    Program(
        name="chess network with fans that ignore the kernel",
        source="https://github.com/LeelaChessZero/lczero-training/pull/43",
        symptom="a new net needs long until its value loss drops; until then the value is always 1",
        explanation="Xavier's fans leave out the area of the kernel, so the weights of convolutions are too large",
        causes=("initialisation too large", "saturated units", "exploding gradient"),
        make=fans_without_the_kernel,
        steps=60,
        margin=0.2,
    ),
    Program(
        name="adapters whose two factors are zero",
        source="https://github.com/circle-hit/SAPT/issues/11",
        symptom="gradients of the adapters are all zero",
        explanation="both low-rank matrices start at zero, so each makes the gradient of the other zero",
        causes=("weights all alike", "initialisation too small"),
        make=both_adapters_zero,
        steps=60,
        margin=0.34,
        layers=("0", "2", "4"),
    ),
    Program(
        name="modulated convolutions whose two factors are zero",
        source="https://github.com/KU-VGI/LFS-GAN/issues/2",
        symptom="gradients of the added parameters look as if they were zero for ever",
        explanation="the two factors of the modulation start at zero, so neither has a gradient",
        causes=("weights all alike", "initialisation too small"),
        make=both_modulations_zero,
        steps=60,
        margin=0.2,
        layers=("0", "2", "4"),
    ),
    Program(
        name="mixture of layers with zero weights before a ReLU",
        source="https://github.com/lucidrains/deep-cross-attention/issues/2",
        symptom="the mixture of earlier layers never depends on the input",
        explanation="a linear layer without bias starts at zero and a ReLU follows: its gradient is zero for ever",
        causes=("weights all alike", "dead units", "initialisation too small"),
        make=mixers_zero_before_relu,
        steps=150,
        margin=0.5,
        layers=("mixers.0", "mixers.1", "mixers.2"),
    ),
    Program(
        name="transformer with weights of unit variance",
        source="https://github.com/young-geng/EasyLM/issues/114",
        symptom="training is strange, and the reason is found after days",
        explanation="the default standard deviation of the weights is 1; it should shrink with the width",
        causes=("initialisation too large", "exploding gradient", "saturated units"),
        make=transformer_of_unit_variance,
        steps=50,
        margin=0.16,
    ),
    Program(
        name="conv net with uniform weights that ignore the fan-in",
        source="https://github.com/tinygrad/tinygrad/pull/566",
        symptom="test accuracy is around 50 %",
        explanation="weights are uniform in [-1, 1] in every layer; scaled by the fan-in, they reach 99.8 %",
        causes=("initialisation too large",),
        make=uniform_weights,
        steps=60,
        margin=0.33,
    ),
    Program(
        name="sine network with a first layer like the others",
        source="https://github.com/lucidrains/siren-pytorch/issues/1",
        symptom="it converges much slower and less accurately than the original implementation",
        explanation="the first layer gets the small bound of the hidden layers instead of 1 / inputs",
        causes=("initialisation too small",),
        make=first_sine_layer,
        steps=150,
        margin=0.06,
        layers=("0",),
    ),
    Program(
        name="sine network with coordinates in pixels",
        source="https://github.com/vsitzmann/siren/issues/19",
        symptom="the loss of a network of sines diverges",
        explanation="coordinates are not scaled to [-1, 1]",
        causes=("inputs not scaled",),
        make=sines_of_pixels,
        steps=150,
        margin=0.11,
    ),
    Program(
        name="codebook drawn from a normal distribution",
        source="https://github.com/lucidrains/vector-quantize-pytorch/issues/19",
        symptom="the indices of the codebook collapse",
        explanation="the codes start far from the encoder's outputs; a small uniform distribution is right",
        causes=("initialisation too large", "collapsed units"),
        make=codebook_of_unit_variance,
        steps=200,
        margin=0.25,
        layers=("codebook",),
    ),
]
