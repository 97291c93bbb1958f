"""Skip-gram: the vectors of gensim have no smaller loss."""

import pytest
import torch

from _skipgram import Corpus, SkipGram, batches, loss, train

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


def test_the_loss_is_near_that_of_gensim():
    from gensim.models import Word2Vec
    from gensim.test.utils import datapath

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
