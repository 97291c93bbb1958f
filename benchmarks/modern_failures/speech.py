"""Speech and CTC: logits without a logarithm, a wrong blank, frames that are fewer than the labels."""

import torch
from torch import Tensor, nn
from torch.nn.functional import ctc_loss

from modern_failures.program import Program, Training

LETTERS, FRAMES, FEATURES = 6, 24, 8
"""Kinds of sounds, frames of a recording and features of a frame."""


def recordings(samples: int = 128, letters: int = 5) -> tuple[Tensor, Tensor]:
    """Noisy frames of sounds that last some time, and the letters 1 to 6, of which no two neighbours are the same."""
    texts = [torch.randint(LETTERS, (samples,))]
    for _ in range(letters - 1):
        texts.append((texts[-1] + torch.randint(1, LETTERS, (samples,))) % LETTERS)
    text = torch.stack(texts, 1)
    sounds = torch.randn(LETTERS, FEATURES, generator=torch.Generator().manual_seed(3))
    starts = torch.rand(samples, letters).cumsum(1) * FRAMES / letters * 1.2
    starts = (starts - starts[:, :1]).clamp(max=FRAMES - 1)
    now = (torch.arange(FRAMES)[None, :, None] >= starts[:, None].floor()).sum(-1) - 1
    return sounds[text.gather(1, now)] + 0.2 * torch.randn(samples, FRAMES, FEATURES), text + 1


class Recogniser(nn.Module):
    """Convolutions over the frames, which may leave out some of them; a letter or the blank for each."""

    def __init__(self, stride: int = 1, width: int = 32, outputs: int = LETTERS + 1):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(FEATURES, width, 3, stride, padding=1), nn.GELU(), nn.Conv1d(width, width, 3, 1, padding=1)
        )
        self.output = nn.Linear(width, outputs)

    def forward(self, frames: Tensor) -> Tensor:
        return self.output(self.layers(frames.mT).mT.relu())


def recognition(model: Recogniser, loss, blank: int = 0, letters: int = 5, rate: float = 5e-3) -> Training:
    """Training on recordings; scored by the texts that are right, position by position."""
    frames, text = recordings(letters=letters)
    if blank:
        text = text - 1

    @torch.no_grad()
    def score(model: Recogniser) -> float:
        right = 0
        for best, letters in zip(model(frames).argmax(-1), text, strict=True):
            read = [int(letter) for letter in best.unique_consecutive() if letter != blank]
            right += sum(a == b for a, b in zip(read, letters.tolist(), strict=False))
        return right / text.numel()

    return Training(
        model,
        batch=lambda step: (frames[step % 2 * 64 :][:64], text[step % 2 * 64 :][:64]),
        loss=loss,
        optimizer=torch.optim.AdamW(model.parameters(), lr=rate),
        score=score,
    )


def ctc(logits: Tensor, text: Tensor, blank: int = 0, normalise: bool = True, **options) -> Tensor:
    """The loss for logits [batch, frames, letters] and texts of one length."""
    scores = (logits.log_softmax(-1) if normalise else logits).transpose(0, 1)
    frames = torch.full((len(logits),), logits.shape[1])
    return ctc_loss(scores, text, frames, torch.full((len(text),), text.shape[1]), blank, **options)


def logits_for_logarithms(repaired: bool) -> Training:
    return recognition(Recogniser(), lambda logits, text: ctc(logits, text, normalise=repaired))


def wrong_blank(repaired: bool) -> Training:
    blank = LETTERS if repaired else 0
    return recognition(Recogniser(), lambda logits, text: ctc(logits, text, blank), blank=LETTERS)


def fewer_frames_than_letters(repaired: bool) -> Training:
    model = Recogniser(stride=1 if repaired else 6)
    return recognition(model, lambda logits, text: ctc(logits, text, zero_infinity=True))


PROGRAMS = [
    Program(
        name="CTC of logits",
        source="https://github.com/gwx314/STARS/issues/9",
        symptom="the CTC loss is negative",
        explanation="the loss wants logarithms of probabilities and gets logits, so larger logits are always better",
        causes=("loss input wrong",),
        make=logits_for_logarithms,
        steps=200,
        margin=0.2,
    ),
    Program(
        name="CTC whose blank is a letter",
        source="https://github.com/liuhu-bigeye/enctc.crnn/issues/9",
        symptom="the argument for the blank has no effect",
        explanation="the blank is the last class, and the loss takes class 0 for it, which is a letter",
        causes=("targets wrong", "loss input wrong"),
        make=wrong_blank,
        steps=200,
        margin=0.1,
    ),
    Program(
        name="CTC with fewer frames than letters",
        source="https://github.com/rwth-i6/returnn/issues/1131",
        symptom="the training finishes without an error",
        explanation="there are more targets than frames, so no alignment exists and the loss is infinite or left out",
        causes=("targets impossible", "constant loss"),
        make=fewer_frames_than_letters,
        steps=200,
        margin=0.3,
    ),
]
