"""Word vectors by skip-gram with negative sampling, whose score passes a `SigmoidCore`; the article's third name.

Source: Mikolov et al. (2013), arXiv 1310.4546, equation 4. In word2vec, each pair has its own negatives, and each of
their vectors is read and written alone. Here the words of a block of the text share their neighbours' vectors and their
negatives, as in BlazingText (Gupta and Khare, 2017): three products of small matrices compute a block. The expected
loss is the same; its weight is spread over more pairs.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

import sigmoidcore as sc

BLOCK, BLOCKS, SHARED = 32, 16, 32
"""Words of a block, blocks of a batch, negatives that a block shares."""
FREQUENT, POWER = 1e-3, 0.75
"""word2vec's share of the text from which on words are left out at random, and power of the negatives' counts."""
RATE, LAST_RATE = 0.025, 0.0001
LARGEST_STEP = 4.0
"""Largest product of the rate, the slope and the weight of a vector's pairs in a batch. Without a limit, the vectors of
words that fill a batch grow without end. Among thousands of words, only the most frequent ones reach it."""


@dataclass(frozen=True)
class Corpus:
    """A text: its words by frequency, and its sentences.

    Attributes:
        words: the vocabulary, the most frequent word first.
        counts: how often each one occurs, [words], int64.
        text: number of each word of the text, [tokens], int32; rare words are left out.
        sentences: number of each word's sentence, [tokens], int32.
        length: tokens of the text with its rare words.
    """

    words: tuple[str, ...]
    counts: Tensor
    text: Tensor
    sentences: Tensor
    length: int

    @classmethod
    def of_sentences(cls, sentences: Iterable[Sequence[str]], min_count: int = 5) -> "Corpus":
        """A corpus of sentences, with the words that occur at least `min_count` times."""
        numbers: defaultdict[str, int] = defaultdict(lambda: len(numbers))
        text, lengths = array("i"), []
        for sentence in sentences:
            text.extend(map(numbers.__getitem__, sentence))
            lengths.append(len(sentence))
        all_words, places = np.array(text), np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        counts = np.bincount(all_words, minlength=len(numbers))
        order = np.argsort(-counts, kind="stable")[: int((counts >= min_count).sum())]
        names = list(numbers)
        ranks = np.full(len(numbers), -1, np.int32)
        ranks[order] = np.arange(len(order))
        ranked = ranks[all_words]
        kept = ranked >= 0
        return cls(
            words=tuple(names[number] for number in order),
            counts=torch.from_numpy(counts[order]),
            text=torch.from_numpy(ranked[kept]),
            sentences=torch.from_numpy(places[kept]),
            length=len(ranked),
        )


class SkipGram(nn.Module):
    """The probability that a word occurs near another one: sigmoid(slope * input vector . output vector).

    A slope changes nothing that a rate does not change: with sqrt(slope) times the vectors and slope times the rate,
    slope 1 gives the same probabilities at every step. Nor does a saturated score lose its gradient: that of the loss,
    slope * (label - probability), is largest where the score is wrong.

    Attributes:
        inputs: the word vectors, shape [words, dimensions].
        outputs: vectors of words as neighbours, the same shape; 0 at first.
        core: what the score passes.
    """

    def __init__(self, words: int, dimensions: int, slope: float = 1.0) -> None:
        super().__init__()
        self.inputs = nn.Parameter(torch.empty(words, dimensions).uniform_(-1 / dimensions, 1 / dimensions))
        self.outputs = nn.Parameter(torch.zeros(words, dimensions))
        self.core = sc.SigmoidCore(alpha=slope)

    def forward(self, words: Tensor, neighbours: Tensor) -> Tensor:
        """Probabilities, of the shape of both."""
        probabilities: Tensor = self.core((self.inputs[words] * self.outputs[neighbours]).sum(-1))
        return probabilities


@dataclass(frozen=True)
class Batch:
    """Blocks of the text. Each word of a block is compared with all neighbours and all negatives of its block."""

    words: Tensor  # shape [blocks, words]
    others: Tensor  # neighbours, then negatives, shape [blocks, neighbours + negatives]
    positive: Tensor  # weights of pairs of a word and a neighbour, shape [blocks, words, neighbours]; 0: not a pair
    negative: Tensor  # weights of the pairs of a word and a negative, shape [blocks, words, 1]

    def totals(self) -> tuple[Tensor, Tensor]:
        """Sum of the weights of the pairs of each word, and of each neighbour or negative."""
        negatives = self.others.shape[1] - self.positive.shape[2]
        negative = self.negative.sum(1).expand(-1, negatives)
        return (
            self.positive.sum(2) + negatives * self.negative.squeeze(2),
            torch.cat([self.positive.sum(1), negative], 1),
        )


class Gradient:
    """The gradient of a batch's loss by the vectors, in memory that is used again: fresh memory costs page faults."""

    def __init__(self, model: SkipGram, blocks: int, words: int, neighbours: int, others: int) -> None:
        dimensions = model.inputs.shape[1]
        self._model, self._neighbours = model, neighbours
        self._x, self._dx = (model.inputs.new_empty(blocks * words, dimensions) for _ in range(2))
        self._z, self._dz = (model.inputs.new_empty(blocks * others, dimensions) for _ in range(2))
        self._errors = model.inputs.new_empty(blocks, words, others)

    @torch.no_grad()
    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Gradients by the vectors of `batch.words` and of `batch.others`, each of shape [all, dimensions].

        With e = weight * (probability - label), they are slope * e z and slope * e x for each pair.
        """
        model, errors = self._model, self._errors
        alpha = float(model.core.alpha)
        torch.index_select(model.inputs, 0, batch.words.flatten(), out=self._x)
        torch.index_select(model.outputs, 0, batch.others.flatten(), out=self._z)
        x, z = self._x.view(*batch.words.shape, -1), self._z.view(*batch.others.shape, -1)
        torch.bmm(x, z.mT, out=errors)
        torch.sigmoid(errors if alpha == 1 else errors.mul_(alpha), out=errors)
        positive, negative = errors[..., : self._neighbours], errors[..., self._neighbours :]
        positive.sub_(1).mul_(batch.positive * alpha)
        negative.mul_(batch.negative * alpha)
        torch.bmm(errors, z, out=self._dx.view_as(x))
        torch.bmm(errors.mT, x, out=self._dz.view_as(z))
        return self._dx, self._dz


def loss(model: SkipGram, batch: Batch) -> Tensor:
    """Sum over all pairs of -weight log(probability of the label)."""
    z = model.core.alpha * (model.inputs[batch.words] @ model.outputs[batch.others].mT)
    neighbours = batch.positive.shape[-1]
    positive = batch.positive * nn.functional.logsigmoid(z[..., :neighbours])
    negative = batch.negative * nn.functional.logsigmoid(-z[..., neighbours:])
    return -(positive.sum() + negative.sum())


def train(
    model: SkipGram, corpus: Corpus, *, epochs: int = 5, window: int = 5, negative: int = 5, rate: float = RATE,
    last_rate: float = LAST_RATE, seed: int = 0, on_step: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Train word vectors by stochastic gradient descent, in place.

    Args:
        model: the vectors.
        corpus: the text.
        epochs: passes over it.
        window: most words between a word and a neighbour, plus one; drawn from 1 to this for every word.
        negative: negatives for each pair.
        rate: of the first batch; it falls linearly to `last_rate`.
        last_rate: see `rate`.
        seed: of the words that are left out, the windows, the negatives and the order of the blocks.
        on_step: called after every batch.
    """
    generator = torch.Generator().manual_seed(seed)
    neighbours = BLOCK + 2 * window
    gradient = Gradient(model, BLOCKS, BLOCK, neighbours, neighbours + SHARED)
    vectors = model.inputs.detach(), model.outputs.detach()
    weights = torch.zeros(2, len(corpus.words))
    for epoch in range(epochs):
        for part, batch in batches(corpus, window, negative, generator):
            step = rate + (last_rate - rate) * ((epoch + part) / epochs)
            limit = LARGEST_STEP / float(step * model.core.alpha)
            parts = (batch.words, batch.others), gradient.of(batch), batch.totals()
            for of_kind, total, places, change, of_places in zip(vectors, weights, *parts, strict=True):
                places = places.flatten()
                total.index_add_(0, places, of_places.flatten())
                change.mul_((limit / total[places]).clamp_max_(1).unsqueeze(1))
                total[places] = 0
                of_kind.index_add_(0, places, change, alpha=-step)
            on_step()


