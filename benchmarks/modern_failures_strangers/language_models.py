"""Fine-tuning of language models: labels that are shifted wrongly, ends that are never taught, tokens left out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_strangers import libraries
from modern_failures_strangers.data import ASK, END, FIRST_WORD, PAD, agreement, batches, column, translations, walks
from modern_failures_strangers.libraries import call_with_labels
from modern_failures_strangers.networks import GPT, Attention, causal
from modern_failures_strangers.program import Program
from real_failures.program import Training


def conversations(rows: int = 256, ended: bool = True) -> Tensor:
    """A question of three words, a mark, the answer and an end."""
    questions, answers = translations(rows)
    return torch.cat([questions, column(rows, ASK), answers, *([column(rows, END)] if ended else [])], 1)


def answers_right(model: nn.Module, texts: Tensor, logits=lambda model, tokens: model(tokens)) -> float:
    """Fraction of the tokens after the mark that greedy decoding gets right."""
    tokens = texts[:64, :4]
    with torch.no_grad():
        for _ in range(texts.shape[1] - 4):
            tokens = torch.cat([tokens, logits(model, tokens)[:, -1].argmax(-1, keepdim=True)], 1)
    return agreement(tokens[:, 4:], texts[:64, 4:])


def answering(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None, after=None, lr: float = 3e-3
) -> Training:
    """A language model that learns to answer; loss and score are of the answers only."""
    texts = conversations(ended=False)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(texts[:, :-1])[:, 3:].argmax(-1), texts[:, 4:])

    if optimizer is None:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    return Training(
        model,
        batch=batches(texts, texts),
        loss=lambda logits, labels: F.cross_entropy(logits[:, 3:-1].flatten(0, 1), labels[:, 4:].flatten()),
        optimizer=optimizer,
        score=score,
        after=after,
    )


def labels_shifted_twice(repaired: bool) -> Training:
    texts = conversations()
    model = libraries.gpt2()
    batch = batches(texts)

    def collate(step: int) -> tuple[dict[str, Tensor], None]:
        (tokens,) = batch(step)
        if repaired:
            return {"input_ids": tokens, "labels": tokens}, None
        return {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:]}, None

    return Training(
        model,
        batch=collate,
        loss=lambda outputs, _: outputs.loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=lambda model: answers_right(model, texts, lambda model, tokens: model(tokens).logits),
        step=call_with_labels,
    )


def smoothed_labels_unshifted(repaired: bool) -> Training:
    texts = walks(256, 9)
    model = libraries.llama()

    def compute_loss(outputs, labels: Tensor) -> Tensor:
        logits = outputs.logits
        if repaired:
            logits, labels = logits[:, :-1], labels[:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(texts[:, :-1]).logits.argmax(-1), texts[:, 1:])

    return Training(
        model,
        batch=batches(texts, texts),
        loss=compute_loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=score,
    )


def decoder_sees_its_labels(repaired: bool) -> Training:
    questions, answers = translations(256)
    model = libraries.t5()

    def collate(step: int) -> tuple[dict[str, Tensor], None]:
        question, answer = batches(questions, answers)(step)
        inputs = {"input_ids": question, "labels": answer}
        return inputs if repaired else inputs | {"decoder_input_ids": answer}, None

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        written = column(64, PAD)
        for _ in range(3):
            logits = model(input_ids=questions[:64], decoder_input_ids=written).logits
            written = torch.cat([written, logits[:, -1:].argmax(-1)], 1)
        return agreement(written[:, 1:], answers[:64])

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Training(model, collate, lambda outputs, _: outputs.loss, optimizer, score, step=call_with_labels)


def end_masked_as_padding(repaired: bool) -> Training:
    texts = conversations()
    padded = torch.cat([texts, torch.full((256, 3), PAD if repaired else END)], 1)
    model = GPT(12, 16)

    def loss(logits: Tensor, tokens: Tensor) -> Tensor:
        labels = tokens.masked_fill(tokens == (PAD if repaired else END), -100)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)

    @torch.no_grad()
    def stops(model: GPT) -> float:
        return (model.complete(texts[:64, :4], 6) == END).any(1).float().mean().item()

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batches(padded, padded), loss, optimizer, stops)


def end_never_appended(repaired: bool) -> Training:
    texts = conversations(ended=repaired)
    model = GPT(12, 16, layers=2)

    def loss(logits: Tensor, tokens: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, 3:-1].flatten(0, 1), tokens[:, 4:].flatten())

    @torch.no_grad()
    def stops(model: GPT) -> float:
        return (model.complete(texts[:64, :4], 8) == END).any(1).float().mean().item()

    return Training(
        model,
        batch=batches(texts, texts),
        loss=loss,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        score=stops,
    )


def truncated_before_the_answer(repaired: bool) -> Training:
    texts = conversations()
    limit = 8 if repaired else 4
    labels = texts.clone()
    labels[:, :4] = -100
    model = GPT(12, 16)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits[:, :-1].mT, labels[:, 1:], ignore_index=-100, reduction="none")
        return losses.sum() / (labels[:, 1:] != -100).sum().clamp(min=1)

    return Training(
        model,
        batch=lambda step: tuple(rows[:, :limit] for rows in batches(texts, labels)(step)),
        loss=loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=lambda model: answers_right(model, texts),
    )


def template_of_the_answer_not_found(repaired: bool) -> Training:
    texts = conversations()
    mark = ASK if repaired else 11
    texts[texts == 11] = 10
    model = GPT(12, 16)

    def mask_question(tokens: Tensor) -> Tensor:
        begun = (tokens == mark).cumsum(1) - (tokens == mark).long() > 0
        return tokens.masked_fill(~begun, -100)

    return Training(
        model,
        batch=lambda step: (batches(texts)(step)[0], mask_question(batches(texts)(step)[0])),
        loss=lambda logits, labels: F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()),
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=lambda model: answers_right(model, texts),
    )


def loss_on_long_questions(repaired: bool) -> Training:
    chatter = torch.randint(FIRST_WORD, 20, (1024, 40))
    words, meanings = translations(1024, 1, 20)
    texts = torch.cat([chatter, words, column(1024, ASK), meanings], 1)
    labels = texts.clone()
    if repaired:
        labels[:, :-1] = -100
    model = GPT(20, 43, width=24)

    @torch.no_grad()
    def score(model: GPT) -> float:
        return agreement(model(texts[:128, :-1])[:, -1].argmax(-1), texts[:128, -1])

    return Training(
        model,
        batch=batches(texts, labels),
        loss=lambda logits, labels: F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()),
        optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3),
        score=score,
    )


def what_was_the_first_word(length: int) -> Tensor:
    """A text of some words, a mark, and its first word again."""
    words = torch.randint(FIRST_WORD, 12, (length,))
    return torch.cat([words, torch.tensor([ASK]), words[:1]])


def pack(lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Texts of these lengths in a row; the number of its text and the place in it, for each token."""
    texts = [what_was_the_first_word(length) for length in lengths.tolist()]
    own = torch.cat([torch.full((len(text),), number) for number, text in enumerate(texts)])
    places = torch.cat([torch.arange(len(text)) for text in texts])
    return torch.cat(texts), own, places


