"""`sigmoid-core demo` as a newcomer runs it: in a terminal, with its own defaults."""

import contextlib
import re
from pathlib import Path

import matplotlib.image
import pytest
from support.terminal import ESCAPE, in_terminal

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """Exit code, what the terminal showed, and the folder in which the demo ran."""
    folder = tmp_path_factory.mktemp("demo")
    with contextlib.chdir(folder):
        code, written = in_terminal(["demo"], 80)
    return code, ESCAPE.sub("", written), folder


def test_the_demo_succeeds(demo: tuple[int, str, Path]) -> None:
    code, shown, _ = demo
    assert code == 0, shown


def test_the_closing_table_shows_a_network_that_guesses_and_one_that_has_learned(demo: tuple[int, str, Path]) -> None:
    _, shown, _ = demo
    table = shown[shown.rindex("100 layers, 10 epochs") :]
    accuracies = re.search(r"test accuracy +([\d.]+) % +([\d.]+) %", table)
    spreads = re.search(r"spread at start +(\w+) +([\d.]+)", table)
    assert accuracies is not None
    assert spreads is not None
    assert float(accuracies[1]) < 15
    assert float(accuracies[2]) > 93
    assert spreads[1] == "infinite"
    assert float(spreads[2]) < 1.02
    assert re.search(r"time per step +[\d.]+ ms +[\d.]+ ms", table)


def test_the_figures_that_it_names_are_there_and_not_blank(demo: tuple[int, str, Path]) -> None:
    _, shown, folder = demo
    named = sorted(set(re.findall(r"sigmoid-core-demo/\w+\.png", shown)))
    drawn = ["article_fit", "gradient_profiles"]
    assert [Path(name).stem for name in named] == drawn
    for name in named:
        image = matplotlib.image.imread(folder / name)[..., :3]
        assert min(image.shape[:2]) > 400
        assert 0.005 < (image < 0.9).any(axis=2).mean() < 0.9, name
