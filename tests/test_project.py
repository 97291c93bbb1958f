"""Facts about the project as a whole: what it depends on, what it may not hold, what a newcomer meets first."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.commands import projects

import sigmoidcore
import unstuck

# Written so that no pattern matches its own text in this file.
REGISTRY_HOSTS = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs\.org|anaconda\.org|deb\.debian\.org"
    r"|--(?:extra-)?index-url|--find-link[s]"
)
MACHINE_PATHS = re.compile(r"(?<![\w.~/])/(?:work|root|home|Users|opt)/\w")
LOCK_FILES = re.compile(r"(?:^|/)(?:[^/]*\.lock|pylock[^/]*\.toml|conda-lock\.yml|package-lock\.json)$")
REQUIREMENTS = sorted(Path(__file__).resolve().parents[1].glob("*/**/requirements*.txt"))


def listed(path: Path) -> list[str]:
    """The requirements in a file."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def texts(root: Path) -> dict[str, str]:
    """The text files that git tracks or would track, by their name."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no git repository that says which files belong to the project: {error}")
    paths = [root / name for name in names if name and (root / name).is_file()]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8", errors="ignore") for path in paths}


def test_the_packages_need_pytorch_and_numpy_only_and_one_needs_the_other() -> None:
    needed = {name: {Requirement(text).name for text in extras[""]} for name, extras in projects().items()}
    assert needed == {"unstuck": {"torch", "numpy"}, "sigmoid-core": {"torch", "numpy", "unstuck"}}


def test_every_requirement_is_a_range_with_a_lower_bound() -> None:
    of_packages = [text for extras in projects().values() for texts in extras.values() for text in texts]
    for requirement in map(Requirement, [*of_packages, *(text for path in REQUIREMENTS for text in listed(path))]):
        if requirement.name in projects() and requirement.extras:
            continue  # one extra that stands for others
        operators = {specifier.operator for specifier in requirement.specifier}
        assert requirement.url is None, requirement
        assert ">=" in operators, f"{requirement}: has no lower bound"
        assert operators <= {">=", "<", "!="}, f"{requirement}: is a pin"


def test_the_extra_all_is_every_extra_and_the_integration_tests_have_their_bounds(root: Path) -> None:
    extras = projects()["sigmoid-core"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == set(extras) - {"all", ""}
    tested = {r.name: r.specifier for r in map(Requirement, listed(root / "tests/integrations/requirements.txt"))}
    for name in ("lightning", "tensorboard", "transformers"):
        assert [tested[r.name] == r.specifier for r in map(Requirement, extras[name])] == [True]


def test_no_file_is_a_lock_or_names_a_registry_host_or_a_folder_of_one_machine(texts: dict[str, str]) -> None:
    assert [name for name in texts if LOCK_FILES.search(name)] == []
    hits = {name: REGISTRY_HOSTS.findall(text) + MACHINE_PATHS.findall(text) for name, text in texts.items()}
    assert {name: found for name, found in hits.items() if found} == {}


def test_the_patterns_find_registries_and_machine_paths_and_leave_links_and_relative_paths_alone() -> None:
    for text in ("see https://pypi" + ".org/project/x", "'/ho" + "me/someone/data'", "(/ro" + "ot/x)"):
        assert REGISTRY_HOSTS.search(text) or MACHINE_PATHS.search(text)
    for text in ("https://example.com/work/paper", "src/work/x", "~/work/x", "#!/usr/bin/env python"):
        assert [REGISTRY_HOSTS.search(text), MACHINE_PATHS.search(text)] == [None, None]


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_readme_is_short_and_its_first_two_commands_are_demo_and_test(root: Path, page: str) -> None:
    text = (root / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:bash|sh|shell|console)?\n(.*?)^```", text, re.M | re.S)
    assert [line for block in blocks for line in block.splitlines()][:2] == ["make demo", "make test"]
    assert text.count("\n") < 120


@pytest.mark.parametrize("package", projects())
def test_a_package_is_typed_and_its_readme_is_short_and_links_to_no_file(root: Path, package: str) -> None:
    text = (root / "packages" / package / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 100
    assert re.findall(r"\]\((?!https://)", text) == [], "a package index has no other files"
    assert len([*(root / "packages" / package / "src").glob("*/py.typed")]) == 1


def test_the_citation_has_the_version_and_issues_ask_for_the_diagnosis(root: Path) -> None:
    assert unstuck.__version__ == sigmoidcore.__version__
    assert f"\nversion: {unstuck.__version__}\n" in (root / "CITATION.cff").read_text("utf-8")
    forms = [
        path.read_text("utf-8") for path in (root / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"
    ]
    assert ["unstuck --json" in form for form in forms] == [True, True]


@pytest.mark.parametrize("package", projects())
def test_the_changelog_of_a_package_is_short_and_has_its_version(root: Path, package: str) -> None:
    text = (root / "packages" / package / "CHANGELOG.md").read_text("utf-8")
    assert text.count("\n") <= 60
    headings = re.findall(r"^## \[(.+?)\]", text, re.M)
    assert headings[:2] == ["Unreleased", unstuck.__version__]


def test_every_target_that_the_ci_runs_is_in_the_makefile(root: Path) -> None:
    script = (root / ".ci" / "run").read_text()
    targets = re.findall(r"^([a-z-]+):.*## ", (root / "Makefile").read_text(), re.M)
    named = " ".join(re.findall(r"^ *step ([^#\n]*)", script, re.M)).split()
    run = [name for name in named if not name.startswith((".", "--"))]
    assert run == ["test", "test-oldest", "test-integrations", "lint", "types", "doctest", "docs"]
    assert set(run) <= set(targets)


def test_an_import_is_quick_and_brings_in_pytorch_at_the_first_name_and_no_package_of_the_shells() -> None:
    code = (
        "import sys, time\n"
        "began = time.process_time()\n"
        "import unstuck, sigmoidcore\n"
        "print(time.process_time() - began < 0.1)\n"
        "print('torch' in sys.modules)\n"
        "import torch, numpy\n"
        "before = set(sys.modules)\n"
        "unstuck.diagnose, sigmoidcore.prepare\n"
        "import sigmoidcore.integrations.sinks\n"
        "shells = {'matplotlib', 'pandas', 'rich', 'scipy', 'sklearn', 'tensorboard', 'typer'}\n"
        "print(shells & (set(sys.modules) - before))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["True", "False", "set()"]
