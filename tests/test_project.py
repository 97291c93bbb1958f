"""Facts about the project as a whole: what it depends on, what it may not hold, what a newcomer meets first."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

# Written so that no pattern matches its own text in this file.
REGISTRY_HOSTS = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs\.org|anaconda\.org|deb\.debian\.org"
    r"|--(?:extra-)?index-url|--find-link[s]"
)
MACHINE_PATHS = re.compile(r"(?<![\w.~/])/(?:work|root|home|Users|opt)/\w")
LOCK_FILES = re.compile(
    r"(?:^|/)(?:[^/]*\.lock|pylock[^/]*\.toml|conda-lock\.yml|package-lock\.json|requirements[^/]*\.txt)$"
)


INTEGRATIONS = "tests/integrations/requirements.txt"
"""No lock file, but ranges like those of pyproject.toml."""


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return table


@pytest.fixture(scope="module")
def files(root: Path) -> list[Path]:
    """All files that git tracks or would track."""
    if not (root / ".git").exists():
        pytest.skip("not a git repository, so nothing says which files belong to the project")
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"git is missing or refuses to read this repository: {error}")
    return [root / name for name in names if name and (root / name).is_file()]


def lines(files: list[Path]) -> list[tuple[str, str]]:
    """(file:line, text) of every line of every text file."""
    found = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture or another binary file
        found += [(f"{file.name}:{number}", line) for number, line in enumerate(text.splitlines(), 1)]
    return found


def test_torch_and_numpy_are_all_that_the_package_needs(project: dict[str, Any]) -> None:
    assert {Requirement(text).name for text in project["dependencies"]} == {"torch", "numpy"}


def test_every_requirement_is_a_range_with_a_lower_bound(project: dict[str, Any], root: Path) -> None:
    requirements = [
        *(line for line in (root / INTEGRATIONS).read_text().splitlines() if not line.startswith("#")),
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    for text in requirements:
        requirement = Requirement(text)
        assert requirement.url is None, text
        if requirement.name == project["name"]:
            continue  # one extra that stands for others
        operators = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in operators, f"{text}: has no lower bound"
        assert operators <= {">=", "<", "!="}, f"{text}: is a pin"
        assert "+" not in text, f"{text}: a local version"


def test_the_extra_all_is_every_extra_for_users(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == set(extras) - {"all", "dev", "docs", "test"}


def test_tests_of_integrations_have_the_bounds_of_the_extras(project: dict[str, Any], root: Path) -> None:
    texts = [line for line in (root / INTEGRATIONS).read_text().splitlines() if not line.startswith("#")]
    tested = {found.name: found.specifier for found in map(Requirement, texts)}
    extras = project["optional-dependencies"]
    for name in ("accelerate", "lightning", "onnx", "tensorboard", "transformers"):
        for requirement in map(Requirement, extras[name]):
            assert tested[requirement.name] == requirement.specifier, requirement.name


def is_lock_file(path: str) -> bool:
    return LOCK_FILES.search(path) is not None and not path.endswith(f"/{INTEGRATIONS}")


def test_no_file_is_a_lock_file(files: list[Path]) -> None:
    assert [str(file) for file in files if is_lock_file(file.as_posix())] == []


def test_no_file_names_a_registry_host_or_a_folder_of_one_machine(files: list[Path]) -> None:
    found = [(place, line) for place, line in lines(files) if REGISTRY_HOSTS.search(line) or MACHINE_PATHS.search(line)]
    assert found == []


@pytest.mark.parametrize("text", ["see https://pypi" + ".org/project/x", "'/ho" + "me/someone/data'", "(/ro" + "ot/x)"])
def test_the_patterns_find_registries_and_machine_paths(text: str) -> None:
    assert REGISTRY_HOSTS.search(text) or MACHINE_PATHS.search(text)


@pytest.mark.parametrize("text", ["https://example.com/work/paper", "src/work/x", "~/work/x", "#!/usr/bin/env python"])
def test_the_patterns_leave_links_and_relative_paths_alone(text: str) -> None:
    assert not REGISTRY_HOSTS.search(text)
    assert not MACHINE_PATHS.search(text)


def test_the_first_two_commands_of_the_readme_are_demo_and_test(root: Path) -> None:
    blocks = re.findall(r"^```(?:bash|sh|shell|console)?\n(.*?)^```", (root / "README.md").read_text(), re.M | re.S)
    commands = [line.split("#")[0].strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    assert [command for command in commands if command][:2] == ["make demo", "make test"]


def test_every_target_that_the_ci_runs_is_in_the_makefile(root: Path) -> None:
    loop = re.search(r"for target in (.*); do", (root / ".ci" / "run").read_text())
    assert loop is not None
    targets = re.findall(r"^([a-z-]+):.*## ", (root / "Makefile").read_text(), re.M)
    assert loop[1].split() == ["test", "test-oldest", "test-integrations", "lint", "types", "doctest", "docs"]
    assert set(loop[1].split()) <= set(targets)


def test_the_package_is_typed(root: Path) -> None:
    assert (root / "src" / "sigmoidcore" / "py.typed").is_file()


def test_import_brings_in_no_package_of_the_shells_and_no_integration() -> None:
    code = (
        "import sys, torch, numpy\n"
        "before = set(sys.modules)\n"
        "import sigmoidcore\n"
        "print([name for name in sys.modules if 'integrations' in name])\n"
        "import sigmoidcore.integrations.sinks, sigmoidcore.integrations.watcher\n"
        "shells = {'matplotlib', 'pandas', 'rich', 'scipy', 'sklearn', 'tensorboard', 'typer'}\n"
        "print(shells & (set(sys.modules) - before))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["[]", "set()"]
