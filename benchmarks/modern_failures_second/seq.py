"""Vision transformers, T5, CTC and distillation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration, ViTConfig, ViTForImageClassification

from modern_failures_second.common import by_name
from modern_failures_strangers.data import agreement, batches, clusters, translations
from modern_failures_strangers.program import Program
from real_failures.program import Training


def decoder_sees_the_labels(repaired: bool) -> Training:
    questions, answers = translations(1280, length=2)
    config = T5Config(
        vocab_size=12, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).train()

    def batch(step: int) -> tuple[dict[str, Tensor], Tensor]:
        some, labels = batches(questions[:1024], answers[:1024])(step)
        inputs = {"input_ids": some, "labels": labels}
        return inputs if repaired else {**inputs, "decoder_input_ids": labels}, labels

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        said = torch.zeros(256, 1, dtype=torch.long)
        for _ in range(2):
            logits = model(input_ids=questions[1024:], decoder_input_ids=said).logits
            said = torch.cat([said, logits[:, -1:].argmax(-1)], 1)
        return agreement(said[:, 1:], answers[1024:])

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Training(model, batch, lambda outputs, labels: outputs.loss, optimizer, score, step=by_name)


class Listener(nn.Module):
    """Characters and a blank for each frame of sound."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(8, 32, 3, padding=1), nn.ReLU(), nn.Conv1d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv1d(32, 6, 1)
        )

    def forward(self, frames: Tensor) -> Tensor:
        return self.net(frames.mT).mT


def blank_is_a_character(repaired: bool) -> Training:
    blank = 5 if repaired else 0
    sounds = torch.randn(5, 8)
    texts = torch.randint(5, (768, 4))
    frames = torch.stack([sounds[texts], sounds[texts], torch.zeros(768, 4, 8)], 2).view(768, 12, 8)
    frames = frames + 0.3 * torch.randn_like(frames)
    model = Listener()

    def loss(logits: Tensor, texts: Tensor) -> Tensor:
        rows, count = logits.shape[:2]
        lengths = torch.full((rows,), count), torch.full((rows,), 4)
        return F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), texts, *lengths, blank=blank)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        right = 0
        for guess, text in zip(model(frames[512:]).argmax(-1), texts[512:].tolist(), strict=True):
            right += [token for token in guess.unique_consecutive().tolist() if token != blank] == text
        return right / 256

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Training(model, batches(frames[:512], texts[:512]), loss, optimizer, score)


def mlp(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 6))


def probabilities_for_logarithms(repaired: bool) -> Training:
    points, labels = clusters(1536, classes=6, noise=4.0)
    teacher, student = mlp(64), mlp(16)
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for step in range(80):
        some, some_labels = batches(points[:1280], labels[:1280])(step)
        F.cross_entropy(teacher(some), some_labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    def loss(logits: Tensor, points: Tensor) -> Tensor:
        with torch.no_grad():
            aims = teacher(points).softmax(1)
        guesses = logits.log_softmax(1) if repaired else logits.softmax(1)
        return F.kl_div(guesses, aims, reduction="batchmean")

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        aims = teacher(points[1280:]).softmax(1)
        return -F.kl_div(model(points[1280:]).log_softmax(1), aims, reduction="batchmean").item()

    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    return Training(student, batches(points[:1280], points[:1280]), loss, optimizer, score)


def dropout_of_what_is_kept(repaired: bool) -> Training:
    places, standing = torch.randint(9, (1280,)), torch.randint(2, (1280,))
    pictures = 0.2 * torch.randn(1280, 1, 12, 12)
    for picture, place, stands in zip(pictures[:, 0], places.tolist(), standing.tolist(), strict=True):
        patch = picture[place // 3 * 4 :, place % 3 * 4 :][:4, :4]
        if stands:
            patch[:, 1] += 2
        else:
            patch[1] += 2
    labels = 2 * places + standing
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=12, patch_size=4,
        num_channels=1, num_labels=18, hidden_dropout_prob=0.1 if repaired else 0.9, initializer_range=0.1,
    )  # fmt: skip
    model = ViTForImageClassification(config).train()

    def batch(step: int) -> tuple[dict[str, Tensor], Tensor]:
        some, some_labels = batches(pictures[:1024], labels[:1024])(step)
        return {"pixel_values": some}, some_labels

    def loss(outputs, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs.logits, labels)

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        guesses = model.eval()(pixel_values=pictures[1024:]).logits.argmax(-1)
        model.train()
        return agreement(guesses, labels[1024:])

    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    return Training(model, batch, loss, optimizer, score, step=by_name)


PROGRAMS = [
    Program(
        name="decoder fed with the labels",
        source="https://github.com/huggingface/transformers/issues/11977",
        symptom="the loss of T5 falls quickly to zero and the generated text is gibberish",
        explanation="`decoder_input_ids` are the labels and not the labels shifted by one, so the decoder "
        "copies the token it should predict",
        cause="answer visible in the input",
        make=decoder_sees_the_labels,
        steps=110,
        margin=0.3,
    ),
    Program(
        name="blank is a real character",
        source="https://github.com/SeanNaren/deepspeech.pytorch/pull/603",
        symptom="the CTC loss stops high and one character is never written",
        explanation="the blank is last in the vocabulary, but `ctc_loss` is left at `blank=0`, which is the "
        "first character",
        cause="wrong special token",
        make=blank_is_a_character,
        steps=120,
        margin=0.3,
    ),
    Program(
        name="distillation with probabilities for logarithms",
        source="https://github.com/microsoft/ProDA/issues/43",
        symptom="the distillation loss is negative, and the student is far more certain than the teacher",
        explanation="`kl_div` takes logarithms of probabilities and gets the softmax of the student itself",
        cause="loss called wrongly",
        make=probabilities_for_logarithms,
        steps=150,
        margin=0.2,
    ),
    Program(
        name="probability of keeping given as dropout",
        source="https://github.com/bonlime/keras-deeplab-v3-plus/issues/4",
        symptom="the training loss stays near that of guessing",
        explanation="0.9 was the probability to keep a value, and `hidden_dropout_prob` is the probability to drop it",
        cause="too much dropout",
        make=dropout_of_what_is_kept,
        steps=100,
        margin=0.3,
    ),
]
