"""What a newcomer does: clone, look at what make would do, and install the wheel."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import sigmoidcore

pytestmark = pytest.mark.integration

TESTS = ".venv/bin/python -m pytest -n auto --maxprocesses 8 --dist loadscope"


def run(*command: str, cwd: Path) -> str:
    # Within `make test-integrations` the variables of that make would reach the makes in here.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONPATH")
    }
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def clone(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the last commit, in a folder with a space in its name."""
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True)
    if head.returncode != 0:
        pytest.skip("not a git repository with a commit, so there is nothing to clone")
    target = tmp_path_factory.mktemp("fresh") / "sigmoid core"
    run("git", "clone", "--quiet", str(root), str(target), cwd=root)
    return target


@pytest.fixture(scope="module")
def distributions(clone: Path) -> list[Path]:
    """The sdist, and the wheel that is built from it."""
    run(sys.executable, "-m", "build", cwd=clone)
    return sorted((clone / "dist").iterdir())


@pytest.mark.parametrize(
    ("target", "extra", "command"),
    [("demo", "demo", ".venv/bin/sigmoid-core demo"), ("test", "test", TESTS)],
)
def test_make_installs_the_package_before_it_runs_it(clone: Path, target: str, extra: str, command: str) -> None:
    plan = run("make", "-n", target, cwd=clone).splitlines()
    created = next(i for i, line in enumerate(plan) if "-m venv .venv" in line)
    installed = next(i for i, line in enumerate(plan) if "-m pip install" in line and f'-e ".[{extra}]"' in line)
    assert created < installed < plan.index(command)
    assert plan[-1] == command


def test_make_installs_nothing_a_second_time(clone: Path) -> None:
    (clone / ".venv").mkdir()
    for stamp in (".made", ".installed-test"):
        (clone / ".venv" / stamp).touch()
    assert run("make", "-n", "test", cwd=clone).splitlines() == [TESTS]


def test_make_names_the_remedy_where_there_is_no_suitable_python(clone: Path) -> None:
    (clone / ".venv" / ".made").unlink(missing_ok=True)
    result = subprocess.run(["make", "setup", "PYTHON=/nonexistent/python"], cwd=clone, capture_output=True, text=True)
    assert result.returncode != 0
    assert "needs Python 3.11 or newer" in result.stderr
    assert "make setup PYTHON=" in result.stderr


def test_sdist_and_wheel_have_the_version_of_the_package_and_a_valid_description(distributions: list[Path]) -> None:
    names = [f"sigmoid_core-{sigmoidcore.__version__}{ending}" for ending in ("-py3-none-any.whl", ".tar.gz")]
    assert [path.name for path in distributions] == names
    run(sys.executable, "-m", "twine", "check", "--strict", *map(str, distributions), cwd=distributions[0].parent)


def test_the_wheel_holds_the_package_and_nothing_else(distributions: list[Path]) -> None:
    names = zipfile.ZipFile(distributions[0]).namelist()
    assert "sigmoidcore/__init__.py" in names
    assert "sigmoidcore/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"sigmoidcore", "sigmoid_core"}


def test_the_wheel_trains_in_a_new_environment_without_repository(distributions: list[Path], tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    install = ("-m", "pip", "--python", str(python), "install", "--no-deps", str(distributions[0]))
    run(sys.executable, *install, cwd=tmp_path)
    # PyTorch and the others are those of this environment; its link to the repository is not followed.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"])
    where = run(str(python), "-c", "import sigmoidcore; print(sigmoidcore.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(site)
    command = str(python.parent / "sigmoid-core")
    assert run(command, "--version", cwd=tmp_path).split() == ["sigmoid-core", sigmoidcore.__version__]
    run(command, "train", "--data", "digits", "--epochs", "1", "--depth", "3", "--output", "run", cwd=tmp_path)
    assert "accuracy" in run(command, "evaluate", "run", cwd=tmp_path)
