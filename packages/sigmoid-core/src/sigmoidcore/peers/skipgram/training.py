"""Training: batches of blocks of the text, negatives that a block shares, a rate that falls to almost 0.

In word2vec, each pair has its own negatives, and each of their vectors is read and written alone. Here the words of a
block share their neighbours' vectors and their negatives, as in BlazingText (Gupta and Khare, 2017): three products of
small matrices compute a block. The expected loss is the same; its weight is spread over more pairs.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sigmoidcore.peers.skipgram.corpus import Corpus
from sigmoidcore.peers.skipgram.model import Batch, Gradient, SkipGram
from sigmoidcore.training.data import InputError

BLOCK, BLOCKS, SHARED = 32, 16, 32
"""Words of a block, blocks of a batch, negatives that a block shares."""
FREQUENT, POWER = 1e-3, 0.75
"""word2vec's share of the text from which on words are left out at random, and power of the negatives' counts."""
RATE, LAST_RATE = 0.025, 0.0001
LARGEST_STEP = 4.0
"""Largest product of the rate, the slope and the weight of a vector's pairs in a batch. Without a limit, the vectors of
words that fill a batch grow without end. Among thousands of words, only the most frequent ones reach it."""


@dataclass(frozen=True)
class Progress:
    """Where a training is: passes begun, from 1; part of the work that is done; words of the text a second."""

    epoch: int
    done: float
    words_per_second: float


def train(
    model: SkipGram, corpus: Corpus, *, epochs: int = 5, window: int = 5, negative: int = 5, rate: float = RATE,
    last_rate: float = LAST_RATE, seed: int = 0, on_step: Callable[[Progress], None] = lambda progress: None,
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
        on_step: called after every batch; an exception ends the training, and the vectors are those of the last batch.

    Raises:
        InputError: no word is left to train with. Frequent words are left out at random, and in a text of few words
            all are frequent.
    """
    generator = torch.Generator().manual_seed(seed)
    neighbours = BLOCK + 2 * window
    gradient = Gradient(model, BLOCKS, BLOCK, neighbours, neighbours + SHARED)
    vectors = model.inputs.detach(), model.outputs.detach()
    weights = torch.zeros(2, len(corpus.words))
    started, done = time.perf_counter(), 0.0
    for epoch in range(epochs):
        for part, batch in batches(corpus, window, negative, generator):
            done = (epoch + part) / epochs
            step = rate + (last_rate - rate) * done
            limit = LARGEST_STEP / float(step * model.core.alpha)
            parts = (batch.words, batch.others), gradient.of(batch), batch.totals()
            for of_kind, total, places, change, of_places in zip(vectors, weights, *parts, strict=True):
                places = places.flatten()
                total.index_add_(0, places, of_places.flatten())
                change.mul_((limit / total[places]).clamp_max_(1).unsqueeze(1))
                total[places] = 0
                of_kind.index_add_(0, places, change, alpha=-step)
            on_step(Progress(epoch + 1, done, done * epochs * corpus.length / (time.perf_counter() - started)))
    if not done:
        raise InputError("the text is too short: chance left out all its words. Give a longer one")


def batches(corpus: Corpus, window: int, negative: int, generator: torch.Generator) -> Iterator[tuple[float, Batch]]:
    """All blocks of the text once, in a random order; each batch with the part of them that is done after it."""
    chosen_text, chosen_sentences = subsampled(corpus, generator)
    if not len(chosen_text):
        return
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
