"""What a token may look at: later tokens, padding, other documents of a packed row, an image that never arrives."""

import torch
from torch import Tensor, nn

from modern_failures.blocks import GPT, IGNORED, CausalLM, next_token_loss
from modern_failures.data import ASK, END, PAD, VOCABULARY, WORDS, continues, walks
from modern_failures.program import Program, Training, own_loss

PER_ROW = 4
"""Documents of a packed row."""


def documents(samples: int, related: bool) -> list[Tensor]:
    """Questions of two to five words whose answer is the sum of the first two; those of a row are alike if related."""
    pairs = torch.randint(WORDS, (samples, 2))
    if related:
        pairs = pairs[::PER_ROW].repeat_interleave(PER_ROW, 0)
    rows = []
    for pair in pairs:
        others = torch.randint(WORDS, (int(torch.randint(4, ())),)) + 3
        rows.append(torch.cat([pair + 3, others, torch.tensor([ASK, pair.sum() % WORDS + 3, END])]))
    return rows


def packed(rows: list[Tensor], length: int = 32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of several documents: tokens, labels of the answers, numbers of the documents, places within them."""
    fields: list[list[Tensor]] = [[], [], [], []]
    for start in range(0, len(rows), PER_ROW):
        group = rows[start : start + PER_ROW]
        tokens = torch.cat(group)
        numbers = torch.cat([torch.full_like(row, number) for number, row in enumerate(group)])
        places = torch.cat([torch.arange(len(row)) for row in group])
        labels = tokens.where(torch.cat([tokens[:1], tokens[:-1]]) == ASK, IGNORED)
        for field, values, empty in zip(fields, (tokens, labels, numbers, places), (PAD, IGNORED, -1, 0), strict=True):
            field.append(nn.functional.pad(values, (0, length - len(tokens)), value=empty))
    tokens, labels, numbers, places = map(torch.stack, fields)
    return tokens, labels, numbers, places


def answers_alone(model: CausalLM) -> float:
    """Fraction of new documents, each in a row of its own, that are answered."""
    alone = documents(100, related=False)
    return sum(continues(model.transformer, row[None, :-1], len(row) - 2) for row in alone) / len(alone)


def packing(related: bool, mask: bool, restart: bool) -> Training:
    """A language model on packed rows, scored on the answers to single documents."""
    tokens, labels, numbers, places = packed(documents(512, related))
    visible = numbers[:, :, None] == numbers[:, None] if mask else torch.ones(len(tokens), 32, 32)
    if not restart:
        places = torch.arange(32).expand(len(tokens), -1)
    model = CausalLM(VOCABULARY)

    def batch(step: int):
        part = slice(step % 8 * 16, step % 8 * 16 + 16)
        fields = {"input_ids": tokens, "labels": labels, "attention_mask": visible, "position_ids": places}
        return {name: field[part] for name, field in fields.items()}, None

    return Training(
        model,
        batch=batch,
        loss=own_loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3),
        score=answers_alone,
    )


def answers_of_the_document_before(repaired: bool) -> Training:
    return packing(related=True, mask=repaired, restart=True)


def places_run_on(repaired: bool) -> Training:
    return packing(related=False, mask=True, restart=repaired)


def padding_moves_the_text(repaired: bool) -> Training:
    texts = documents(256, related=False)
    longest = max(map(len, texts)) + 6
    tokens = torch.stack([nn.functional.pad(text, (longest - len(text), 0), value=PAD) for text in texts])
    mask = (tokens != PAD).long()
    before = torch.cat([tokens[:, :1], tokens[:, :-1]], 1)
    labels = tokens.where(before == ASK, IGNORED)
    places = (mask.cumsum(1) - 1).clamp(min=0) if repaired else torch.arange(longest).expand(len(texts), -1)
    model = CausalLM(VOCABULARY)
    fields = {"input_ids": tokens, "labels": labels, "attention_mask": mask, "position_ids": places}
    return Training(
        model,
        batch=lambda step: ({name: field[step % 4 * 64 :][:64] for name, field in fields.items()}, None),
        loss=own_loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3),
        score=answers_alone,
    )


def later_tokens_are_visible(repaired: bool) -> Training:
    rows = walks(64)
    model = GPT(VOCABULARY, is_causal=repaired)
    return Training(
        model,
        batch=lambda step: (rows, rows),
        loss=next_token_loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=lambda model: continues(model, rows, 3, 6),
    )


class Judge(nn.Module):
    """A BERT with a head on the mean of its hidden states: which word is the most frequent?"""

    def __init__(self):
        super().__init__()
        self.bert, self.classifier = GPT(VOCABULARY, is_causal=False), nn.Linear(32, WORDS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.bert.hidden(input_ids, attention_mask)
        weights = attention_mask[..., None].float()
        return self.classifier((hidden * weights).sum(1) / weights.sum(1))


def padding_is_attended(repaired: bool) -> Training:
    labels = torch.randint(WORDS, (256,))
    count = torch.randint(3, 8, (256, 1))
    words = torch.where(torch.rand(256, 24) < 0.5, labels[:, None], torch.randint(WORDS, (256, 24))) + 3
    texts = words.where(torch.arange(24) < count, PAD)
    masks = (texts != PAD).long() if repaired else torch.ones_like(texts)
    model = Judge()

    @torch.no_grad()
    def score(model: Judge) -> float:
        guesses = [model(row[row != PAD][None], torch.ones(1, int((row != PAD).sum()))).argmax(-1) for row in texts]
        return (torch.cat(guesses) == labels).float().mean().item()

    def batch(step: int):
        part = slice(step % 4 * 64, step % 4 * 64 + 64)
        return {"input_ids": texts[part], "attention_mask": masks[part]}, labels[part]

    return Training(
        model,
        batch=batch,
        loss=nn.functional.cross_entropy,
        optimizer=torch.optim.AdamW(model.parameters(), lr=2e-3),
        score=score,
    )


class Captioner(nn.Module):
    """A language model that reads the projected features of an image as its first token."""

    def __init__(self, features: int, width: int = 32):
        super().__init__()
        self.language, self.projector = GPT(VOCABULARY, width), nn.Linear(features, width)

    def forward(self, image: Tensor, input_ids: Tensor) -> Tensor:
        language = self.language
        hidden = torch.cat([self.projector(image)[:, None], language.tokens(input_ids)], 1)
        hidden = hidden + language.places.weight[: hidden.shape[1]]
        visible = torch.ones(hidden.shape[1], hidden.shape[1], dtype=torch.bool).tril()
        for block in language.blocks:
            hidden = block(hidden, visible)
        return language.head(language.norm(hidden))[:, :-1]


def images_are_left_out(repaired: bool) -> Training:
    words = torch.randint(WORDS, (256, 4))
    images = torch.nn.functional.one_hot(words, WORDS).float().flatten(1) + 0.1 * torch.randn(256, 4 * WORDS)
    captions = words + 3
    model = Captioner(4 * WORDS)

    def batch(step: int):
        part = slice(step % 4 * 64, step % 4 * 64 + 64)
        pixels = images[part] if repaired else torch.zeros_like(images[part])  # the processor got images=None
        return {"image": pixels, "input_ids": captions[part]}, captions[part]

    @torch.no_grad()
    def score(model: Captioner) -> float:
        return (model(images, captions).argmax(-1) == captions).float().mean().item()

    return Training(
        model,
        batch=batch,
        loss=lambda logits, words: nn.functional.cross_entropy(logits.flatten(0, 1), words.flatten()),
        optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3),
        score=score,
    )


PROGRAMS = [
    Program(
        name="packed samples that see each other",
        source="https://github.com/unslothai/unsloth/issues/126",
        symptom="fine-tuning on packed samples that are alike makes a model that cheats",
        explanation="the causal mask of a packed row lets a sample read the answers of the samples before it",
        causes=("documents of a packed row visible",),
        make=answers_of_the_document_before,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="packed samples whose places run on",
        source="https://github.com/hiyouga/LlamaFactory/pull/7318",
        symptom="packing differs from no packing although the mask separates the samples",
        explanation="position ids are not given, so a later sample of a row starts at a place where none ever does",
        causes=("positions wrong",),
        make=places_run_on,
        steps=120,
        margin=0.3,
    ),
    Program(
        name="texts that padding moves",
        source="https://github.com/tloen/alpaca-lora/issues/315",
        symptom="a question whether padding on the left side costs performance",
        explanation="position ids count the padding, so texts begin at places where they never do alone",
        causes=("positions wrong",),
        make=padding_moves_the_text,
        steps=120,
        margin=0.2,
    ),
    Program(
        name="RoFormer that attends to future tokens",
        source="https://github.com/huggingface/transformers/issues/48745",
        symptom="the loss falls to almost zero, even on random tokens",
        explanation="the decoder is not causal: each place sees the token that is its label",
        causes=("later tokens visible",),
        make=later_tokens_are_visible,
        steps=60,
        margin=0.4,
    ),
    Program(
        name="BERT whose mask is all ones",
        source="https://github.com/yg211/bert_nli/pull/3",
        symptom="accuracy improves when padded tokens are masked",
        explanation="the attention mask is initialised with ones, so texts are mixed with their padding",
        causes=("padding visible",),
        make=padding_is_attended,
        steps=60,
        margin=0.1,
    ),
    Program(
        name="vision language model without its images",
        source="https://github.com/Blaizzy/mlx-vlm/pull/823",
        symptom="the loss is stuck, and the adapted model writes image tokens",
        explanation="the data set hands no images to the processor, so the model trains on placeholders",
        causes=("condition ignored", "inputs hidden"),
        make=images_are_left_out,
        steps=150,
        margin=0.3,
    ),
]
