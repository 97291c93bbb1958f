"""Normalisation and dropout: running statistics that are wrong, one value per channel, layers that drop nearly all."""

import copy

import torch
from torch import Tensor, nn

from real_failures.data import accuracy, classes, images, line, negative_error, tokens
from real_failures.program import Program, Training


def conv_net(momentum: float) -> nn.Sequential:
    """Two blocks of convolution, batch normalisation and ReLU, and a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, momentum=momentum), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16, momentum=momentum), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(144, 4)),
    )


def frozen_statistics(repaired: bool) -> Training:
    inputs, labels = images(channels=3)
    inputs = inputs.sigmoid()
    model = conv_net(0.1 if repaired else 0.0)
    return Training(
        model,
        batch=lambda step: (inputs[step % 4 * 32 :][:32], labels[step % 4 * 32 :][:32]),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        score=lambda model: accuracy(model, inputs, labels),
    )


class DecisionSteps(nn.Module):
    """Decision steps that share a linear layer, each on other features, with one or with several normalisations."""

    def __init__(self, shared: bool, steps: int = 3):
        super().__init__()
        self.linear = nn.Linear(20, 32, bias=False)
        norm = nn.BatchNorm1d(32)
        self.norms = nn.ModuleList(norm if shared else copy.deepcopy(norm) for _ in range(steps))
        self.masks = nn.Parameter(torch.randn(steps, 20))
        self.output = nn.Linear(32, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        features = [norm(self.linear(inputs * mask)).relu() for norm, mask in zip(self.norms, self.masks, strict=True)]
        return self.output(torch.stack(features).sum(0))


def shared_normalisation_of_steps(repaired: bool) -> Training:
    inputs, targets = line(features=20)
    inputs, targets = inputs + torch.linspace(-2, 2, 20), (targets / 5).sin()[:, None]
    model = DecisionSteps(shared=not repaired)
    return Training(
        model,
        batch=lambda step: (inputs, targets),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.02),
        score=lambda model: negative_error(model, inputs, targets),
    )


class Segmentation(nn.Module):
    """Encoder and decoder of two convolutions each; the decoder has its own normalisations or the encoder's."""

    def __init__(self, shared: bool):
        super().__init__()
        self.down = nn.ModuleList([nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)])
        self.up = nn.ModuleList([nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)])
        self.down_norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)])
        self.up_norms = self.down_norms if shared else copy.deepcopy(self.down_norms)
        self.classify = nn.Conv2d(8, 2, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        for conv, norm in zip(self.down, self.down_norms, strict=True):
            hidden = nn.functional.max_pool2d(norm(conv(hidden)).relu(), 2)
        for conv, norm in zip(self.up, reversed(self.up_norms), strict=True):
            hidden = norm(conv(nn.functional.interpolate(hidden, scale_factor=2))).relu()
        return self.classify(hidden).movedim(1, -1)


def shared_normalisation_of_decoder(repaired: bool) -> Training:
    inputs, _ = images(samples=32)
    labels = (nn.functional.avg_pool2d(inputs, 3, 1, 1) > 0.3).long().squeeze(1)
    model = Segmentation(shared=not repaired)
    return Training(
        model,
        batch=lambda step: (inputs, labels.flatten()),
        loss=lambda outputs, targets: nn.functional.cross_entropy(outputs.flatten(0, -2), targets),
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        score=lambda model: accuracy(model, inputs, labels),
    )


def one_image_a_batch(repaired: bool) -> Training:
    inputs, _ = images(samples=64)
    inputs = inputs * (0.3 + torch.rand(64, 1, 1, 1)) + torch.randn(64, 1, 1, 1)
    labels = (nn.functional.avg_pool2d(inputs, 3, 1, 1) > 0.3).long().squeeze(1)
    layers: list[nn.Module] = []
    for channels in (1, 12, 12):
        layers += [nn.Conv2d(channels, 12, 3, padding=1), nn.GroupNorm(4, 12) if repaired else nn.BatchNorm2d(12)]
        layers += [nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(12, 2, 1))

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return (model.eval()(inputs).argmax(1) == labels).float().mean().item()

    return Training(
        model,
        batch=lambda step: (inputs[step % 64][None], labels[step % 64][None]),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.003),
        score=score,
    )


