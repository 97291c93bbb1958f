"""Skip-gram whose score passes a core, against gensim's Word2Vec: loss, similar words, speed, and what a slope does.

100 dimensions, 5 negatives, window 5, words that occur 5 times, frequent words left out as in word2vec, a rate of 0.025
that falls to 0.0001. The corpus of Lee that gensim ships, 5 epochs; `--data FILE`: a larger text (also .gz or .dz), one
epoch, one seed. Words are runs of letters; a sentence is a paragraph. gensim has to be installed.

- loss: of negative sampling, a pair; for all methods by the same code, on the same pairs of the training text
- WordSim-353, SimLex-999: Spearman's correlation in percent over the pairs whose words are known, with the interval of
  95 % over 1,000 bootstrap samples of the pairs
- words a second of the whole text, and a second of processor time: for a busy machine
- saturated: scores whose relative slope 4 s'(z) is below 0.05; wrong: of these, the part on the wrong side of 1/2
  (the only ones that have anything to learn), in percent
"""

import gzip
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import gensim
import numpy as np
import torch
from gensim.models import Word2Vec
from gensim.test.utils import datapath
from scipy.stats import spearmanr
from torch import Tensor

from _report import Report, arguments
from _skipgram import LAST_RATE, RATE, Batch, Corpus, SkipGram, batches, loss, train
from sigmoidcore.gain import mean_relative_slope, relative_slope

DIMENSIONS, WINDOW, NEGATIVE, MIN_COUNT = 100, 5, 5, 5
FLOOR, OPEN, EVERY = 0.05, 0.8, 50
MEASURED = 50
"""Batches on which a model is measured."""
SLOPES = {"slope 1": 1.0, "slope 4": 4.0, "slope 1/4": 0.25, "slope kept open": 1.0, "slope 4, rate 1/4": 4.0}
"""Kept open: every 50 batches the slope falls until the mean relative slope of the scores is 0.8."""


def sentences(text: str) -> list[list[str]]:
    """Runs of letters of every paragraph."""
    return [re.findall(r"[^\W\d_]+", paragraph.lower()) for paragraph in re.split(r"\n\s*\n", text)]


def read(path: Path) -> str:
    opened: Callable[..., Any] = gzip.open if path.suffix in (".gz", ".dz") else open
    with opened(path, "rt", encoding="utf-8", errors="replace") as file:
        return str(file.read())


def ours(corpus: Corpus, name: str, epochs: int, seed: int, pairs: list[Batch]) -> SkipGram:
    torch.manual_seed(seed)
    model = SkipGram(len(corpus.words), DIMENSIONS, SLOPES[name])
    part = 0.25 if "rate" in name else 1.0
    steps = 0

    def keep_open() -> None:
        nonlocal steps
        steps += 1
        if name == "slope kept open" and steps % EVERY == 0:
            scores = torch.cat(list(scores_of(model, pairs[:1]))[:2]) / model.core.alpha
            while mean_relative_slope(model.core.alpha * scores.unsqueeze(1)) < OPEN:
                model.core.set_slope(model.core.alpha * 0.99)

    settings = {"epochs": epochs, "window": WINDOW, "negative": NEGATIVE, "seed": seed}
    train(model, corpus, **settings, rate=RATE * part, last_rate=LAST_RATE * part, on_step=keep_open)
    return model


def theirs(corpus: Corpus, text: list[list[str]], epochs: int, seed: int) -> Callable[[], SkipGram]:
    """Training by gensim, whose vectors come into our model to be measured; its vocabulary is made before."""
    settings = {"vector_size": DIMENSIONS, "window": WINDOW, "negative": NEGATIVE, "min_count": MIN_COUNT, "seed": seed}
    word2vec = Word2Vec(sg=1, epochs=epochs, workers=torch.get_num_threads(), **settings)
    word2vec.build_vocab(text)

    def trained() -> SkipGram:
        word2vec.train(text, total_examples=word2vec.corpus_count, epochs=epochs)
        order = [word2vec.wv.key_to_index[word] for word in corpus.words]
        model = SkipGram(len(order), DIMENSIONS)
        with torch.no_grad():
            model.inputs.copy_(torch.from_numpy(word2vec.wv.vectors[order]))
            model.outputs.copy_(torch.from_numpy(word2vec.syn1neg[order]))
        return model

    return trained