def batches(corpus: Corpus, window: int, negative: int, generator: torch.Generator) -> Iterator[tuple[float, Batch]]:
    """All blocks of the text once, in a random order; each batch with the part of them that is done after it."""
    chosen_text, chosen_sentences = subsampled(corpus, generator)
    text, sentences = padded(chosen_text, chosen_sentences, window)
    neighbours = BLOCK + 2 * window
    middle = slice(window, len(text) - window)
    words, others = text[middle].view(-1, BLOCK), text.unfold(0, neighbours, BLOCK)
    own, theirs = sentences[middle].view(-1, BLOCK), sentences.unfold(0, neighbours, BLOCK)
    distance = (torch.arange(neighbours) - window - torch.arange(BLOCK).unsqueeze(1)).abs()
    distance = torch.where(distance == 0, window + 1, distance).to(torch.int32)
    below = (corpus.counts.double() ** POWER).cumsum(0)
    order = torch.randperm(len(words), generator=generator).view(-1, BLOCKS)
    size = (BLOCKS, BLOCK, 1)
    for number, chosen in enumerate(order):
        reach = torch.randint(1, window + 1, size, generator=generator, dtype=torch.int32)
        pairs = (distance <= reach) & (own[chosen].unsqueeze(2) == theirs[chosen].unsqueeze(1))
        drawn = torch.rand(BLOCKS, SHARED, generator=generator, dtype=torch.float64)
        negatives = torch.searchsorted(below, drawn.mul_(below[-1]))
        positive = pairs.to(torch.float32)
        weight = positive.sum(2, keepdim=True) * (negative / SHARED)
        batch = Batch(words[chosen], torch.cat([others[chosen], negatives], 1), positive, weight)
        yield (number + 1) / len(order), batch


def subsampled(corpus: Corpus, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Text and sentences without some frequent words: one of share f stays with probability sqrt(t/f) + t/f."""
    share = FREQUENT * len(corpus.text) / corpus.counts
    kept = torch.rand(len(corpus.text), generator=generator) < (share.sqrt() + share)[corpus.text]
    return corpus.text[kept].long(), corpus.sentences[kept]


def padded(text: Tensor, sentences: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Both with a window before, and filled up to whole batches and a window; what is added has no neighbours."""
    missing = -len(text) % (BLOCK * BLOCKS) + window
    places = torch.arange(-1, -1 - window - missing, -1, dtype=sentences.dtype)
    zeros = torch.zeros(window + missing, dtype=text.dtype)
    text = torch.cat([zeros[:window], text, zeros[window:]])
    return text, torch.cat([places[:window], sentences, places[window:]])