def one_value_per_channel(repaired: bool) -> Training:
    inputs, labels = images()
    model = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 16, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        nn.Identity() if repaired else nn.GroupNorm(16, 16),
        *(nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4)),
    )
    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.01),
        score=lambda model: accuracy(model, inputs, labels),
    )


def one_feature(repaired: bool) -> Training:
    inputs = torch.randn(256, 1)
    targets = 2 * inputs + 1
    norm = nn.Identity() if repaired else nn.LayerNorm(1)
    model = nn.Sequential(nn.Linear(1, 1), norm, nn.ReLU(), nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
    return Training(
        model,
        batch=lambda step: (inputs, targets),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.02),
        score=lambda model: negative_error(model, inputs, targets),
    )


def normalised_output(repaired: bool) -> Training:
    inputs, kinds = classes(kinds=12)
    targets = (torch.randn(12, 8) * (torch.rand(12, 8) < 0.5))[kinds] * 3
    body = [nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 8)]
    model = nn.Sequential(*body, *([] if repaired else [nn.BatchNorm1d(8)]))
    order = torch.randint(256, (400, 16))
    return Training(
        model,
        batch=lambda step: (inputs[order[step]], targets[order[step]]),
        loss=nn.functional.mse_loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.003),
        score=lambda model: negative_error(model, inputs, targets),
    )


class DeepTransformer(nn.Module):
    """A transformer of 12 layers over tokens, with normalisation after or before each part."""

    def __init__(self, before: bool, width: int = 16):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(16, width), nn.Parameter(torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(width, 2, 32, 0.0, batch_first=True, norm_first=before)
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(12))
        for weight in (p for p in self.layers.parameters() if p.dim() > 1):
            nn.init.xavier_uniform_(weight)
        self.head = nn.Linear(width, 16)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.embedding(inputs) + self.positions
        mask = nn.Transformer.generate_square_subsequent_mask(8)
        for layer in self.layers:
            hidden = layer(hidden, src_mask=mask)
        return self.head(hidden).flatten(0, 1)


def normalisation_after_each_part(repaired: bool) -> Training:
    inputs, targets = tokens(samples=16, length=8)
    model = DeepTransformer(before=repaired)
    return Training(
        model,
        batch=lambda step: (inputs, targets.flatten()),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.003),
        score=lambda model: accuracy(model, inputs, targets.flatten()),
    )


class PixelLabels(nn.Module):
    """Features of a picture at two scales, dropout, and a class for each pixel."""

    def __init__(self, dropout: float, kinds: int = 5):
        super().__init__()
        self.near, self.far = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=3, dilation=3)
        self.project = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.dropout, self.classify = nn.Dropout(dropout), nn.Conv2d(16, kinds, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.project(torch.cat([self.near(inputs), self.far(inputs)], 1).relu())
        return self.classify(self.dropout(features)).movedim(1, -1)


def dropout_of_nine_tenths(repaired: bool) -> Training:
    inputs, _ = images(samples=32)
    labels = (nn.functional.avg_pool2d(inputs, 3, 1, 1) + 2).clamp(0, 4).long().squeeze(1)
    model = PixelLabels(0.1 if repaired else 0.9)
    return Training(
        model,
        batch=lambda step: (inputs, labels.flatten()),
        loss=lambda outputs, targets: nn.functional.cross_entropy(outputs.flatten(0, -2), targets),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        score=lambda model: accuracy(model, inputs, labels),
    )


def dropout_of_seven_tenths(repaired: bool) -> Training:
    inputs, labels = classes(kinds=8, spread=1.5)
    layers: list[nn.Module] = []
    for width in (20, 48, 48, 48):
        layers += [nn.Linear(width, 48), nn.ReLU(), nn.Dropout(0.3 if repaired else 0.7)]
    model = nn.Sequential(*layers, nn.Linear(48, 8))
    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=0.003),
        score=lambda model: accuracy(model, inputs, labels),
    )


