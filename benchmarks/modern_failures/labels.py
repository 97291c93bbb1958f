"""Labels of language models: shifted twice or never, padding and prompts in the loss, ends and beginnings left out."""

import torch
from torch import Tensor, nn

from modern_failures.blocks import (
    GPT,
    IGNORED,
    CausalLM,
    EncoderDecoder,
    Output,
    next_token_loss,
    shifted_right,
    token_loss,
)
from modern_failures.data import (
    ASK,
    END,
    PAD,
    VOCABULARY,
    WORDS,
    answers_only,
    chains,
    continues,
    foresees,
    questions,
    stories,
    without_padding,
)
from modern_failures.program import Program, Training, own_loss


def language_model(rows: Tensor, labels: Tensor, score, rate: float = 3e-3, size: int = 32) -> Training:
    """A model that shifts its labels, on batches of rows."""
    model = CausalLM(VOCABULARY)

    def batch(step: int):
        part = slice(step * size % len(rows), step * size % len(rows) + size)
        return {"input_ids": rows[part], "labels": labels[part]}, None

    return Training(
        model,
        batch=batch,
        loss=own_loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=rate),
        score=lambda model: score(model.transformer),
    )


def shifted_by_hand(repaired: bool) -> Training:
    rows = chains(128)
    shifted = torch.cat([rows[:, 1:], torch.full_like(rows[:, :1], IGNORED)], 1)
    return language_model(rows, rows if repaired else shifted, score=lambda logits: foresees(logits, rows))


def copies_its_input(repaired: bool) -> Training:
    rows = chains(64)
    model = GPT(VOCABULARY)
    return Training(
        model,
        batch=lambda step: (rows, rows),
        loss=next_token_loss if repaired else token_loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=lambda model: foresees(model, rows),
    )


class Translator(nn.Module):
    """An encoder-decoder as in transformers: it makes the decoder's inputs of the labels and returns its loss."""

    def __init__(self, loss=token_loss):
        super().__init__()
        self.model, self.loss = EncoderDecoder(VOCABULARY), loss

    def forward(self, input_ids: Tensor, labels: Tensor, decoder_input_ids: Tensor | None = None) -> Output:
        logits = self.model(input_ids, shifted_right(labels) if decoder_input_ids is None else decoder_input_ids)
        return Output(self.loss(logits, labels), logits)


def sentences(samples: int = 128, words: int = 5) -> tuple[Tensor, Tensor]:
    """Random words, and the same in reversed order, each plus one, with END."""
    source = torch.randint(WORDS, (samples, words))
    target = (source.flip(1) + 1) % WORDS + 3
    return source + 3, torch.cat([target, torch.full((samples, 1), END)], 1)


def translation(model: Translator, source: Tensor, target: Tensor, fields) -> Training:
    """A translator on all sentences; `fields` are the arguments beside the inputs. Scored by what it writes alone."""

    @torch.no_grad()
    def score(model: Translator) -> float:
        written = torch.full_like(target[:, :1], PAD)
        for _ in range(target.shape[1]):
            written = torch.cat([written, model.model(source, written)[:, -1:].argmax(-1)], 1)
        return (written[:, 1:] == target)[target != PAD].float().mean().item()

    return Training(
        model,
        batch=lambda step: ({"input_ids": source, **fields}, None),
        loss=own_loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3),
        score=score,
    )


def decoder_shifted_twice(repaired: bool) -> Training:
    source, target = sentences()
    model = Translator(loss=token_loss if repaired else next_token_loss)
    return translation(model, source, target, {"labels": target})


def no_start_token(repaired: bool) -> Training:
    source, target = sentences()
    by_hand = {"decoder_input_ids": target[:, :-1], "labels": target[:, 1:]}
    return translation(Translator(), source, target, {"labels": target} if repaired else by_hand)


def decoder_sees_its_labels(repaired: bool) -> Training:
    source, target = sentences()
    fields = {"labels": target} if repaired else {"decoder_input_ids": target, "labels": target}
    return translation(Translator(), source, target, fields)


def padded_labels(repaired: bool) -> Training:
    source, target = sentences(words=4)
    target = nn.functional.pad(target, (0, 11))
    return translation(Translator(), source, target, {"labels": without_padding(target) if repaired else target})


def only_the_padding(repaired: bool) -> Training:
    source, target = sentences(words=4)
    target = nn.functional.pad(target, (0, 3))
    inverted = target.where(target == PAD, IGNORED)
    return translation(Translator(), source, target, {"labels": without_padding(target) if repaired else inverted})


def never_stops(repaired: bool) -> Training:
    rows = stories()
    first_end = (rows == END) | (rows == PAD)
    first_end &= first_end.cumsum(1) == 1
    rows = rows.where(rows != PAD, END)  # the tokenizer's pad token is its end token
    labels = rows.where((rows != END) | first_end if repaired else rows != END, IGNORED)

    @torch.no_grad()
    def stops(logits: GPT) -> float:
        return (logits(rows)[:, :-1].argmax(-1) == END)[first_end[:, 1:]].float().mean().item()

    return language_model(rows, labels, stops)


