"""Masked autoencoders and masked language models."""

import torch
from torch import Tensor, nn

from modern_failures_strangers import libraries
from modern_failures_strangers.data import FIRST_WORD, agreement, batches, walks
from modern_failures_strangers.libraries import call_with_labels
from modern_failures_strangers.networks import Block
from modern_failures_strangers.program import Program
from real_failures.program import Training

PATCHES = 12


def waves(rows: int) -> Tensor:
    """Signals of twelve patches of four values, all of which follow from two numbers."""
    phase, speed = 6.3 * torch.rand(rows, 1), 0.05 + 0.15 * torch.rand(rows, 1)
    return (phase + speed * torch.arange(4 * PATCHES)).sin().unflatten(1, (PATCHES, 4))


class MaskedAutoencoder(nn.Module):
    """MAE: the encoder sees a few patches, the decoder completes them, with or without positions."""

    def __init__(self, decoder_positions: bool = True, width: int = 32, visible: int = 4):
        super().__init__()
        self.embed, self.places = nn.Linear(4, width), nn.Parameter(0.5 * torch.randn(PATCHES, width))
        self.encoder, self.decoder = Block(width), nn.Sequential(Block(width), Block(width))
        self.hidden, self.output = nn.Parameter(torch.zeros(width)), nn.Linear(width, 4)
        self.decoder_places = nn.Parameter(0.5 * torch.randn(PATCHES, width)) if decoder_positions else 0
        self.visible = visible

    def forward(self, signals: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.rand(signals.shape[:2]).argsort(1)
        seen = order[:, : self.visible, None]
        states = self.encoder((self.embed(signals) + self.places).gather(1, seen.expand(-1, -1, 32)))
        filled = torch.cat([states, self.hidden.expand(len(signals), PATCHES - self.visible, -1)], 1)
        filled = filled.gather(1, order.argsort(1)[..., None].expand(-1, -1, 32))
        mask = torch.ones(signals.shape[:2]).scatter(1, seen[..., 0], 0.0)
        return self.output(self.decoder(filled + self.decoder_places)), mask


def autoencoder(model: MaskedAutoencoder, weights=lambda mask: mask, target=lambda signals: signals) -> Training:
    """The training of a masked autoencoder; the score is how well hidden patches are completed."""
    signals = waves(1024)

    def loss(outputs: tuple[Tensor, Tensor], signals: Tensor) -> Tensor:
        completed, mask = outputs
        errors = (completed - target(signals)).square().mean(-1)
        return (errors * weights(mask)).sum() / weights(mask).sum()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        completed, mask = model(signals)
        return -((completed - signals).square().mean(-1) * mask).sum().div(mask.sum()).item()

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batches(signals, signals, size=64), loss, optimizer, score)


def loss_on_visible_patches(repaired: bool) -> Training:
    return autoencoder(MaskedAutoencoder(), weights=lambda mask: mask if repaired else 1 - mask)


def decoder_without_positions(repaired: bool) -> Training:
    return autoencoder(MaskedAutoencoder(decoder_positions=repaired))


def constant_target(repaired: bool) -> Training:
    def target(signals: Tensor) -> Tensor:
        return signals if repaired else signals.clamp(max=-1.0)

    return autoencoder(MaskedAutoencoder(), target=target)


def masked_language_model(collate, **options: object) -> Training:
    """The training of a small BERT; the score is how many hidden words are found."""
    texts = walks(512, 10)
    model = libraries.bert(**options)

    def batch(step: int) -> tuple[dict[str, Tensor], None]:
        return collate(batches(texts)(step)[0].clone()), None

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        hidden = texts[:256].clone()
        hidden[:, 5] = MASK
        return agreement(model(input_ids=hidden).logits[:, 5].argmax(-1), texts[:256, 5])

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batch, lambda outputs, _: outputs.loss, optimizer, score, step=call_with_labels)


MASK = 2


def some(tokens: Tensor, rate: float = 0.2) -> Tensor:
    return (torch.rand(tokens.shape) < rate) & (tokens >= FIRST_WORD)


def labels_share_their_memory(repaired: bool) -> Training:
    def collate(tokens: Tensor) -> dict[str, Tensor]:
        labels = tokens.clone() if repaired else tokens
        hidden = some(tokens)
        tokens[hidden] = MASK
        return {"input_ids": tokens, "labels": torch.where(hidden, labels, -100)}

    return masked_language_model(collate)


def hidden_words_not_hidden(repaired: bool) -> Training:
    def collate(tokens: Tensor) -> dict[str, Tensor]:
        hidden = some(tokens)
        labels = tokens.masked_fill(~hidden, -100)
        inputs = tokens.masked_fill(hidden, MASK)
        return {"input_ids": inputs if repaired else tokens, "labels": labels}

    return masked_language_model(collate)


PROGRAMS = [
    Program(
        name="masked autoencoder with its loss on the visible patches",
        source="https://github.com/Sllambias/asparagus/pull/12",
        symptom="the loss becomes small, the hidden patches are noise",
        explanation="the mask of the loss is inverted, so only what the encoder sees is to be reconstructed",
        cause="loss on the wrong tokens",
        make=loss_on_visible_patches,
        steps=150,
        margin=0.15,
    ),
    Program(
        name="masked autoencoder whose decoder has no positions",
        source="",
        symptom="all hidden patches of an image are completed alike",
        explanation="the mask tokens are equal and nothing tells the decoder where they are; "
        "known from hand-written versions in which only the encoder adds positions",
        cause="positions missing",
        make=decoder_without_positions,
        steps=150,
        margin=0.1,
    ),
    Program(
        name="masked prediction of labels that are constant",
        source="https://github.com/lucidrains/vit-pytorch/issues/97",
        symptom="the loss is zero after a few steps",
        explanation="the patches are clamped to the wrong range before they become targets, so all targets are equal",
        cause="target wrong",
        make=constant_target,
        steps=150,
        margin=0.2,
    ),
    Program(
        name="BERT whose labels are its masked input",
        source="",
        symptom="the loss is nearly zero after a few steps, no hidden word is found",
        explanation="the labels are the same tensor as the input, so where a word is hidden, the label is the mask; "
        "known from collators that forget `clone`",
        cause="answer among the inputs",
        make=labels_share_their_memory,
        steps=150,
        margin=0.4,
    ),
    Program(
        name="BERT whose words are not hidden",
        source="",
        symptom="the loss goes to zero at once, and hidden words are not found",
        explanation="the labels are chosen, but the unmasked tensor is given to the model; "
        "known from collators that return the wrong one of two variables",
        cause="answer among the inputs",
        make=hidden_words_not_hidden,
        steps=200,
        margin=0.4,
    ),
]
