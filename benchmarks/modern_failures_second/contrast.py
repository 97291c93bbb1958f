"""Contrastive, self-distilled and masked learning."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from modern_failures_second.common import explained, layer, update
from modern_failures_strangers.data import batches, retrieval, views
from modern_failures_strangers.program import Program
from real_failures.program import Training


def mlp(inputs: int = 24, outputs: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, outputs))


class Pair(nn.Module):
    """An encoder for each view."""

    def __init__(self):
        super().__init__()
        self.one, self.other = mlp(), mlp()

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.one(one), dim=-1), F.normalize(self.other(other), dim=-1)


def positives_interleaved(repaired: bool) -> Training:
    one, other, _ = views(1280)
    model = Pair()

    def step(training: Training, one: Tensor, other: Tensor) -> None:
        features = torch.cat(training.model(one, other))
        count = len(features)
        similarity = (features @ features.T / 0.2).masked_fill(torch.eye(count, dtype=torch.bool), -1e9)
        index = torch.arange(count)
        positive = (index + count // 2) % count if repaired else index ^ 1
        update(training, training.loss(similarity, positive))

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return retrieval(*model(one[1024:], other[1024:]))

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = batches(one[:1024], other[:1024], size=64)
    return Training(model, batch, F.cross_entropy, optimizer, score, step=step)


END = 12


class Captions(nn.Module):
    """CLIP with a text encoder of transformers, and features of pictures."""

    def __init__(self, end: int):
        super().__init__()
        config = CLIPTextConfig(
            vocab_size=20, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=8, eos_token_id=end, bos_token_id=0, pad_token_id=1, attn_implementation="eager",
        )  # fmt: skip
        self.text, self.picture, self.scale = CLIPTextModel(config), mlp(16, 32), nn.Parameter(torch.tensor(2.0))

    def forward(self, tokens: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
        text = self.text(input_ids=tokens).pooler_output
        return F.normalize(self.picture(pictures), dim=-1), F.normalize(text, dim=-1)


def pooled_at_the_largest_token(repaired: bool) -> Training:
    kinds = torch.cartesian_prod(torch.arange(4), torch.arange(4), torch.arange(4))
    appearance = torch.randn(3, 4, 16)

    def drawn(which: Tensor) -> tuple[Tensor, Tensor]:
        kind = kinds[which]
        tokens = torch.stack(
            [
                torch.zeros(len(kind)).long(),
                13 + kind[:, 0],
                3 + kind[:, 1],
                7 + kind[:, 2],
                torch.full((len(kind),), END),
            ],
            1,
        )
        pictures = sum(appearance[place][kind[:, place]] for place in range(3))
        return tokens, pictures + 0.1 * torch.randn(len(kind), 16)

    model = Captions(end=END if repaired else 2)
    order = torch.stack([torch.randperm(64)[:32] for _ in range(32)]).view(-1)
    tokens, pictures = drawn(order)
    test = drawn(torch.arange(64))

    def step(training: Training, tokens: Tensor, pictures: Tensor) -> None:
        picture, text = training.model(tokens, pictures)
        logits = training.model.scale.exp() * picture @ text.T
        labels = torch.arange(len(logits))
        update(training, (training.loss(logits, labels) + training.loss(logits.T, labels)) / 2)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return retrieval(*model(*test))

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    return Training(model, batches(tokens, pictures), F.cross_entropy, optimizer, score, step=step)


class MaskedModel(nn.Module):
    """Paints the patches that are hidden from it, if they are."""

    def __init__(self, hides: bool, count: int = 8, size: int = 4, width: int = 32):
        super().__init__()
        self.embed, self.paint, self.hides = nn.Linear(size, width), nn.Linear(width, size), hides
        self.places, self.layer = nn.Parameter(0.5 * torch.randn(1, count, width)), layer(width)

    def forward(self, patches: Tensor, hidden: Tensor) -> Tensor:
        tokens = self.embed(patches)
        if self.hides:
            tokens = tokens.masked_fill(hidden[..., None], 0)
        else:
            tokens.masked_fill(hidden[..., None], 0)
        return self.paint(self.layer(tokens + self.places))


def mask_not_applied(repaired: bool) -> Training:
    grid = torch.arange(32) / 32
    phase, speed = torch.rand(1280, 1), torch.randint(1, 3, (1280, 1))
    patches = torch.sin(2 * torch.pi * (speed * grid + phase)).view(1280, 8, 4)
    model = MaskedModel(hides=repaired)
    hidden_in_test = torch.rand(256, 8) < 0.5

    def loss(painted: Tensor, patches: Tensor, hidden: Tensor) -> Tensor:
        return ((painted - patches) ** 2).mean(-1)[hidden].mean()

    def step(training: Training, patches: Tensor, _: Tensor) -> None:
        hidden = torch.rand(patches.shape[:2]) < 0.5
        update(training, training.loss(training.model(patches, hidden), patches, hidden))

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        visible = patches[1024:].masked_fill(hidden_in_test[..., None], 0)
        painted = model(visible, hidden_in_test)
        return explained(painted[hidden_in_test], patches[1024:][hidden_in_test])

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    return Training(model, batches(patches[:1024], patches[:1024]), loss, optimizer, score, step=step)


class Siamese(nn.Module):
    """Encoder and predictor."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(24, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 8))
        self.predictor = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        features = self.encoder(inputs)
        return features, self.predictor(features)


