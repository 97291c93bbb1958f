"""What a newcomer does first: clone, and run make."""

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

TESTS = ".venv/bin/python -m pytest -n auto --maxprocesses 8 --dist loadscope"


def run(*command: str, cwd: Path, code: int = 0) -> str:
    # Within `make test-integrations` the variables of that make would reach the makes in here.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))
    }
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)
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


def test_make_demo_installs_runs_and_leaves_the_tree_clean_and_installs_nothing_a_second_time(clone: Path) -> None:
    venv.create(clone / ".venv", with_pip=True)
    (site,) = (clone / ".venv" / "lib").glob("python*/site-packages")
    # PyTorch and the others are those of this environment, so that they are not installed again.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    said = run("make", "demo", cwd=clone)
    assert "test accuracy" in said
    assert "Sigmoid Core" in said
    where = run(".venv/bin/python", "-c", "import sigmoidcore, unstuck; print(unstuck.__file__)", cwd=clone)
    assert Path(where.strip()).is_relative_to(clone / "packages" / "unstuck")
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    assert run("make", "-n", "demo", cwd=clone).splitlines() == [".venv/bin/sigmoid-core demo"]
