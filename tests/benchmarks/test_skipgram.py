"""Skip-gram: its gradient, its batches, what a slope does, and that it finds what was planted in a text."""

import random

import pytest
import torch

from _skipgram import Batch, Corpus, Gradient, SkipGram, batches, loss, subsampled, train


def text(sentences=400, topics=3, words=12, length=8, seed=0):
    """Sentences, each with the words of one topic."""
    chosen = random.Random(seed)
    return [
        [f"{topic}-{chosen.randrange(words)}" for _ in range(length)]
        for topic in (chosen.randrange(topics) for _ in range(sentences))
    ]


def batch_of(generator, words=30, blocks=3, size=4, neighbours=6, negatives=5):
    numbers = [torch.randint(words, (blocks, n), generator=generator) for n in (size, neighbours + negatives)]
    positive = torch.randint(3, (blocks, size, neighbours), generator=generator).float()
    return Batch(*numbers, positive, torch.rand(blocks, size, 1, generator=generator))


@pytest.mark.parametrize("slope", [1.0, 0.3, 4.0])
def test_the_gradient_is_that_of_autograd(slope):
    generator = torch.Generator().manual_seed(0)
    batch, model = batch_of(generator), SkipGram(30, 7, slope)
    with torch.no_grad():
        model.outputs.normal_(generator=generator)
    loss(model, batch).backward()
    dx, dz = Gradient(model, 3, 4, 6, 11).of(batch)
    for vectors, places, change in ((model.inputs, batch.words, dx), (model.outputs, batch.others, dz)):
        found = torch.zeros_like(vectors).index_add_(0, places.flatten(), change)
        torch.testing.assert_close(found, vectors.grad, rtol=1e-4, atol=1e-5)


def test_the_loss_is_that_of_the_probabilities_that_the_model_gives():
    generator = torch.Generator().manual_seed(0)
    batch, model = batch_of(generator), SkipGram(30, 7, 0.5)
    with torch.no_grad():
        model.outputs.normal_(generator=generator)
        p = model(batch.words.unsqueeze(2), batch.others.unsqueeze(1))
        expected = -(batch.positive * p[..., :6].log()).sum() - (batch.negative * (1 - p[..., 6:]).log()).sum()
    torch.testing.assert_close(loss(model, batch).detach(), expected)


def test_batches_have_every_pair_within_the_window_of_a_sentence_once_and_no_other():
    window, sentences = 3, [["a", "b", "c", "d", "e"], ["f"], ["g", "h"], list("ijklmnopqrstuvwxyz") * 40]
    corpus = Corpus.of_sentences(sentences, min_count=1)
    corpus = Corpus(corpus.words, torch.full_like(corpus.counts, 1), corpus.text, corpus.sentences, corpus.length)
    found, longest = [], torch.zeros(window + 1)
    for _, batch in batches(corpus, window, 5, torch.Generator().manual_seed(0)):
        blocks, i, j = batch.positive.nonzero().T
        found += zip(batch.words[blocks, i].tolist(), batch.others[blocks, j].tolist(), strict=True)
        torch.testing.assert_close(batch.negative.sum() * batch.negative.new_tensor(32.0), 5 * batch.positive.sum())
        longest += torch.bincount((j - window - i).abs(), minlength=window + 1)
    names = [(corpus.words[a], corpus.words[b]) for a, b in found]
    first = [pair for pair in names if set(pair) <= set("abcdefgh")]
    assert len(first) == len(set(first))
    assert {("a", "b"), ("b", "a"), ("d", "e"), ("g", "h")} <= set(first)  # at distance 1 always
    assert all(abs(ord(a) - ord(b)) <= window for a, b in first)
    assert not any("f" in pair or (set(pair) & set("gh") and set(pair) & set("abcde")) for pair in first)
    assert longest[0] == 0
    # A reach of 1 to 3 is drawn: distances of 1, 2, 3 stay with 3/3, 2/3, 1/3.
    torch.testing.assert_close(longest[1:] / longest[1], torch.tensor([1, 2 / 3, 1 / 3]), rtol=0.1, atol=0)


def test_frequent_words_are_left_out_as_often_as_in_word2vec():
    corpus = Corpus.of_sentences([["often"] * 90 + [f"word {n}" for n in range(910)]] * 100, min_count=1)
    kept, _ = subsampled(corpus, torch.Generator().manual_seed(0))
    share = 0.001 / 0.09
    assert (kept == 0).sum() / 9000 == pytest.approx(share**0.5 + share, abs=0.01)
    assert (kept != 0).sum() == 91_000  # none of the others is more frequent than 0.001


def test_words_of_a_planted_topic_are_near_each_other():
    corpus = Corpus.of_sentences(text(3000), min_count=1)
    torch.manual_seed(0)
    model = SkipGram(len(corpus.words), 8)
    train(model, corpus, epochs=10)
    vectors = torch.nn.functional.normalize(model.inputs.detach(), dim=1)
    similar = vectors @ vectors.T - 2 * torch.eye(len(vectors))
    nearest = similar.topk(5, dim=1).indices
    topics = torch.tensor([int(word[0]) for word in corpus.words])
    assert (topics[nearest] == topics.unsqueeze(1)).all()


@pytest.mark.parametrize("words", [2, 20, 300])
def test_vectors_do_not_grow_without_end_where_words_fill_a_batch(words):
    corpus = Corpus.of_sentences(text(400, topics=1, words=words, length=20), min_count=1)
    model = SkipGram(len(corpus.words), 50)
    train(model, corpus, epochs=4, window=20, negative=20)
    assert max(float(vectors.detach().norm(dim=1).max()) for vectors in model.parameters()) < 5


def test_a_slope_is_a_larger_rate_on_longer_vectors_and_nothing_else():
    corpus, slope = Corpus.of_sentences(text(), min_count=1), 4.0
    torch.manual_seed(0)
    steep = SkipGram(len(corpus.words), 8, slope).double()
    plain = SkipGram(len(corpus.words), 8).double()
    with torch.no_grad():
        plain.inputs.copy_(steep.inputs * slope**0.5)
    before = plain.inputs.detach().clone()
    train(steep, corpus, epochs=3, rate=0.02)
    train(plain, corpus, epochs=3, rate=0.02 * slope, last_rate=0.0001 * slope)
    torch.testing.assert_close(plain.inputs, steep.inputs * slope**0.5)
    torch.testing.assert_close(plain.outputs, steep.outputs * slope**0.5)
    assert (plain.inputs - before).norm() > before.norm()


def test_the_same_seed_gives_the_same_vectors():
    corpus = Corpus.of_sentences(text(40), min_count=1)

    def vectors(seed):
        torch.manual_seed(0)
        model = SkipGram(len(corpus.words), 8)
        train(model, corpus, epochs=2, seed=seed)
        return model.inputs

    assert torch.equal(vectors(1), vectors(1))
    assert not torch.equal(vectors(1), vectors(2))
