"""A text as numbers: its words by frequency, and its sentences."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data import InputError
from sigmoidcore.language import _


@dataclass(frozen=True)
class Corpus:
    """A text: one sentence a line, words between white space."""

    words: tuple[str, ...]  # the vocabulary, the most frequent word first
    counts: Tensor  # how often each one occurs, shape [words], int64
    text: Tensor  # number of each word of the text, shape [tokens], int32; rare words are left out
    sentences: Tensor  # number of each word's sentence, shape [tokens], int32
    length: int  # tokens of the text with its rare words

    @classmethod
    def of_sentences(cls, sentences: Iterable[Sequence[str]], min_count: int = 5) -> "Corpus":
        """A corpus of sentences, with the words that occur at least `min_count` times.

        Example:
            >>> corpus = Corpus.of_sentences(["a rose is a rose".split(), "so is a daisy".split()], min_count=2)
            >>> corpus.words, corpus.text.tolist(), corpus.sentences.tolist()
            (('a', 'rose', 'is'), [0, 1, 2, 0, 1, 2, 0], [0, 0, 0, 0, 0, 1, 1])
        """
        numbers: defaultdict[str, int] = defaultdict(lambda: len(numbers))
        text, lengths = array("i"), []
        for sentence in sentences:
            text.extend(map(numbers.__getitem__, sentence))
            lengths.append(len(sentence))
        all_words, places = np.array(text), np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        counts = np.bincount(all_words, minlength=len(numbers))
        order = np.argsort(-counts, kind="stable")[: int((counts >= min_count).sum())]
        if len(order) < 2:
            most = _("there are none")
            if len(numbers):
                most = _("the count of the most frequent one is {count}", count=counts.max())
            raise InputError(
                "{count} words occur at least {times} times ({most}): lower --min-count",
                count=len(order),
                times=min_count,
                most=most,
            )
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


def read_corpus(path: Path, min_count: int = 5) -> Corpus:
    """A UTF-8 text file as `Corpus`, as gensim's `LineSentence` reads it, but without a byte order mark."""
    if not path.exists() or path.is_dir():
        raise InputError(
            "{path} {problem}: give a text file",
            path=path,
            problem=_("is a folder") if path.exists() else _("does not exist"),
        )
    try:
        with path.open(encoding="utf-8-sig") as file:
            return Corpus.of_sentences(map(str.split, file), min_count)
    except UnicodeDecodeError as error:
        raise InputError(
            "{path} is not UTF-8 text ({reason}): convert it with iconv -t UTF-8", path=path, reason=error.reason
        ) from error
