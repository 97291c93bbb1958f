"""Word vectors by skip-gram with negative sampling, for `skipgram.py`: the score passes a `SigmoidCore`.

Source: Mikolov et al. (2013), arXiv 1310.4546, equation 4.
"""

from word_vectors.corpus import Corpus
from word_vectors.model import SkipGram
from word_vectors.training import train

__all__ = ["Corpus", "SkipGram", "train"]