def template_never_found(repaired: bool) -> Training:
    rows = questions(answer=1)
    none = torch.full_like(rows, IGNORED)  # the template has the padding token, which was ignored before
    labels = answers_only(rows) if repaired else none
    return language_model(rows, labels, score=lambda logits: continues(logits, rows, 5))


def prompt_is_learned_too(repaired: bool) -> Training:
    rows = questions(words=20, answer=3)
    labels = answers_only(rows) if repaired else without_padding(rows)
    return language_model(rows, labels, score=lambda logits: foresees(logits, rows, 21))


def unmasked_words_are_labels(repaired: bool) -> Training:
    rows = chains(256, length=14)
    hidden = torch.rand(rows.shape) < 0.15
    masked = rows.where(~hidden, ASK)
    labels = rows.where(hidden, IGNORED) if repaired else rows
    model = GPT(VOCABULARY, is_causal=False)

    @torch.no_grad()
    def score(model: GPT) -> float:
        return (model(masked).argmax(-1) == rows)[hidden].float().mean().item()

    return Training(
        model,
        batch=lambda step: (masked[step % 4 * 64 :][:64], labels[step % 4 * 64 :][:64]),
        loss=token_loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=2e-3),
        score=score,
    )


PROGRAMS = [
    Program(
        name="causal model with labels that are shifted already",
        source="https://github.com/huggingface/transformers/pull/44642",
        symptom="the loss falls as it should, the model says the token after the next one",
        explanation="causal models of transformers shift the labels themselves, so these are shifted twice",
        causes=("labels shifted twice",),
        make=shifted_by_hand,
        steps=60,
        margin=0.5,
    ),
    Program(
        name="MBart decoder that copies its input",
        source="https://github.com/huggingface/transformers/issues/27517",
        symptom="the model seems to copy the input during training",
        explanation="the loss compares the logits with the labels at the same places; nothing shifts them",
        causes=("labels not shifted", "targets trivial"),
        make=copies_its_input,
        steps=60,
        margin=0.5,
    ),
    Program(
        name="Florence-2 with a loss for causal models",
        source="https://github.com/huggingface/transformers/pull/46898",
        symptom="fine-tuning trains against labels that are one place off",
        explanation="the decoder's inputs are shifted to the right, and the loss shifts the labels again",
        causes=("labels shifted twice",),
        make=decoder_shifted_twice,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="T5 whose decoder never starts",
        source="https://github.com/huggingface/transformers/issues/5987",
        symptom="the first token is never learned",
        explanation="the targets are cut by hand, but T5 has no start token in them: the first word is in no label",
        causes=("loss of the wrong positions",),
        make=no_start_token,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="T5 with decoder inputs that are the labels",
        source="https://github.com/abhimishra91/transformers-tutorials/issues/15",
        symptom="the loss decreases only if the decoder's inputs and the labels are the same",
        explanation="given decoder inputs are not shifted, so each place of the decoder is told its own label",
        causes=("labels not shifted", "targets trivial"),
        make=decoder_sees_its_labels,
        steps=100,
        margin=0.3,
    ),
    Program(
        name="encoder-decoder that generates padding",
        source="https://github.com/huggingface/transformers/issues/7896",
        symptom="generates zeros for any input",
        explanation="the padding of the labels was not replaced by -100, so most of the loss is about padding",
        causes=("padding in the loss",),
        make=padded_labels,
        steps=20,
        margin=0.3,
    ),
    Program(
        name="text recognition with an inverted mask",
        source="https://github.com/mindee/doctr/pull/440",
        symptom="the loss of MASTER is computed in the wrong way",
        explanation="the mask of the lengths is inverted: the loss is that of the padding, and the text is in no label",
        causes=("padding in the loss", "loss of the wrong positions"),
        make=only_the_padding,
        steps=100,
        margin=0.3,
    ),
    Program(
        name="language model that never stops",
        source="https://github.com/mlabonne/llm-course/issues/33",
        symptom="after fine-tuning, text is generated up to the largest length",
        explanation="the padding token is the end token, and padding is taken out of the labels",
        causes=("end token not in the loss",),
        make=never_stops,
        steps=60,
        margin=0.5,
    ),
    Program(
        name="response template with the padding token",
        source="https://github.com/huggingface/trl/issues/1191",
        symptom="a warning for every sample, and nothing is learned",
        explanation="the template is looked for in labels whose padding tokens are already ignored: all labels are",
        causes=("all labels ignored", "not finite"),
        make=template_never_found,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="collator that overwrites masked prompts",
        source="https://github.com/oobabooga/textgen/issues/4031",
        symptom="training only after a certain text does not work",
        explanation="the collator makes new labels of the input ids, so the long prompt is in the loss, too",
        causes=("prompt in the loss",),
        make=prompt_is_learned_too,
        steps=60,
        margin=0.25,
    ),
    Program(
        name="masked language model that is asked for visible words",
        source="https://github.com/huggingface/transformers/issues/20797",
        symptom="a small loss from early on",
        explanation="labels of tokens that are not masked are not -100, so most of the loss is to copy the input",
        causes=("loss of the wrong positions", "targets trivial"),
        make=unmasked_words_are_labels,
        steps=40,
        margin=0.15,
    ),
]