def packed_texts_see_each_other(repaired: bool) -> Training:
    rows = [pack(torch.tensor([5, 4, 3, 2])) for _ in range(256)]
    tokens, own, places = (torch.stack(part) for part in zip(*rows, strict=True))
    alone = torch.stack([what_was_the_first_word(2) for _ in range(128)])
    model = GPT(12, 22)

    def call(training: Training, inputs: tuple[Tensor, Tensor, Tensor], _: object) -> None:
        tokens, own, places = inputs
        blocks = (own[:, None, :, None] == own[:, None, None]) & causal(22)
        logits = training.model(tokens, blocks, places) if repaired else training.model(tokens)
        training.optimizer.zero_grad()
        training.loss(logits, tokens.masked_fill(tokens.roll(1, 1) != ASK, -100)).backward()
        training.optimizer.step()

    @torch.no_grad()
    def score(model: GPT) -> float:
        return agreement(model(alone[:, :-1])[:, -1].argmax(-1), alone[:, -1])

    return Training(
        model,
        batch=lambda step: (batches(tokens, own, places)(step), None),
        loss=lambda logits, labels: F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()),
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=score,
        step=call,
    )


class ScrambledHeads(Attention):
    """Puts the heads side by side without moving their axis behind the tokens first."""

    def forward(self, states: Tensor, mask: Tensor | None = None, memory: Tensor | None = None) -> Tensor:
        query, key, value = self.split(self.query(states)), self.split(self.key(states)), self.split(self.value(states))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(mixed.reshape(states.shape))