PROGRAMS = [
    Program(
        name="Inception whose batch normalisation has momentum 0",
        source="https://github.com/Cadene/pretrained-models.pytorch/issues/5",
        symptom="training goes well, evaluation gives very different results",
        explanation="with momentum 0 the running mean and variance are never updated",
        causes=("normalisation wrong", "wrong mode"),
        make=frozen_statistics,
        steps=60,
        margin=0.25,
        layers=("1", "5"),
        visible="training",
    ),
    Program(
        name="TabNet whose steps share a normalisation",
        source="https://github.com/dreamquark-ai/tabnet/pull/76",
        symptom="found in the code after layers were shared between the steps",
        explanation="batch normalisations were shared with the layers, so all steps write the same statistics",
        causes=("normalisation wrong", "wrong mode"),
        make=shared_normalisation_of_steps,
        steps=60,
        margin=0.045,
        layers=("norms.0",),
        visible="training",
    ),
    Program(
        name="SegNet whose decoder has the encoder's normalisations",
        source="https://github.com/yassouali/pytorch-segmentation/pull/159",
        symptom="SegNet has a problem that others asked about too; it is traced to its lists of modules",
        explanation="the decoder's list is the encoder's list, so both contain the same batch normalisations",
        causes=("normalisation wrong", "wrong mode"),
        make=shared_normalisation_of_decoder,
        steps=40,
        margin=0.02,
        layers=("down_norms.0", "down_norms.1"),
        visible="training",
    ),
    Program(
        name="BASNet with one image a batch",
        source="https://github.com/xuebinqin/BASNet/issues/42",
        symptom="with batch size 1 the performance is far from that with batch size 8",
        explanation="batch normalisation needs larger batches; another normalisation repairs it",
        causes=("normalisation wrong",),
        make=one_image_a_batch,
        steps=128,
        margin=0.01,
        layers=("1", "4", "7"),
        visible="training",
    ),
    Program(
        name="group normalisation of one value per group",
        source="https://github.com/pytorch/pytorch/issues/19250",
        symptom="all activations are zero and nothing is learnt",
        explanation="with a group per channel, the mean of one pooled value is subtracted from itself",
        causes=("normalisation wrong", "collapsed units"),
        make=one_value_per_channel,
        steps=60,
        margin=0.37,
        layers=("5",),
    ),
    Program(
        name="layer normalisation of one feature",
        source="https://github.com/pytorch/pytorch/issues/108956",
        symptom="layer normalisation returns zeros for a column",
        explanation="a sample has one value there, which is its own mean",
        causes=("normalisation wrong", "collapsed units"),
        make=one_feature,
        steps=100,
        margin=1.7,
        layers=("1",),
    ),
    Program(
        name="regression to word vectors through a normalised output",
        source="https://github.com/Lab41/attalos/pull/89",
        symptom="none is told; the fix says that the last layer should be linear",
        explanation="batch normalisation follows the last layer, which should be linear",
        causes=("normalisation wrong", "targets out of reach"),
        make=normalised_output,
        steps=200,
        margin=0.25,
        layers=("4",),
    ),
    Program(
        name="transformer of 12 layers with normalisation after each part",
        source="https://github.com/pytorch/pytorch/issues/55270",
        symptom="training is unstable for transformers of 12 and more layers",
        explanation="normalisation after the residual sum with Xavier weights makes gradients vanish with depth",
        causes=("vanishing gradient", "normalisation wrong"),
        make=normalisation_after_each_part,
        steps=25,
        margin=0.16,
    ),
    Program(
        name="DeepLab with dropout 0.9",
        source="https://github.com/bonlime/keras-deeplab-v3-plus/issues/4",
        symptom="found by a comparison with the original",
        explanation="the original's probability to keep, 0.9, became the probability to drop",
        causes=("dropout too strong",),
        make=dropout_of_nine_tenths,
        steps=60,
        margin=0.045,
        layers=("dropout",),
    ),
    Program(
        name="MNIST with dropout 0.7 after each of four layers",
        source="https://github.com/hunkim/DeepLearningZeroToAll/issues/204",
        symptom="found by a comparison with the version of low-level functions",
        explanation="tf.layers.dropout takes the rate to drop; 0.7 was meant as the rate to keep",
        causes=("dropout too strong",),
        make=dropout_of_seven_tenths,
        steps=80,
        margin=0.12,
        layers=("2", "5", "8", "11"),
    ),
]
