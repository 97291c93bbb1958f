"""Skip-gram: gensim reads our vectors, and its own have no smaller loss."""

import random

import numpy as np
import pytest
import torch

from sigmoidcore.cli import main

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


def test_gensim_reads_the_vectors(tmp_path):
    from gensim.models import KeyedVectors

    chosen = random.Random(0)
    topics = ["red green blue yellow", "one two three four", "señor señora niño niña"]
    lines = [" ".join(chosen.choices(chosen.choice(topics).split(), k=8)) for _ in range(2000)]
    source, path = tmp_path / "text.txt", tmp_path / "vectors.txt"
    source.write_text("\n".join(lines), encoding="utf-8")
    assert main(["skipgram", str(source), "-o", str(path), "--dimensions", "10", "--epochs", "10"]) == 0
    vectors = KeyedVectors.load_word2vec_format(str(path))
    assert vectors.vectors.shape == (12, 10)
    assert vectors.vectors.dtype == np.float32
    for topic in topics:
        words = topic.split()
        assert {word for word, _ in vectors.most_similar(words[0], topn=3)} == set(words[1:])


def test_the_loss_is_near_that_of_gensim(tmp_path):
    from gensim.models import Word2Vec
    from gensim.test.utils import datapath

    from sigmoidcore.peers.skipgram import Corpus, SkipGram, train
    from sigmoidcore.peers.skipgram.model import loss
    from sigmoidcore.peers.skipgram.training import batches

    with open(datapath("lee_background.cor"), encoding="utf-8") as file:
        text = [line.lower().split() for line in file]
    corpus = Corpus.of_sentences(text)
    torch.manual_seed(0)
    ours, theirs = (SkipGram(len(corpus.words), 50) for _ in range(2))
    train(ours, corpus, epochs=5)
    word2vec = Word2Vec(text, sg=1, vector_size=50, window=5, negative=5, min_count=5, epochs=5, workers=1, seed=0)
    order = [word2vec.wv.key_to_index[word] for word in corpus.words]
    with torch.no_grad():
        theirs.inputs.copy_(torch.from_numpy(word2vec.wv.vectors[order]))
        theirs.outputs.copy_(torch.from_numpy(word2vec.syn1neg[order]))
        sums = torch.zeros(2)
        for _, batch in batches(corpus, 5, 5, torch.Generator().manual_seed(1)):
            sums += torch.tensor([float(loss(model, batch)) for model in (ours, theirs)])
    assert sums[0] / sums[1] == pytest.approx(1, abs=0.02)
