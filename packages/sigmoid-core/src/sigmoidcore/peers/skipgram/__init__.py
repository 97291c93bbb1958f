"""Word vectors by skip-gram with negative sampling, whose score passes a `SigmoidCore`; the article's third name.

`sigmoid-core skipgram` is its command. Source: Mikolov et al. (2013), arXiv 1310.4546, equation 4.
"""

from sigmoidcore.peers.skipgram.corpus import Corpus, read_corpus
from sigmoidcore.peers.skipgram.model import SkipGram
from sigmoidcore.peers.skipgram.training import Progress, train
from sigmoidcore.peers.skipgram.vectors import write_vectors

__all__ = ["Corpus", "Progress", "SkipGram", "read_corpus", "train", "write_vectors"]
