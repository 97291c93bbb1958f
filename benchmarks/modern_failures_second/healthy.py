"""Healthy trainings that do unusual things on purpose."""

import copy

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from modern_failures_second.common import by_name, explained, layer, signals, tiny_gpt, update
from modern_failures_strangers.data import (
    ASK,
    agreement,
    batches,
    clusters,
    column,
    retrieval,
    translations,
    views,
    walks,
)
from modern_failures_strangers.program import Healthy
from real_failures.program import Training


def accuracy(points: Tensor, labels: Tensor):
    """Score of a classifier on these rows."""

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        model.eval()
        result = agreement(model(points).argmax(-1), labels)
        model.train()
        return result

    return score


def adapters_on_a_frozen_model() -> Training:
    texts = walks(1280, 8)
    model = tiny_gpt(vocabulary=12).requires_grad_(False)
    targets = ["c_attn", "c_fc", "c_proj"]
    model = get_peft_model(model, LoraConfig(r=8, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM"))

    def batch(step: int) -> tuple[dict[str, Tensor], Tensor]:
        (some,) = batches(texts[:1024])(step)
        return {"input_ids": some, "labels": some}, some

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(input_ids=texts[1024:, :-1]).logits.argmax(-1), texts[1024:, 1:])

    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    return Training(model, batch, lambda outputs, labels: outputs.loss, optimizer, score, step=by_name)


class Siamese(nn.Module):
    """Encoder and predictor, as in SimSiam."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(24, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))
        self.predictor = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(points)
        return features, self.predictor(features)


def stopped_gradient() -> Training:
    clean, _, _ = views(1280)
    model = Siamese()
    noisy = [clean[1024:] + 0.5 * torch.randn(256, 24) for _ in range(2)]

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        return -F.cosine_similarity(prediction, target.detach()).mean()

    def step(training: Training, points: Tensor, _: Tensor) -> None:
        (one, guess_one), (other, guess_other) = (
            training.model(points + 0.5 * torch.randn_like(points)) for _ in range(2)
        )
        update(training, (training.loss(guess_one, other) + training.loss(guess_other, one)) / 2)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return F.cosine_similarity(model(noisy[0])[0], model(noisy[1])[0]).mean().item()

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    return Training(model, batches(clean[:1024], clean[:1024], size=64), loss, optimizer, score, step=step)


def averaged_weights() -> Training:
    points, labels = clusters(1280, noise=2.0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 5))
    average = copy.deepcopy(model).requires_grad_(False)

    def step(training: Training, points: Tensor, labels: Tensor) -> None:
        update(training, training.loss(training.model(points), labels))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), training.model.parameters(), strict=True):
                slow.lerp_(fast, 0.05)

    score = accuracy(points[1024:], labels[1024:])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = batches(points[:1024], labels[:1024])
    return Training(model, batch, F.cross_entropy, optimizer, lambda _: score(average), step=step)


class Gated(nn.Module):
    """Blocks behind gates and a head that all start at zero, as in a diffusion transformer."""

    def __init__(self):
        super().__init__()
        self.embed, self.words = nn.Embedding(16, 32), nn.Parameter(0.3 * torch.randn(10, 32))
        self.layers, self.gates = nn.ModuleList(layer() for _ in range(2)), nn.Parameter(torch.zeros(2))
        self.head = nn.Linear(32, 4)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens) + self.words
        for block, gate in zip(self.layers, self.gates, strict=True):
            hidden = hidden + gate * block(hidden)
        return self.head(hidden.mean(1))


def gates_of_zero() -> Training:
    tokens, labels, _ = signals(1280)
    model = Gated()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    score = accuracy(tokens[1024:], labels[1024:])
    return Training(model, batches(tokens[:1024], labels[:1024]), F.cross_entropy, optimizer, score)


class Packed(nn.Module):
    """A causal model of rows in which two texts lie one behind the other and do not see each other."""

    def __init__(self, length: int):
        super().__init__()
        self.words, self.places = nn.Embedding(12, 32), nn.Embedding(length, 32)
        self.layer, self.head = layer(), nn.Linear(32, 12)

    def forward(self, tokens: Tensor, places: Tensor, text: Tensor) -> Tensor:
        count = tokens.shape[1]
        hidden_from = (text[:, :, None] != text[:, None]) | torch.ones(count, count, dtype=torch.bool).triu(1)
        hidden = self.layer(self.words(tokens) + self.places(places), src_mask=hidden_from.repeat_interleave(4, 0))
        return self.head(hidden)


def packed_texts() -> Training:
    questions, answers = translations(2560, length=2)
    texts = torch.cat([questions, column(2560, ASK), answers], 1)
    rows = texts.view(1280, 10)
    places = torch.arange(5).repeat(2)
    text = torch.arange(2).repeat_interleave(5)
    labels = rows.roll(-1, 1)
    labels[:, [0, 1, 4, 5, 6, 9]] = -100
    model = Packed(5)

    def batch(step: int) -> tuple[dict[str, Tensor], Tensor]:
        some, some_labels = batches(rows[:1024], labels[:1024])(step)
        size = (len(some), 10)
        return {"tokens": some, "places": places.expand(size), "text": text.expand(size)}, some_labels

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.mT, labels)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        guesses = model(rows[1024:], places.expand(256, 10), text.expand(256, 10)).argmax(-1)
        return agreement(guesses[labels[1024:] >= 0], labels[1024:][labels[1024:] >= 0])

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batch, loss, optimizer, score, step=by_name)


def mixed_and_smoothed() -> Training:
    points, labels = clusters(1280, noise=2.0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 5))

    def step(training: Training, points: Tensor, labels: Tensor) -> None:
        part = torch.distributions.Beta(0.8, 0.8).sample()
        order = torch.randperm(len(points))
        logits = training.model(part * points + (1 - part) * points[order])
        loss = part * training.loss(logits, labels) + (1 - part) * training.loss(logits, labels[order])
        update(training, loss)

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    score = accuracy(points[1024:], labels[1024:])
    return Training(
        model,
        batches(points[:1024], labels[:1024]),
        nn.CrossEntropyLoss(label_smoothing=0.2),
        optimizer,
        score,
        step=step,
    )


def accumulated_gradients() -> Training:
    points, labels = clusters(1280, noise=2.0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 5))

    def step(training: Training, points: Tensor, labels: Tensor) -> None:
        training.optimizer.zero_grad()
        for some, some_labels in zip(points.chunk(4), labels.chunk(4), strict=True):
            (training.loss(training.model(some), some_labels) / 4).backward()
        nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
        training.optimizer.step()

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    score = accuracy(points[1024:], labels[1024:])
    return Training(model, batches(points[:1024], labels[:1024]), F.cross_entropy, optimizer, score, step=step)


class Averaging(nn.Module):
    """An autoencoder whose codes are running means and no parameters, with a straight-through gradient."""

    def __init__(self, codes: int = 16):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 4))
        self.decoder = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 4))
        self.register_buffer("codes", 0.3 * torch.randn(codes, 4))
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", self.codes.clone())

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.encoder(points)
        nearest = torch.cdist(latent, self.codes).argmin(1)
        codes = self.codes[nearest]
        if torch.is_grad_enabled():
            with torch.no_grad():
                chosen = F.one_hot(nearest, len(self.codes)).float()
                self.counts.lerp_(chosen.sum(0), 0.1)
                self.sums.lerp_(chosen.T @ latent, 0.1)
                self.codes.copy_(self.sums / (self.counts[:, None] + 1e-3))
        return self.decoder(latent + (codes - latent).detach()), 0.25 * F.mse_loss(latent, codes.detach())


def running_codebook() -> Training:
    clean = 2 * torch.randn(8, 4)[torch.randint(8, (1280,))]
    points = torch.cat([clean + 0.3 * torch.randn(1280, 4), torch.randn(1280, 20)], 1)
    model = Averaging()

    def step(training: Training, points: Tensor, clean: Tensor) -> None:
        painted, commitment = training.model(points)
        update(training, training.loss(painted, clean) + commitment)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return explained(model(points[1024:])[0], clean[1024:])

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batches(points[:1024], clean[:1024], size=64), F.mse_loss, optimizer, score, step=step)


def locked_tower() -> Training:
    one, other, _ = views(1280)
    model = nn.ModuleDict(
        {
            "locked": nn.Sequential(nn.Linear(24, 64), nn.Tanh(), nn.Linear(64, 16)),
            "text": nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 16)),
        }
    )
    model["locked"].requires_grad_(False)
    scale = nn.Parameter(torch.tensor(2.0))
    model.register_parameter("scale", scale)

    def features(model: nn.Module, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            picture = F.normalize(model["locked"](one), dim=-1)
        return picture, F.normalize(model["text"](other), dim=-1)

    def step(training: Training, one: Tensor, other: Tensor) -> None:
        picture, text = features(training.model, one, other)
        logits, labels = training.model.scale.exp() * picture @ text.T, torch.arange(len(one))
        update(training, (training.loss(logits, labels) + training.loss(logits.T, labels)) / 2)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return retrieval(*features(model, one[1024:], other[1024:]))

    optimizer = torch.optim.AdamW([*model["text"].parameters(), scale], lr=3e-3)
    return Training(model, batches(one[:1024], other[:1024], size=64), F.cross_entropy, optimizer, score, step=step)


HEALTHY = [
    Healthy(
        "adapters on a frozen model",
        "all but the adapters is frozen, and one factor of each is zero",
        adapters_on_a_frozen_model,
        120,
        0.4,
    ),
    Healthy(
        "gradient stopped in a siamese network",
        "one side of each pair is detached; the loss is negative",
        stopped_gradient,
        150,
        0.05,
    ),
    Healthy(
        "score of averaged weights",
        "a second network gets no gradient and follows as a running mean",
        averaged_weights,
        150,
        0.3,
    ),
    Healthy(
        "gates and head of zero",
        "gates and head start at zero, so most gradients are zero at first",
        gates_of_zero,
        150,
        0.4,
    ),
    Healthy(
        "packed texts", "two texts in a row with a mask between them; most labels are -100", packed_texts, 250, 0.4
    ),
    Healthy(
        "mixup with smoothed labels",
        "pictures and labels are mixed, so the loss stays high",
        mixed_and_smoothed,
        150,
        0.3,
    ),
    Healthy(
        "accumulated and clipped gradients",
        "four backward passes for a step, and a small norm",
        accumulated_gradients,
        150,
        0.3,
    ),
    Healthy(
        "codebook of running means", "codes are buffers without gradient; straight-through", running_codebook, 250, 0.4
    ),
    Healthy(
        "locked picture tower",
        "one tower is random, frozen and under no_grad, and not in the optimizer",
        locked_tower,
        150,
        0.3,
    ),
]
