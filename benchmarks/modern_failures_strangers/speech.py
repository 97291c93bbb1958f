"""CTC: blanks, lengths, axes and probabilities."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modern_failures_strangers.data import agreement, batches
from modern_failures_strangers.program import Program
from real_failures.program import Training

LETTERS, SPOKEN, FRAMES = 6, 4, 16


def speech(rows: int = 512) -> tuple[Tensor, Tensor]:
    """Four letters, each of four noisy frames; the letters are numbered from 1."""
    sounds = torch.randn(LETTERS + 1, 12)
    letters = torch.randint(1, LETTERS + 1, (rows, SPOKEN))
    return sounds[letters.repeat_interleave(FRAMES // SPOKEN, 1)] + 0.5 * torch.randn(rows, FRAMES, 12), letters


class Listener(nn.Module):
    """Convolutions over the frames; a score for the blank and for each letter."""

    def __init__(self, stride: int = 1):
        super().__init__()
        self.first = nn.Conv1d(12, 32, 3, stride, padding=1)
        self.second, self.output = nn.Conv1d(32, 32, 3, padding=1), nn.Linear(32, LETTERS + 1)

    def forward(self, sounds: Tensor) -> Tensor:
        return self.output(self.second(self.first(sounds.mT).relu()).relu().mT)


def decode(scores: Tensor) -> Tensor:
    """Greedy: repeated letters become one, blanks go away; four letters, padded by zeros."""
    best = scores.argmax(-1)
    texts = torch.zeros(len(best), SPOKEN, dtype=torch.long)
    for row, frames in enumerate(best):
        letters = frames.unique_consecutive()
        letters = letters[letters > 0][:SPOKEN]
        texts[row, : len(letters)] = letters
    return texts


def ctc(model: Listener, loss, lr: float = 1e-2) -> Training:
    sounds, letters = speech()

    @torch.no_grad()
    def score(model: nn.Module) -> float:
        return agreement(decode(model(sounds[:128])), letters[:128])

    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    return Training(model, batches(sounds, letters), loss, optimizer, score)


def lengths(scores: Tensor, letters: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full((len(scores),), scores.shape[1]), torch.full((len(letters),), letters.shape[1])


def letter_at_the_blank(repaired: bool) -> Training:
    def loss(scores: Tensor, letters: Tensor) -> Tensor:
        likely = scores.log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(likely, letters, *lengths(scores, letters), blank=0 if repaired else 1)

    return ctc(Listener(), loss)


def probabilities_for_their_logarithms(repaired: bool) -> Training:
    def loss(scores: Tensor, letters: Tensor) -> Tensor:
        likely = scores.log_softmax(-1) if repaired else scores.softmax(-1)
        return F.ctc_loss(likely.transpose(0, 1), letters, *lengths(scores, letters))

    return ctc(Listener(), loss)


def batch_taken_for_time(repaired: bool) -> Training:
    def loss(scores: Tensor, letters: Tensor) -> Tensor:
        likely = scores.log_softmax(-1)
        likely = likely.transpose(0, 1) if repaired else likely.reshape(FRAMES, -1, LETTERS + 1)
        return F.ctc_loss(likely, letters, *lengths(scores, letters))

    return ctc(Listener(), loss)


def fewer_frames_than_letters(repaired: bool) -> Training:
    model = Listener(stride=2 if repaired else 6)

    def loss(scores: Tensor, letters: Tensor) -> Tensor:
        likely = scores.log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(likely, letters, *lengths(scores, letters), zero_infinity=True)

    return ctc(model, loss)


def softmax_over_time(repaired: bool) -> Training:
    def loss(scores: Tensor, letters: Tensor) -> Tensor:
        likely = scores.transpose(0, 1).log_softmax(-1 if repaired else 0)
        return F.ctc_loss(likely, letters, *lengths(scores, letters))

    return ctc(Listener(), loss)


PROGRAMS = [
    Program(
        name="CTC whose blank is a letter",
        source="https://github.com/yl4579/AuxiliaryASR/issues/10",
        symptom="one letter is never recognised and others are inserted",
        explanation="the index of the blank is that of a letter which occurs in the labels",
        cause="blank is a letter",
        make=letter_at_the_blank,
        steps=150,
        margin=0.1,
    ),
    Program(
        name="CTC of probabilities",
        source="",
        symptom="the loss becomes negative, the output is nonsense",
        explanation="the loss is given probabilities where their logarithms are expected; "
        "one of the commonest questions about `ctc_loss`",
        cause="logarithm missing",
        make=probabilities_for_their_logarithms,
        steps=150,
        margin=0.1,
    ),
    Program(
        name="CTC with batch and time reshaped",
        source="",
        symptom="the loss falls to a floor, nothing is recognised",
        explanation="the shape (time, batch) is made by `reshape`, which mixes the frames of different recordings; "
        "known from the demand of `ctc_loss` for time first",
        cause="axes scrambled",
        make=batch_taken_for_time,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="CTC with fewer frames than letters",
        source="https://github.com/ypwhs/captcha_break/issues/29",
        symptom="the loss is infinite, or zero with `zero_infinity`",
        explanation="after the strides there are fewer frames than letters, so no path gives the text",
        cause="no labels left",
        make=fewer_frames_than_letters,
        steps=150,
        margin=0.3,
    ),
    Program(
        name="CTC with a softmax over time",
        source="",
        symptom="the loss falls and may become negative, the output is nonsense",
        explanation="the logarithms of the probabilities are normalised over the frames and not over the letters; "
        "known from `log_softmax(0)` after the transposition",
        cause="axis wrong",
        make=softmax_over_time,
        steps=150,
        margin=0.05,
    ),
]
