"""`sigmoid-core skipgram`: what it writes and shows, how it is interrupted, and what it refuses."""

import random
import re

import pytest
from support.terminal import ESCAPE, in_terminal

from sigmoidcore.cli import main, skipgram

SMALL = ["--dimensions", "4", "--epochs", "2"]


@pytest.fixture(autouse=True)
def _corpus(tmp_path):
    """A folder with a text of 30 words that occur 100 times, more or less, and two that occur once."""
    chosen = random.Random(0)
    lines = [" ".join(f"word{chosen.randrange(30)}" for _ in range(10)) for _ in range(300)]
    (tmp_path / "text.txt").write_text("\n".join([*lines, "rare señor"]), encoding="utf-8")


def test_the_vectors_are_written_in_the_format_of_word2vec(capsys, tmp_path):
    assert main(["skipgram", "text.txt", "-o", "out.txt", *SMALL]) == 0
    output, error = capsys.readouterr()
    assert error == ""
    assert "3,002 words, 30 different ones at least 5 times" in output
    head, *lines = (tmp_path / "out.txt").read_text().splitlines()
    assert head == "30 4"
    rows = [line.split(" ") for line in lines]
    assert {row[0] for row in rows} == {f"word{n}" for n in range(30)}
    assert all(len(row) == 5 and all(abs(float(number)) < 100 for number in row[1:]) for row in rows)


def test_the_seed_decides_the_vectors_and_min_count_the_words(tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(["skipgram", "text.txt", "-o", name, "--seed", seed, "--min-count", "1", *SMALL]) == 0
    a, b, c = ((tmp_path / name).read_text(encoding="utf-8") for name in "abc")
    assert a == b != c
    assert a.startswith("32 4\n")
    assert "señor " in a


def test_a_terminal_shows_a_bar_and_the_words_per_second(tmp_path):
    code, written = in_terminal(["skipgram", "text.txt", "--dimensions", "50", "--epochs", "300"], 60)
    assert code == 0
    text = ESCAPE.sub("", written)
    assert re.search(r"epoch \d+ of 300: [\d,]+ words/s, \d+:\d\d left", text)
    assert "━" in text
    assert (tmp_path / "vectors.txt").exists()


def test_an_interruption_saves_the_vectors_and_says_so(capsys, monkeypatch, tmp_path):
    original, steps = skipgram.Bar.update, []

    def interrupted_in_the_second_epoch(bar, progress):
        original(bar, progress)
        steps.append(progress)
        if progress.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(skipgram.Bar, "update", interrupted_in_the_second_epoch)
    assert main(["skipgram", "text.txt", "-o", "out.txt", "--epochs", "50"]) == 130
    assert "interrupted in epoch 2 of 50: out.txt has the vectors of this moment" in capsys.readouterr().err
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 31
    assert steps[-1].done < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.txt"], "missing.txt does not exist: give a text file"),
        (["."], ". is a folder: give a text file"),
        (["binary"], "binary is not UTF-8 text"),
        (["empty"], "0 words occur at least 5 times (there are none): lower --min-count"),
        (["text.txt", "--min-count", "1000"], "lower --min-count"),
        (["text.txt", "-o", "text.txt"], "text.txt is the input"),
        (["text.txt", "-o", "there"], "there exists: give another name, or --overwrite"),
        (["text.txt", "-o", "no/folder.txt"], "there is no folder no"),
        (["text.txt", "--dimensions", "0"], "'--dimensions'"),
        (["text.txt", "--epochs", "many"], "'--epochs'"),
    ],
)
def test_bad_input_ends_in_one_line(arguments, message, capsys, tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "there").write_text("mine")
    assert main(["skipgram", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (tmp_path / "there").read_text() == "mine"
    assert not (tmp_path / "vectors.txt").exists()
