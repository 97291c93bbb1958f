"""Padding that is read as content, and masks that hide the wrong side."""

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from modern_failures_strangers import libraries
from modern_failures_strangers.data import ASK, FIRST_WORD, PAD, agreement, batches, column, translations
from modern_failures_strangers.libraries import call_with_labels
from modern_failures_strangers.networks import GPT, Attention, Encoder, causal
from modern_failures_strangers.program import Program
from real_failures.program import Training


def padded_texts(rows: int, longest: int, vocabulary: int = 12, shortest: int = 2) -> Tensor:
    """Random words, padded on the right."""
    lengths = torch.randint(shortest, longest + 1, (rows, 1))
    return torch.randint(FIRST_WORD, vocabulary, (rows, longest)) * (torch.arange(longest) < lengths)


class RewardModel(nn.Module):
    """A frozen language model and a head; the head reads the last token that is not `pad`."""

    def __init__(self, pad: int | None):
        super().__init__()
        self.body = libraries.llama(kind=transformers.LlamaModel).requires_grad_(False)
        self.score = nn.Linear(32, 1, bias=False)
        self.pad = pad

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.body(input_ids=tokens, attention_mask=(tokens != PAD).long()).last_hidden_state
        scores = self.score(states)[..., 0]
        last = torch.full_like(tokens[:, 0], -1) if self.pad is None else (tokens != self.pad).sum(1) - 1
        return scores[torch.arange(len(tokens)), last]


def reward_at_the_padding(repaired: bool) -> Training:
    texts = padded_texts(512, 10)
    last = (texts != PAD).sum(1, keepdim=True) - 1
    good = texts.gather(1, last)[:, 0] > 7
    chosen, rejected = texts[good], texts[~good]
    pairs = min(len(chosen), len(rejected))
    model = RewardModel(PAD if repaired else None)

    def batch(step: int) -> tuple[Tensor, None]:
        return torch.cat(batches(chosen[:pairs], rejected[:pairs])(step)), None

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return (model(chosen[:pairs]) > model(rejected[:pairs])).float().mean().item()

    def loss(rewards: Tensor, _: None) -> Tensor:
        chosen, rejected = rewards.chunk(2)
        return -F.logsigmoid(chosen - rejected).mean()

    return Training(model, batch, loss, torch.optim.AdamW(model.score.parameters(), lr=1e-2), score)


def reward_at_the_first_token(repaired: bool) -> Training:
    texts = torch.randint(FIRST_WORD, 12, (512, 6))
    labels = (texts[:, 1:].amax(1) > 10).long()
    model = GPT(12, 6)
    model.head = nn.Linear(32, 2)

    def read(model: GPT, texts: Tensor) -> Tensor:
        return model.head(model.hidden(texts)[:, -1 if repaired else 0])

    def call(training: Training, texts: Tensor, labels: Tensor) -> None:
        loss = training.loss(read(training.model, texts), labels)
        loss.backward()
        training.optimizer.step()
        training.optimizer.zero_grad()

    @torch.no_grad()
    def score(model: GPT) -> float:
        return agreement(read(model, texts).argmax(-1), labels)

    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return Training(model, batches(texts, labels), F.cross_entropy, optimizer, score, step=call)


class SentenceEncoder(nn.Module):
    """The mean of the states of a text, projected; with or without its padding."""

    def __init__(self, without_padding: bool, vocabulary: int = 40, length: int = 30):
        super().__init__()
        self.encoder, self.project = Encoder(vocabulary, length, width=32), nn.Linear(32, 16)
        self.without_padding = without_padding

    def forward(self, tokens: Tensor) -> Tensor:
        words = (tokens != PAD)[..., None].float()
        states = self.encoder(tokens, (tokens != PAD)[:, None, None])
        if self.without_padding:
            return self.project((states * words).sum(1) / words.sum(1))
        return self.project(states.mean(1))


def mean_over_padding(repaired: bool) -> Training:
    words = torch.randint(FIRST_WORD, 40, (512, 4))
    model = SentenceEncoder(without_padding=repaired)

    def loss(embeddings: Tensor, _: None) -> Tensor:
        one, other = F.normalize(embeddings, dim=-1).chunk(2)
        return F.cross_entropy(10 * one @ other.mT, torch.arange(len(one)))

    def batch(step: int) -> tuple[Tensor, None]:
        (texts,) = batches(words)(step)
        longest_in_the_batch = int(torch.randint(12, 27, ()))
        return F.pad(torch.cat([texts, texts.flip(1)]), (0, longest_in_the_batch)), None

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        one, other = F.normalize(model(words[:128]), dim=-1), F.normalize(model(F.pad(words[:128], (0, 26))), dim=-1)
        return agreement((one @ other.mT).argmax(1), torch.arange(128))

    return Training(model, batch, loss, torch.optim.AdamW(model.parameters(), lr=3e-3), score)


def answers_mostly_padding(repaired: bool) -> Training:
    questions, answers = translations(256)
    labels = F.pad(answers, (0, 24), value=-100 if repaired else PAD)
    model = libraries.t5()

    def collate(step: int) -> tuple[dict[str, Tensor], None]:
        question, label = batches(questions, labels)(step)
        return {"input_ids": question, "labels": label}, None

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        logits = model(input_ids=questions[:128], labels=answers[:128]).logits
        return agreement(logits.argmax(-1), answers[:128])

    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    return Training(model, collate, lambda outputs, _: outputs.loss, optimizer, score, step=call_with_labels)


