"""Vision transformers: patches, positions, the class token, and what surrounds them in image training."""

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_strangers.data import agreement, batches
from modern_failures_strangers.networks import Block
from modern_failures_strangers.program import Program
from real_failures.program import Training

SIDE, PATCH = 12, 4
PATCHES = (SIDE // PATCH) ** 2


def stripes(rows: int = 1280) -> tuple[Tensor, Tensor]:
    """Noise with one small bar, which stands or lies in one of nine patches; 18 classes."""
    pictures = 0.2 * torch.randn(rows, 1, SIDE, SIDE)
    place, standing = torch.randint(PATCHES, (rows,)), torch.rand(rows) < 0.5
    for picture, where, stands in zip(pictures[:, 0], place.tolist(), standing.tolist(), strict=True):
        patch = picture[where // 3 * PATCH :, where % 3 * PATCH :][:PATCH, :PATCH]
        shift = 1 + int(torch.randint(2, ()))
        if stands:
            patch[:, shift] += 2
        else:
            patch[shift] += 2
    return pictures, place * 2 + standing.long()


def patches(pictures: Tensor) -> Tensor:
    """The squares of the pictures, row by row."""
    squares = pictures.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    return squares.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def rows_as_patches(pictures: Tensor) -> Tensor:
    """As many pieces as there are patches, each of neighbouring numbers in memory."""
    return pictures.reshape(len(pictures), PATCHES, -1)


class ViT(nn.Module):
    """Vision transformer that averages its patches; the shape of its positions can be replaced."""

    def __init__(self, positions: tuple[int, int] = (1, PATCHES), width: int = 32, classes: int = 18):
        super().__init__()
        self.embed, self.positions = nn.Linear(PATCH**2, width), nn.Parameter(0.5 * torch.randn(*positions, width))
        self.block, self.head = Block(width), nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.block(self.embed(patches(pictures)) + self.positions).mean(1))


def classify(model: nn.Module, prepare=lambda pictures: pictures, lr: float = 5e-3, **options: object) -> Training:
    """The training of a classifier of pictures."""
    pictures, labels = stripes()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(prepare(pictures[1024:])).argmax(-1), labels[1024:])

    def batch(step: int) -> tuple[Tensor, Tensor]:
        some, some_labels = batches(pictures[:1024], labels[:1024])(step)
        return prepare(some), some_labels

    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    return Training(model, batch, F.cross_entropy, optimizer, score, **options)


class Segmenter(nn.Module):
    """Two or more classes for each patch."""

    def __init__(self, classes: int = 2, width: int = 32):
        super().__init__()
        self.embed, self.block = nn.Linear(PATCH**2, width), Block(width, heads=4)
        self.places, self.head = nn.Parameter(torch.randn(PATCHES, width)), nn.Linear(width, classes)

    def forward(self, squares: Tensor) -> Tensor:
        return self.head(self.block(self.embed(squares) + self.places))


def patches_by_reshape(repaired: bool) -> Training:
    pictures, labels = stripes()
    pieces = (patches if repaired else rows_as_patches)(pictures)
    bars = F.one_hot(labels // 2, PATCHES) * (1 + labels % 2)[:, None]
    model = Segmenter(classes=3)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        found = model(pieces[1024:]).argmax(-1)
        return agreement(found[bars[1024:] > 0], bars[1024:][bars[1024:] > 0])

    return Training(
        model,
        batch=batches(pieces[:1024], bars[:1024]),
        loss=lambda logits, bars: F.cross_entropy(logits.mT, bars),
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=score,
    )


def positions_of_the_batch(repaired: bool) -> Training:
    return classify(ViT(positions=(1, PATCHES) if repaired else (1, 1)))


class Painter(nn.Module):
    """Brightens a picture patch by patch, and puts the patches together, or tears them."""

    def __init__(self, torn: bool):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(PATCH**2, 64), nn.GELU(), nn.Linear(64, PATCH**2))
        self.torn = torn

    def forward(self, pictures: Tensor) -> Tensor:
        painted = self.net(patches(pictures))
        if self.torn:
            return painted.reshape(pictures.shape)
        squares = painted.unflatten(1, (3, 3)).unflatten(3, (PATCH, PATCH))
        return squares.permute(0, 1, 3, 2, 4).reshape(pictures.shape)


def picture_torn(repaired: bool) -> Training:
    clean, _ = stripes()
    clean = (clean > 1).float()
    noisy = clean + 0.4 * torch.randn_like(clean)
    model = Painter(torn=not repaired)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return 1 - F.mse_loss(model(noisy[1024:]), clean[1024:]).item() / clean.var().item()

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batches(noisy[:1024], clean[:1024]), F.mse_loss, optimizer, score)