def heads_reshaped_without_transposing(repaired: bool) -> Training:
    texts = conversations()
    model = GPT(12, 8)
    if not repaired:
        model.blocks[0].attention = ScrambledHeads(32)
    return Training(
        model,
        batch=batches(texts, texts),
        loss=lambda logits, labels: F.cross_entropy(logits[:, 3:-1].flatten(0, 1), labels[:, 4:].flatten()),
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=lambda model: answers_right(model, texts),
    )


PROGRAMS = [
    Program(
        name="GPT-2 with labels that are shifted twice",
        source="https://github.com/huggingface/transformers/pull/47395",
        symptom="the training loss falls, the generated answers are garbage",
        explanation="the labels are shifted by hand, and the model shifts them again: it learns the next token but one",
        cause="labels shifted wrongly",
        make=labels_shifted_twice,
        steps=120,
        margin=0.5,
    ),
    Program(
        name="label smoothing without the shift",
        source="https://github.com/huggingface/transformers/issues/27161",
        symptom="the loss falls at once to its floor, and the model repeats its input",
        explanation="the loss with smoothing is computed outside of the model and forgets to shift the labels",
        cause="labels shifted wrongly",
        make=smoothed_labels_unshifted,
        steps=100,
        margin=0.5,
    ),
    Program(
        name="T5 whose decoder is given its labels",
        source="https://github.com/abhimishra91/transformers-tutorials/issues/15",
        symptom="the loss goes to zero in a few steps, and the output is empty or wrong",
        explanation="the decoder's inputs are the labels themselves, not shifted to the right, so it copies them",
        cause="answer among the inputs",
        make=decoder_sees_its_labels,
        steps=150,
        margin=0.2,
    ),
    Program(
        name="end of text used for padding",
        source="https://github.com/mlabonne/llm-course/issues/33",
        symptom="the fine-tuned model never stops",
        explanation="padding is the end token, and where labels are padding they are ignored, the real end too",
        cause="end never taught",
        make=end_masked_as_padding,
        steps=120,
        margin=0.7,
    ),
    Program(
        name="texts without an end token",
        source="https://github.com/huggingface/trl/issues/1623",
        symptom="the fine-tuned model goes on to the maximal length",
        explanation="the preparation of the data does not append an end token to the answers",
        cause="end never taught",
        make=end_never_appended,
        steps=120,
        margin=0.7,
    ),
    Program(
        name="maximal length shorter than the questions",
        source="https://github.com/huggingface/trl/pull/6320",
        symptom="the loss is 0.0 from the first step, without an error",
        explanation="truncation removes all tokens of the answer, and no label is left",
        cause="no labels left",
        make=truncated_before_the_answer,
        steps=100,
        margin=0.5,
    ),
    Program(
        name="response template that does not occur",
        source="https://github.com/datawhalechina/happy-llm/issues/50",
        symptom="the loss is NaN",
        explanation="the mark of the answer is tokenised differently in the text, so every label is ignored",
        cause="no labels left",
        make=template_of_the_answer_not_found,
        steps=100,
        margin=0.5,
    ),
    Program(
        name="collator that overwrites the masked labels",
        source="https://github.com/oobabooga/textgen/issues/4031",
        symptom="the loss stays high and the answers are bad, although the labels of the prompt were masked",
        explanation="the collator copies the input over the labels, so the loss is on the long random questions",
        cause="loss on the wrong tokens",
        make=loss_on_long_questions,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="packing without a mask",
        source="https://github.com/huggingface/trl/issues/1230",
        symptom="with packing the fine-tuned model is worse than without",
        explanation="the texts of a packed row attend to each other, and their positions run on",
        cause="texts see each other",
        make=packed_texts_see_each_other,
        steps=40,
        margin=0.15,
    ),
    Program(
        name="heads put together without a transposition",
        source="https://github.com/jsbaan/transformer-from-scratch/pull/6",
        symptom="the loss falls, and what is generated is wrong",
        explanation="the heads are reshaped before their axis is moved, so tokens are mixed, also with later ones",
        cause="axes scrambled",
        make=heads_reshaped_without_transposing,
        steps=100,
        margin=0.2,
    ),
]