class Reader(nn.Module):
    """An encoder of the library torch; says which word of a text is the largest."""

    def __init__(self, inverted: bool, width: int = 32):
        super().__init__()
        self.words = nn.Embedding(12, width)
        layer = nn.TransformerEncoderLayer(width, 2, 64, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.output = nn.Linear(width, 12)
        self.inverted = inverted

    def forward(self, tokens: Tensor) -> Tensor:
        attention_mask = tokens != PAD
        hide = attention_mask if self.inverted else ~attention_mask
        return self.output(self.encoder(self.words(tokens), src_key_padding_mask=hide)[:, 0])


def padding_mask_inverted(repaired: bool) -> Training:
    texts = F.pad(padded_texts(512, 6), (0, 1))
    largest = texts.amax(1)
    model = Reader(inverted=not repaired)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(texts[:256]).argmax(-1), largest[:256])

    return Training(
        model,
        batch=batches(texts, largest),
        loss=F.cross_entropy,
        optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
        score=score,
    )


def causal_mask_upside_down(repaired: bool) -> Training:
    questions, answers = translations(256)
    texts = torch.cat([questions, column(256, ASK), answers], 1)
    model = GPT(12, 8)
    allowed = causal(6) if repaired else causal(6).mT

    def call(training: Training, tokens: Tensor, labels: Tensor) -> None:
        training.optimizer.zero_grad(set_to_none=True)
        training.loss(training.model(tokens, mask=allowed), labels).backward()
        training.optimizer.step()

    @torch.no_grad()
    def score(model: GPT) -> float:
        return agreement(model.complete(texts[:128, :4], 3)[:, 4:], answers[:128])

    return Training(
        model,
        batch=lambda step: (batches(texts)(step)[0][:, :-1], batches(texts)(step)[0][:, 1:]),
        loss=lambda logits, labels: F.cross_entropy(logits[:, 3:].flatten(0, 1), labels[:, 3:].flatten()),
        optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3),
        score=score,
        step=call,
    )


class Translator(nn.Module):
    """Reads a question by cross-attention, or by mistake itself."""

    def __init__(self, reads_the_question: bool, width: int = 32):
        super().__init__()
        self.words, self.places = nn.Embedding(12, width), nn.Parameter(torch.randn(3, width))
        self.cross, self.head = Attention(width), nn.Linear(width, 12)
        self.reads_the_question = reads_the_question

    def forward(self, questions: Tensor) -> Tensor:
        memory = self.words(questions) + self.places
        written = self.places.expand_as(memory)
        return self.head(written + self.cross(written, memory=memory if self.reads_the_question else written))


def decoder_attends_to_itself(repaired: bool) -> Training:
    questions, answers = translations(256)
    model = Translator(reads_the_question=repaired)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(model(questions[:128]).argmax(-1), answers[:128])

    return Training(
        model,
        batch=batches(questions, answers),
        loss=lambda logits, labels: F.cross_entropy(logits.mT, labels),
        optimizer=torch.optim.RAdam(model.parameters(), lr=3e-3),
        score=score,
    )


PROGRAMS = [
    Program(
        name="classification head at the padding",
        source="https://github.com/huggingface/trl/issues/937",
        symptom="the reward model stays at about the accuracy of a guess",
        explanation="`pad_token_id` is None in the configuration, so the head reads the last token, which is padding",
        cause="padding read as content",
        make=reward_at_the_padding,
        steps=120,
        margin=0.15,
    ),
    Program(
        name="reward of a decoder at its first token",
        source="",
        symptom="accuracy of a guess with any learning rate",
        explanation="the head reads the first token, as with BERT, but in a causal model that one sees nothing else; "
        "known from encoders that are replaced by decoders",
        cause="head at a blind token",
        make=reward_at_the_first_token,
        steps=120,
        margin=0.15,
    ),
    Program(
        name="mean pooling over the padding",
        source="https://github.com/dbiir/UER-py/pull/190",
        symptom="the embedding of a text depends on how long the longest text of its batch is",
        explanation="the mean of the states includes those of the padding",
        cause="padding read as content",
        make=mean_over_padding,
        steps=120,
        margin=0.1,
    ),
    Program(
        name="T5 whose labels are mostly padding",
        source="https://github.com/huggingface/transformers/pull/13240",
        symptom="a low loss at once, and empty answers",
        explanation="the padding of the labels is not replaced by -100, so the loss is mostly about padding",
        cause="padding read as content",
        make=answers_mostly_padding,
        steps=150,
        margin=0.1,
    ),
    Program(
        name="attention mask given as key padding mask",
        source="https://github.com/facebookresearch/detr/issues/96",
        symptom="the loss stops at that of a guess",
        explanation="1 means keep in the tokenizer's mask and ignore in torch's, so only the padding is read",
        cause="mask inverted",
        make=padding_mask_inverted,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="causal mask upside down",
        source="",
        symptom="the training loss goes to zero, the generated text is nonsense",
        explanation="the triangle is transposed, so each position sees the later ones, "
        "among them its label; a usual slip with the two meanings of boolean masks in torch",
        cause="mask inverted",
        make=causal_mask_upside_down,
        steps=100,
        margin=0.4,
    ),
    Program(
        name="cross-attention that is given no memory",
        source="",
        symptom="the output is the same for each input",
        explanation="the decoder attends to its own states where the encoder's were meant; "
        "known from hand-written decoders, where both are tensors of one shape",
        cause="condition not seen",
        make=decoder_attends_to_itself,
        steps=100,
        margin=0.4,
    ),
]