def tiny_timm(classes: int = 18) -> nn.Module:
    return timm.models.VisionTransformer(
        img_size=SIDE, patch_size=PATCH, in_chans=1, num_classes=classes, embed_dim=32, depth=1, num_heads=2
    )


def head_replaced_after_the_optimizer(repaired: bool) -> Training:
    model = tiny_timm(classes=100)
    if repaired:
        model.reset_classifier(18)
    training = classify(model.requires_grad_(True))
    if not repaired:
        model.reset_classifier(18)
        nn.init.zeros_(model.head.weight)
    return training


def bytes_for_a_normalised_model(repaired: bool) -> Training:
    def prepare(pictures: Tensor) -> Tensor:
        grey = (40 * pictures + 100).clamp(0, 255).round()
        return (grey / 255 - 0.4) / 0.15 if repaired else (grey - 0.4) / 0.15

    return classify(ViT(), prepare)


def mixed_with_other_labels(repaired: bool) -> Training:
    model = ViT()

    def step(training: Training, pictures: Tensor, labels: Tensor) -> None:
        part = torch.distributions.Beta(1.0, 1.0).sample()
        order = torch.randperm(len(pictures))
        mixed = part * pictures + (1 - part) * pictures[order]
        others = labels[order] if repaired else labels[torch.randperm(len(pictures))]
        if not repaired:
            part = 1 - part
        logits = training.model(mixed)
        loss = part * training.loss(logits, labels) + (1 - part) * training.loss(logits, others)
        training.optimizer.zero_grad()
        loss.backward()
        training.optimizer.step()

    return classify(model, step=step)


def two_softmaxes(repaired: bool) -> Training:
    model = ViT()
    if not repaired:
        model.head.append(nn.Softmax(-1))
    training = classify(model)
    training.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return training


PROGRAMS = [
    Program(
        name="patches cut by reshape",
        source="https://github.com/duoan/TorchCode/issues/21",
        symptom="the vision transformer learns less than expected",
        explanation="`view` gives pieces of whole rows and no squares: the axes are not permuted first",
        cause="axes scrambled",
        make=patches_by_reshape,
        steps=60,
        margin=0.08,
    ),
    Program(
        name="one position for all patches",
        source="https://github.com/ahmadchalhoub/research_implementations/issues/2",
        symptom="the network finds what is in the picture and not where",
        explanation="the embedding of the positions has a batch axis and one entry, so each patch gets the same",
        cause="positions missing",
        make=positions_of_the_batch,
        steps=100,
        margin=0.3,
    ),
    Program(
        name="picture torn when its patches are joined",
        source="https://github.com/michaeltrs/DeepSatModels/issues/22",
        symptom="the output has blocks at wrong places, and the loss stops high",
        explanation="the patches are reshaped to a picture without moving the axes",
        cause="patches joined wrongly",
        make=picture_torn,
        steps=200,
        margin=0.3,
    ),
    Program(
        name="head replaced after the optimizer was built",
        source="",
        symptom="the loss falls a little and the outputs stay those of the new head",
        explanation="`reset_classifier` makes new parameters that the optimizer does not have; "
        "known from notebooks in which the cells are run in another order",
        cause="new layer not trained",
        make=head_replaced_after_the_optimizer,
        steps=200,
        margin=0.2,
    ),
    Program(
        name="bytes given to a model of small numbers",
        source="",
        symptom="the loss is large in the beginning and falls slowly or not",
        explanation="the pictures are from 0 to 255 and are normalised with the mean and deviation of 0 to 1; "
        "known from transforms in which `ToTensor` is left out",
        cause="inputs not scaled",
        make=bytes_for_a_normalised_model,
        steps=100,
        margin=0.1,
    ),
    Program(
        name="mixup with two permutations",
        source="https://github.com/xudonmao/VMT/issues/1",
        symptom="mixup makes the training much worse",
        explanation="pictures and labels are mixed by different permutations and weights",
        cause="data wrong",
        make=mixed_with_other_labels,
        steps=100,
        margin=0.1,
    ),
    Program(
        name="softmax before the cross-entropy",
        source="https://github.com/illiterate/BertClassifier/issues/2",
        symptom="the loss falls very slowly and cannot fall below a floor",
        explanation="the model ends with a softmax, and the loss applies another",
        cause="two softmaxes",
        make=two_softmaxes,
        steps=100,
        margin=0.15,
    ),
]
