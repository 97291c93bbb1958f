"""What a newcomer does first: clone, and run make."""

import contextlib
import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path
from unittest import mock

import matplotlib.image
import pytest
from support.terminal import ESCAPE, in_terminal

pytestmark = pytest.mark.integration

TESTS = ".venv/bin/python -m pytest -n auto --maxprocesses 8 --dist loadscope"


def outside_of_make() -> dict[str, str]:
    """The variables without those of the `make test-integrations` that runs these tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))}


def run(*command: str, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(command, cwd=cwd, env=outside_of_make(), capture_output=True, text=True, timeout=500)
    assert done.returncode == code, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def clone(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the last commit, in a folder with a space in its name."""
    if subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True).returncode != 0:
        pytest.skip("not a git repository with a commit, so there is nothing to clone")
    target = tmp_path_factory.mktemp("fresh") / "both packages"
    run("git", "clone", "--quiet", str(root), str(target), cwd=root)
    return target


@pytest.mark.parametrize(
    ("target", "extra", "command"),
    [
        ("demo", "packages/sigmoid-core[lab]", ".venv/bin/sigmoid-core demo"),
        ("test", "-r tests/requirements.txt", TESTS),
    ],
)
def test_make_installs_the_packages_before_it_runs_them(clone: Path, target: str, extra: str, command: str) -> None:
    plan = run("make", "-n", target, cwd=clone).splitlines()
    created = next(i for i, line in enumerate(plan) if "-m venv .venv" in line)
    installed = next(i for i, line in enumerate(plan) if "-m pip install" in line and "-e packages/unstuck" in line)
    assert extra in plan[installed]
    assert created < installed < plan.index(command)
    assert plan[-1] == command


def test_make_names_the_remedy_where_there_is_no_suitable_python(clone: Path) -> None:
    said = run("make", "setup", "PYTHON=/nonexistent/python", cwd=clone, code=2)
    assert "needs Python 3.11 or newer" in said
    assert "make setup PYTHON=" in said


@pytest.fixture(scope="module")
def demo(clone: Path) -> str:
    """What `make demo` shows in a terminal of 80 columns."""
    venv.create(clone / ".venv", with_pip=True)
    (site,) = (clone / ".venv" / "lib").glob("python*/site-packages")
    # PyTorch and the others are those of this environment, so that they are not installed again.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    with contextlib.chdir(clone), mock.patch.dict(os.environ, outside_of_make(), clear=True):
        code, written = in_terminal(["demo"], 80, "make")
    shown = ESCAPE.sub("", written)
    assert code == 0, shown
    return shown


def test_make_demo_leaves_the_tree_clean_and_installs_nothing_a_second_time(clone: Path, demo: str) -> None:
    assert "Sigmoid Core" in demo
    where = run(".venv/bin/python", "-c", "import sigmoidcore, unstuck; print(unstuck.__file__)", cwd=clone)
    assert Path(where.strip()).is_relative_to(clone / "packages" / "unstuck")
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    assert run("make", "-n", "demo", cwd=clone).splitlines() == [".venv/bin/sigmoid-core demo"]


def test_the_closing_table_shows_a_network_that_guesses_and_one_that_has_learned(demo: str) -> None:
    table = demo[demo.rindex("100 layers, 10 epochs") :]
    accuracies = re.search(r"test accuracy +([\d.]+) % +([\d.]+) %", table)
    spreads = re.search(r"spread at start +(\w+) +([\d.]+)", table)
    assert accuracies is not None
    assert spreads is not None
    assert float(accuracies[1]) < 15
    assert float(accuracies[2]) > 93
    assert spreads[1] == "infinite"
    assert float(spreads[2]) < 1.02
    assert re.search(r"time per step +[\d.]+ ms +[\d.]+ ms", table)


def test_the_figures_that_the_demo_names_are_there_and_not_blank(clone: Path, demo: str) -> None:
    named = sorted(set(re.findall(r"sigmoid-core-demo/\w+\.png", demo)))
    drawn = ["article_fit", "gradient_profiles"]
    assert [Path(name).stem for name in named] == drawn
    for name in named:
        image = matplotlib.image.imread(clone / name)[..., :3]
        assert min(image.shape[:2]) > 400
        assert 0.005 < (image < 0.9).any(axis=2).mean() < 0.9, name
