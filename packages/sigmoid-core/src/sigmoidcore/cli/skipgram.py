"""`sigmoid-core skipgram`: word vectors of a text."""

import contextlib
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.text import Text

from sigmoidcore.cli.common import OVERWRITE
from sigmoidcore.peers.skipgram import Progress, SkipGram, read_corpus, train, write_vectors
from sigmoidcore.training.display import REDRAW, Screen, clock
from sigmoidcore.training.session import CtrlC, threads
from sigmoidcore.training.use import check_output
from sigmoidcore.language import _
from unstuck.language.errors import Stopped

WAIT = 10.0
"""Seconds between two plain lines."""
CORPUS = typer.Argument(
    metavar="CORPUS", show_default=False, help="Text file: a sentence a line, words between spaces."
)
OUTPUT = typer.Option("--output", "-o", metavar="FILE", help="Where the vectors go, in the text format of word2vec.")
SEED = typer.Option("--seed", metavar="N", min=0, max=2**63 - 1, help="Seed of everything that is random.")


def skipgram(
    corpus: Annotated[Path, CORPUS],
    output: Annotated[Path, OUTPUT] = Path("vectors.txt"),
    dimensions: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Size of a vector.")] = 100,
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Passes over the text.")] = 5,
    window: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="Largest distance of two neighbours.")] = 5,
    negative: Annotated[int, typer.Option(metavar="N", min=1, help="Negatives for each pair of neighbours.")] = 5,
    min_count: Annotated[int, typer.Option(metavar="N", min=1, help="Words that occur less often are left out.")] = 5,
    seed: Annotated[int, SEED] = 0,
    cores: Annotated[int, typer.Option("--threads", metavar="N", min=1, max=1024, help="CPU threads.")] = 1,
    overwrite: OVERWRITE = False,
) -> int:
    """Train word vectors by skip-gram with negative sampling."""
    check_output(output, overwrite, corpus)
    screen = Screen.of_stdout()
    text = read_corpus(corpus, min_count)
    counts = {"words": text.length, "different": len(text.words), "times": min_count}
    screen.verbatim(_("{words:,} words, {different:,} different ones at least {times} times", **counts))
    torch.manual_seed(seed)
    model = SkipGram(len(text.words), dimensions)
    bar = Bar(screen, epochs)
    stopped = False
    with CtrlC() as ctrl_c, threads(cores):

        def on_step(progress: Progress) -> None:
            ctrl_c.check()
            bar.update(progress)

        try:
            with bar.live or contextlib.nullcontext():
                train(model, text, epochs=epochs, window=window, negative=negative, seed=seed, on_step=on_step)
        except KeyboardInterrupt:
            stopped = True
        write_vectors(output, text.words, model.inputs)
    call = f"KeyedVectors.load_word2vec_format({str(output)!r})"
    screen.verbatim(_("{file}: {count:,} vectors; gensim: {call}", file=output, count=len(text.words), call=call))
    if stopped:
        raise Stopped(
            "interrupted in {epoch}: {file} has the vectors of this moment", ctrl_c.code, epoch=bar.text, file=output
        )
    return 0


class Bar:
    """A line and a bar that are redrawn in a terminal, or a plain line now and then."""

    def __init__(self, screen: Screen, epochs: int) -> None:
        self.live = screen.redrawn() if screen.live else None
        self.text = _("epoch {epoch} of {epochs}", epoch=1, epochs=epochs)
        self._screen, self._epochs = screen, epochs
        self._began = self._shown = time.monotonic()

    def update(self, progress: Progress) -> None:
        """Show the progress, if the last time was long ago."""
        now = time.monotonic()
        self.text = _("epoch {epoch} of {epochs}", epoch=progress.epoch, epochs=self._epochs)
        if now - self._shown < (WAIT if self.live is None else REDRAW):
            return
        self._shown = now
        left = clock((now - self._began) * (1 - progress.done) / progress.done)
        numbers = {"speed": progress.words_per_second, "time": left}
        line = _("{epoch}: {speed:,.0f} words/s, {time} left", epoch=self.text, **numbers)
        if self.live is None:
            self._screen.verbatim(line)
        else:
            text = Text(line, no_wrap=True, overflow="crop")
            self.live.update(self._screen.bar(progress.done, text), refresh=True)
