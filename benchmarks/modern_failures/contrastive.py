"""Learning by comparison: CLIP, SimCLR, SimSiam, BYOL, MoCo; what a positive is, and what must get no gradient."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from modern_failures.blocks import average, contrast, mlp
from modern_failures.data import neighbours, retrieval, spread, two_views
from modern_failures.program import Program, Training, called


class Clip(nn.Module):
    """A tower for images and one for texts."""

    def __init__(self, features: int = 16, width: int = 16):
        super().__init__()
        self.image, self.text = mlp(features, 64, width), mlp(features, 64, width)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.image(image), self.text(text)


def clip(loss=contrast, size: int = 64, order: Tensor | None = None) -> Training:
    """CLIP on 128 images and their captions in an order; scored by the captions that are found."""
    images, texts, _ = two_views(128, kinds=128, noise=0.2)
    captions = texts if order is None else texts[order]
    model = Clip()

    def batch(step: int):
        part = slice(step * size % 128, step * size % 128 + size)
        return {"image": images[part], "text": captions[part]}, None

    return Training(
        model,
        batch=batch,
        loss=lambda outputs, _: loss(*outputs),
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=lambda model: retrieval(*model(images, texts)),
    )


def images_are_sorted_alone(repaired: bool) -> Training:
    return clip(order=None if repaired else torch.randperm(128))


def batches_of_one_pair(repaired: bool) -> Training:
    return clip(size=64 if repaired else 1)


def loss_without_normalisation(images: Tensor, texts: Tensor) -> Tensor:
    """Cross-entropy with targets that the network makes itself, from similarities without bounds."""
    logits = texts @ images.T
    targets = ((images @ images.T + texts @ texts.T) / 2).softmax(-1)
    rows, columns = -(targets * logits.log_softmax(-1)).sum(1), -(targets.T * logits.T.log_softmax(-1)).sum(1)
    return ((rows + columns) / 2).mean()


def targets_of_its_own(repaired: bool) -> Training:
    return clip(contrast if repaired else loss_without_normalisation)


def nt_xent(first: Tensor, second: Tensor, positives: Tensor, temperature: float = 0.2) -> Tensor:
    """Loss of SimCLR for two views of the samples; `positives` has the row of the other view for each of 2N rows."""
    features = normalize(torch.cat([first, second]), dim=-1)
    similar = (features @ features.T / temperature).masked_fill(torch.eye(len(features), dtype=torch.bool), -1e9)
    return cross_entropy(similar, positives)


def views(samples: int = 128, features: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Two noisy versions of points in 8 classes, whose noise is large in half of the features, and the classes."""
    labels = torch.arange(samples) % 8
    points = torch.cat([torch.randn(8, features // 2)[labels], torch.zeros(samples, features // 2)], 1)
    noise = torch.cat([torch.full((features // 2,), 0.3), torch.full((features // 2,), 3.0)])
    return points + noise * torch.randn(samples, features), points + noise * torch.randn(samples, features), labels


def captions_several_times(repaired: bool) -> Training:
    images, texts, _ = two_views(32, kinds=32, noise=0.2)
    model = Clip()

    def batch(step: int):
        rows = torch.randperm(32)
        if not repaired:  # four questions about each of 16 texts, that count as wrong for one another
            rows = rows[:8].repeat(4)
        return {"image": images[rows] + 0.2 * torch.randn(32, 16), "text": texts[rows]}, None

    return Training(
        model,
        batch=batch,
        loss=lambda outputs, _: contrast(*outputs, temperature=0.05),
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=lambda model: retrieval(*model(images, texts)),
    )


class Encoder(nn.Module):
    """An encoder for both views; with a head that predicts the other view's features if asked."""

    def __init__(self, features: int = 16, width: int = 16, predicts: bool = False, norm: bool = True):
        super().__init__()
        self.encoder = mlp(features, 64, width, norm=norm)
        self.predictor = mlp(width, 32, width) if predicts else nn.Identity()

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features = self.encoder(first), self.encoder(second)
        return *map(self.predictor, features), *features


def comparing(model: nn.Module, loss, score, rate: float = 3e-3, after=None) -> Training:
    """Training on the same two views in each step; `score` gets the features of the first and the classes."""
    first, second, labels = views()

    @torch.no_grad()
    def scored(model: nn.Module) -> float:
        return score(model.encoder(first), labels)

    return Training(
        model,
        batch=lambda step: ({"first": first, "second": second}, None),
        loss=lambda outputs, _: loss(*outputs),
        optimizer=torch.optim.AdamW(model.parameters(), lr=rate),
        score=scored,
        after=after,
    )


def positives_in_another_order(repaired: bool) -> Training:
    rows = torch.arange(256)
    across, next_row = (rows + 128) % 256, rows ^ 1  # views one after the other, and side by side

    def loss(first: Tensor, second: Tensor, *_: Tensor) -> Tensor:
        return nt_xent(first, second, across if repaired else next_row)

    return comparing(Encoder(), loss, neighbours)


def both_sides_learn(repaired: bool) -> Training:
    def loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        if repaired:
            z1, z2 = z1.detach(), z2.detach()
        return -(cosine_similarity(p1, z2).mean() + cosine_similarity(p2, z1).mean()) / 2

    return comparing(Encoder(predicts=True), loss, lambda features, _: spread(features), rate=1e-2)


class Byol(nn.Module):
    """An online encoder with a predictor, and a target encoder that is a moving average."""

    def __init__(self, stopped: bool):
        super().__init__()
        self.encoder, self.predictor = mlp(16, 64, 16, norm=True), mlp(16, 32, 16)
        self.target, self.stopped = copy.deepcopy(self.encoder), stopped

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.stopped):
            targets = self.target(second), self.target(first)
        return self.predictor(self.encoder(first)), self.predictor(self.encoder(second)), *targets


def target_learns_too(repaired: bool) -> Training:
    model = Byol(stopped=repaired)

    def loss(p1: Tensor, p2: Tensor, t2: Tensor, t1: Tensor) -> Tensor:
        return -(cosine_similarity(p1, t2).mean() + cosine_similarity(p2, t1).mean()) / 2

    return comparing(
        model,
        loss,
        lambda features, _: spread(features),
        rate=1e-2,
        after=lambda: average(model.target, model.encoder, 0.99),
    )


class Moco(nn.Module):
    """Encoder and head for queries, and their moving averages for keys."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = mlp(16, 64, 32), mlp(32, 32, 16)
        self.keys, self.key_head = copy.deepcopy(self.encoder), mlp(32, 32, 16)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            keys = self.key_head(self.keys(second))
        return self.head(self.encoder(first)), keys


def head_is_not_averaged(repaired: bool) -> Training:
    model = Moco()
    if repaired:
        model.key_head.load_state_dict(model.head.state_dict())

    def update() -> None:
        average(model.keys, model.encoder, 0.95)
        if repaired:
            average(model.key_head, model.head, 0.95)

    return comparing(model, contrast, neighbours, after=update)


def statistics_are_not_averaged(repaired: bool) -> Training:
    first, second, labels = views(256)
    inputs, labels = 20 * torch.cat([first, second]) + 50, labels.repeat(2)
    model = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 8))
    teacher = copy.deepcopy(model).eval()

    def update() -> None:
        average(teacher, model, 0.9)
        if repaired:
            for mean, current in zip(teacher.buffers(), model.buffers(), strict=True):
                mean.copy_(current)

    return Training(
        model,
        batch=lambda step: (inputs, labels),
        loss=cross_entropy,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2),
        score=lambda _: (called(teacher, inputs).argmax(-1) == labels).float().mean().item(),
        after=update,
    )


PROGRAMS = [
    Program(
        name="images that are sorted without their captions",
        source="https://github.com/cloneofsimo/lora/issues/197",
        symptom="paths of images and captions are not aligned",
        explanation="captions are read from a list of images, which is sorted afterwards",
        causes=("pairs shuffled apart",),
        make=images_are_sorted_alone,
        steps=60,
        margin=0.5,
    ),
    Program(
        name="CLIP with batches of one pair",
        source="https://github.com/rinnakk/japanese-clip/issues/3",
        symptom="the loss is always 0, whatever the image",
        explanation="with one pair there is no other caption, and the loss is -log(1)",
        causes=("constant loss",),
        make=batches_of_one_pair,
        steps=60,
        margin=0.3,
    ),
    Program(
        name="CLIP whose targets are its own similarities",
        source="https://github.com/moein-shariatnia/OpenAI-CLIP/pull/28",
        symptom="the loss does not mirror that of CLIP",
        explanation="features are not normalised, and targets are a softmax of the network's own similarities",
        causes=("targets wrong", "normalisation wrong"),
        make=targets_of_its_own,
        steps=100,
        margin=0.2,
    ),
    Program(
        name="texts that are several times in a batch",
        source="https://github.com/huggingface/sentence-transformers/issues/3189",
        symptom="a question what happens to texts that a batch has more than once",
        explanation="each copy counts as a wrong answer to the questions of the others",
        causes=("positives wrong",),
        make=captions_several_times,
        steps=15,
        margin=0.12,
    ),
    Program(
        name="SimCLR whose positives are other samples",
        source="https://github.com/open-mmlab/mmselfsup/issues/159",
        symptom="positives are 0 0 2 2 4 4 ... for views in the order 0 1 2 ... 0 1 2 ...",
        explanation="the views are put one after the other, and positives are those of views side by side",
        causes=("positives wrong", "pairs shuffled apart"),
        make=positives_in_another_order,
        steps=100,
        margin=0.2,
    ),
    Program(
        name="SimSiam without its stop-gradient",
        source="https://github.com/lightly-ai/lightly/issues/559",
        symptom="a question: should the projections not be detached?",
        explanation="without the stop-gradient both sides move to the same point, and the features collapse",
        causes=("target encoder with gradient",),
        make=both_sides_learn,
        steps=100,
        margin=0.2,
        visible="training",
    ),
    Program(
        name="data2vec with a teacher that learns",
        source="https://github.com/arxyzan/data2vec-pytorch/issues/8",
        symptom="nothing stops the gradient into the moving average",
        explanation="the targets are not detached, so the loss also moves the encoder that makes them",
        causes=("target encoder with gradient",),
        make=target_learns_too,
        steps=150,
        margin=0.15,
    ),
    Program(
        name="MoCo whose key head is not averaged",
        source="https://github.com/Lightning-Universe/lightning-bolts/issues/1059",
        symptom="the momentum update leaves out the head",
        explanation="only the encoder follows; the head of the keys stays as it was drawn",
        causes=("average stays behind", "frozen and random"),
        make=head_is_not_averaged,
        steps=60,
        margin=0.1,
        layers=("key_head",),
    ),
    Program(
        name="averaged teacher without averaged statistics",
        source="https://github.com/saltoricristiano/cosmix-uda/issues/21",
        symptom="the teacher gets worse with every step",
        explanation="the average takes parameters but not buffers, so batch normalisation keeps its first statistics",
        causes=("buffers not averaged", "average stays behind"),
        make=statistics_are_not_averaged,
        steps=60,
        margin=0.3,
        visible="training",
    ),
]
