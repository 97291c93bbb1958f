"""Fine-tuning of language models: labels, masks, pooling."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_second.common import by_name, layer, signals, tiny_gpt
from modern_failures_strangers.data import ASK, agreement, batches, column, translations, walks
from modern_failures_strangers.program import Program
from real_failures.program import Training


class Classifier(nn.Module):
    """A causal model whose hidden state at one place is classified."""

    def __init__(self, place: int):
        super().__init__()
        self.body, self.head, self.place = tiny_gpt().transformer, nn.Linear(32, 4), place

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(input_ids=tokens).last_hidden_state[:, self.place])


def first_token_of_a_causal_model(repaired: bool) -> Training:
    tokens, labels, _ = signals(1280)
    model = Classifier(-1 if repaired else 0)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(tokens[1024:]).argmax(-1), labels[1024:])

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batches(tokens[:1024], labels[:1024]), F.cross_entropy, optimizer, score)


def mask_of_the_answer(repaired: bool) -> Training:
    questions, answers = translations(1280, length=2)
    texts = torch.cat([questions, column(1280, ASK), answers], 1)
    labels = texts.clone()
    if repaired:
        labels[:, :3] = -100
    else:
        labels[:, 3:] = -100
    model = tiny_gpt()

    def batch(step: int) -> tuple[dict[str, Tensor], Tensor]:
        some, some_labels = batches(texts[:1024], labels[:1024])(step)
        return {"input_ids": some, "labels": some_labels}, some_labels

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(texts[1024:]).logits[:, 2:4].argmax(-1), answers[1024:])

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    return Training(model, batch, lambda outputs, labels: outputs.loss, optimizer, score, step=by_name)


class Encoder(nn.Module):
    """A bidirectional encoder that classifies at its first place."""

    def __init__(self, inverted: bool):
        super().__init__()
        self.words, self.places = nn.Embedding(16, 32), nn.Parameter(0.3 * torch.randn(10, 32))
        self.layer, self.head, self.inverted = layer(), nn.Linear(32, 4), inverted

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        ignored = attention_mask.bool() if self.inverted else ~attention_mask.bool()
        hidden = self.layer(self.words(input_ids) + self.places, src_key_padding_mask=ignored)
        return self.head(hidden[:, 0])


def padding_mask_inverted(repaired: bool) -> Training:
    tokens, labels, mask = signals(1280, pads=True)
    model = Encoder(inverted=not repaired)

    def batch(step: int) -> tuple[dict[str, Tensor], Tensor]:
        some, some_mask, some_labels = batches(tokens[:1024], mask[:1024].long(), labels[:1024])(step)
        return {"input_ids": some, "attention_mask": some_mask}, some_labels

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(tokens[1024:], mask[1024:].long()).argmax(-1), labels[1024:])

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batch, F.cross_entropy, optimizer, score, step=by_name)


class Tagger(nn.Module):
    """A tag for each word."""

    def __init__(self):
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(16, 32), layer(), nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.words(tokens)))


def outside_tag_ignored(repaired: bool) -> Training:
    tokens = torch.randint(3, 16, (1280, 10))
    tags = (tokens - 12).clamp(min=0)
    length = torch.randint(5, 11, (1280, 1))
    real = torch.arange(10) < length
    tokens = tokens * real
    labels = torch.where(real, tags, -100 if repaired else 0)
    model = Tagger()

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.mT, labels, ignore_index=-100 if repaired else 0)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(tokens[1024:]).argmax(-1)[real[1024:]], tags[1024:][real[1024:]])

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batches(tokens[:1024], labels[:1024]), loss, optimizer, score)


class Sentiment(nn.Module):
    """One logit for a text."""

    def __init__(self):
        super().__init__()
        self.words, self.layer, self.head = nn.Embedding(16, 32), layer(), nn.Linear(32, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.words(tokens)).mean(1))


def cross_entropy_of_one_logit(repaired: bool) -> Training:
    tokens, labels, _ = signals(1280, classes=2)
    model = Sentiment()

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        targets = labels.float()[:, None]
        return F.binary_cross_entropy_with_logits(logits, targets) if repaired else F.cross_entropy(logits, targets)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement((model(tokens[1024:])[:, 0] > 0).long(), labels[1024:])

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batches(tokens[:1024], labels[:1024]), loss, optimizer, score)


def shifted_twice(repaired: bool) -> Training:
    texts = walks(1280, 9)
    model = tiny_gpt()

    def batch(step: int) -> tuple[dict[str, Tensor], Tensor]:
        (some,) = batches(texts[:1024])(step)
        if repaired:
            return {"input_ids": some, "labels": some}, some
        return {"input_ids": some[:, :-1], "labels": some[:, 1:]}, some[:, 1:]

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(texts[1024:, :-1]).logits.argmax(-1), texts[1024:, 1:])

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batch, lambda outputs, labels: outputs.loss, optimizer, score, step=by_name)


PROGRAMS = [
    Program(
        name="causal model pooled at its first token",
        source="https://github.com/mlfoundations/open_clip/issues/1151",
        symptom="the loss stays at the logarithm of the number of classes",
        explanation="the hidden state of the first token is classified, as for BERT, but under a causal mask "
        "this token sees only itself",
        cause="pooled where nothing is seen",
        make=first_token_of_a_causal_model,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="prompt trained and answer masked",
        source="https://github.com/tloen/alpaca-lora/issues/171",
        symptom="the loss stops early at a high value and the answers are random",
        explanation="-100 is written over the answer and not over the prompt",
        cause="mask of the labels inverted",
        make=mask_of_the_answer,
        steps=200,
        margin=0.3,
    ),
    Program(
        name="attention mask used as key padding mask",
        source="https://github.com/facebookresearch/detr/issues/96",
        symptom="the encoder learns nothing from the words",
        explanation="`src_key_padding_mask` is true where a key is ignored, and gets a mask that is one at real words: "
        "everything attends to padding only",
        cause="attention mask inverted",
        make=padding_mask_inverted,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="ignore index is a real class",
        source="https://github.com/nyu-mll/jiant/issues/925",
        symptom="the tagger finds names everywhere although the loss is small",
        explanation="`ignore_index=0`, because padding is 0, but 0 is also the tag of the words outside of names",
        cause="a class is left out of the loss",
        make=outside_tag_ignored,
        steps=60,
        margin=0.3,
    ),
    Program(
        name="cross-entropy of a single logit",
        source="https://github.com/darioizzo/dcgp/issues/86",
        symptom="the loss is exactly zero from the first step",
        explanation="a softmax over one logit is always one, so the loss and its gradient are zero",
        cause="loss over one class",
        make=cross_entropy_of_one_logit,
        steps=100,
        margin=0.3,
    ),
    Program(
        name="labels shifted by hand and by the model",
        source="https://github.com/huggingface/transformers/pull/47395",
        symptom="the loss falls as it should, and the generated text is wrong",
        explanation="the labels are shifted in the collator and again inside of the model, so it learns the "
        "token after the next",
        cause="labels shifted twice",
        make=shifted_twice,
        steps=100,
        margin=0.5,
    ),
]