def scores_of(model: SkipGram, pairs: list[Batch]) -> Iterator[Tensor]:
    """Scores z of neighbours and of negatives, then the weights of the negatives."""
    with torch.no_grad():
        found = []
        for batch in pairs:
            z = model.core.alpha * (model.inputs[batch.words] @ model.outputs[batch.others].mT)
            neighbours = batch.positive.shape[-1]
            negative = z[..., neighbours:]
            found.append((z[..., :neighbours][batch.positive > 0], negative, batch.negative.expand_as(negative)))
    return (torch.cat([part.flatten() for part in parts]) for parts in zip(*found, strict=True))


def similarity(model: SkipGram, corpus: Corpus, file: str) -> dict[str, Any]:
    """Spearman's correlation with people's judgement, and its interval."""
    numbers = {word: number for number, word in enumerate(corpus.words)}
    lines = [line.lower().split("\t") for line in Path(datapath(file)).read_text().splitlines() if line[:1] != "#"]
    known = [(numbers[a], numbers[b], float(score)) for a, b, score in lines if a in numbers and b in numbers]
    a, b, judged = (torch.tensor(column) for column in zip(*known, strict=True))
    found = torch.cosine_similarity(model.inputs[a], model.inputs[b]).detach().numpy()
    generator = np.random.default_rng(0)
    samples = (generator.integers(0, len(known), len(known)) for _ in range(1000))
    bootstrap = [100 * spearmanr(found[chosen], judged[chosen]).statistic for chosen in samples]
    low, high = np.nanpercentile(bootstrap, [2.5, 97.5])
    name = file.partition(".")[0]
    value = 100 * spearmanr(found, judged).statistic
    return {
        name: round(value, 1),
        f"{name}_low": round(low, 1),
        f"{name}_high": round(high, 1),
        f"{name}_pairs": len(known),
    }


def measured(model: SkipGram, corpus: Corpus, pairs: list[Batch]) -> dict[str, Any]:
    with torch.no_grad():
        total = sum(float(loss(model, batch)) for batch in pairs) / sum(float(b.positive.sum()) for b in pairs)
    positive, negative, weights = scores_of(model, pairs)
    z = torch.cat([-positive, negative])  # right is below 0
    weight = torch.cat([torch.ones_like(positive), weights])
    saturated = weight * (relative_slope(z) < FLOOR)
    return {
        "loss": round(total, 4),
        **similarity(model, corpus, "wordsim353.tsv"),
        **similarity(model, corpus, "simlex999.txt"),
        "slope": float(model.core.alpha),
        "saturated": round(100 * float(saturated.sum() / weight.sum()), 2),
        "wrong": round(100 * float((saturated * (z > 0)).sum() / saturated.sum().clamp_min(1)), 2),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, metavar="FILE", help="a larger text")
    options = parser.parse_args()
    epochs = {"lee": 1 if options.quick else 5, "larger": 1}
    report = Report(
        "skipgram",
        options,
        key=("data", "method", "seed"),
        seeds=[0] if options.quick else [0, 1, 2],
        settings={
            "epochs": epochs,
            "gensim": gensim.__version__,
            "dimensions": DIMENSIONS,
            "data": str(options.data and options.data.name),
        },
    )
    texts = {"lee": Path(datapath("lee_background.cor")).read_text().replace("\n", "\n\n")}
    if options.data is not None:
        texts["larger"] = read(options.data)
    for data, content in texts.items():
        text = sentences(content)
        corpus = Corpus.of_sentences(text, MIN_COUNT)
        pairs = [b for _, b in islice(batches(corpus, WINDOW, NEGATIVE, torch.Generator().manual_seed(99)), MEASURED)]
        for seed in report.seeds if data == "lee" else report.seeds[:1]:
            for method in ("gensim", *SLOPES):
                if not report.wants(data=data, method=method, seed=seed):
                    continue
                if method == "gensim":
                    training = theirs(corpus, text, epochs[data], seed)
                else:
                    training = partial(ours, corpus, method, epochs[data], seed, pairs)
                wall, processor = time.perf_counter(), time.process_time()
                model = training()
                wall, processor = time.perf_counter() - wall, time.process_time() - processor
                words = corpus.length * epochs[data]
                report.add(
                    data=data,
                    method=method,
                    seed=seed,
                    **measured(model, corpus, pairs),
                    words=corpus.length,
                    vocabulary=len(corpus.words),
                    words_per_second=round(words / wall),
                    words_per_processor_second=round(words / processor),
                )
    report.finish()


if __name__ == "__main__":
    main()