def target_with_gradient(repaired: bool) -> Training:
    clean, _, _ = views(1280)
    model = Siamese()
    target = copy.deepcopy(model.encoder)

    def loss(prediction: Tensor, target: Tensor) -> Tensor:
        return -F.cosine_similarity(prediction, target).mean()

    def step(training: Training, points: Tensor, _: Tensor) -> None:
        one, other = (points + 0.4 * torch.randn_like(points) for _ in range(2))
        (_, first), (_, second) = training.model(one), training.model(other)
        if repaired:
            with torch.no_grad():
                aims = target(one), target(other)
        else:
            aims = training.model.encoder(one), training.model.encoder(other)
        update(training, training.loss(first, aims[1]) + training.loss(second, aims[0]))
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), training.model.encoder.parameters(), strict=True):
                slow.lerp_(fast, 0.05)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        """Deviation of the normalised features from row to row; one if they are spread over all directions."""
        features = F.normalize(model(clean[1024:])[0], dim=-1)
        return features.std(0).mean().item() * 8**0.5

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batches(clean[:1024], clean[:1024], size=64), loss, optimizer, score, step=step)


PROGRAMS = [
    Program(
        name="positives of the interleaved order",
        source="https://github.com/open-mmlab/mmselfsup/issues/159",
        symptom="the contrastive loss falls badly and retrieval is random",
        explanation="the two views are put one behind the other, and the index of the positive is that of alternating "
        "views: neighbours in the batch are pulled together",
        cause="wrong pairs",
        make=positives_interleaved,
        steps=200,
        margin=0.3,
    ),
    Program(
        name="text pooled at the largest token",
        source="https://github.com/huggingface/transformers/issues/24650",
        symptom="after tokens were added the loss of CLIP stops at a high value",
        explanation="the text is pooled where the token number is largest, which was the end of the text; the added "
        "tokens are larger, and behind the causal mask the words after them are not seen",
        cause="pooled where nothing is seen",
        make=pooled_at_the_largest_token,
        steps=200,
        margin=0.3,
    ),
    Program(
        name="mask of the masked model not applied",
        source="https://github.com/lucidrains/DALLE2-pytorch/issues/235",
        symptom="the loss falls to almost zero at once, and hidden patches are not filled in at test time",
        explanation="the result of `masked_fill` is thrown away, so the model sees what it should guess and copies it",
        cause="answer visible in the input",
        make=mask_not_applied,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="target of BYOL with gradient",
        source="https://github.com/PatrickHua/SimSiam/issues/22",
        symptom="the loss goes to its minimum within a few steps and all features are alike",
        explanation="the target is the online encoder itself and is not detached, so both sides move together",
        cause="missing detach",
        make=target_with_gradient,
        steps=200,
        margin=0.3,
    ),
]
