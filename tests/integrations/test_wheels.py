"""What is published: each distribution builds, and works in an environment that has nothing else of this project."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import sigmoidcore
import unstuck

pytestmark = pytest.mark.integration

VERSIONS = {"unstuck": unstuck.__version__, "sigmoid_core": sigmoidcore.__version__}
OURS = ("sigmoid", "unstuck", "_editable", "__editable__")
ROOT = Path(__file__).resolve().parents[2]
OLDEST = ROOT / ".venv-oldest" / "lib" / "python3.11" / "site-packages"
"""Of `make test-oldest`, which the CI runs before these tests."""
DIAGNOSE = """
import importlib.util, sys
import torch, unstuck
from torch import nn
model = nn.Sequential(*(m for _ in range(20) for m in (nn.Linear(64, 64), nn.Sigmoid())), nn.Linear(64, 10))
batch = torch.randn(64, 64), torch.randint(10, (64,)), nn.functional.cross_entropy
(finding,) = unstuck.diagnose(model, *batch).findings
print(finding.call)
exec(finding.call, {"torch": torch, "model": model, "inputs": batch[0], "sc": SC and __import__("sigmoidcore")})
assert unstuck.diagnose(model, *batch).healthy
assert "sigmoidcore" in sys.modules if SC else importlib.util.find_spec("sigmoidcore") is None
"""


def run(*command: object, cwd: Path) -> str:
    """Run a command, which has to succeed; return what it prints on both streams."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "UNSTUCK_LANG")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The wheel of each package, built from its sdist, and the sdist; twine has checked both."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, ROOT / ".ci" / "dist.py", "--build-only", "--output", folder, cwd=folder)
    return {package: sorted(folder.glob(f"{package}-*")) for package in VERSIONS}


@pytest.fixture(scope="module", params=["newest", "oldest"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with PyTorch and all other packages of this one, or of the oldest versions, but without ours."""
    packages = OLDEST if request.param == "oldest" else Path(sysconfig.get_paths()["purelib"])
    if not packages.exists():
        pytest.skip("no .venv-oldest: make test-oldest")
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False)
    (folder / "others").mkdir()
    for path in packages.iterdir():
        if not path.name.startswith(OURS):
            (folder / "others" / path.name).symlink_to(path)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(str(folder / "others"))
    return folder / "venv" / "bin" / "python"


@pytest.mark.parametrize("package", VERSIONS)
def test_wheel_and_sdist_have_version_and_description_and_hold_one_package(built, package):
    wheel, sdist = built[package]
    stem = f"{package}-{VERSIONS[package]}"
    assert [wheel.name, sdist.name] == [f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"]
    imported = package.replace("_", "")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"{imported}/__init__.py", f"{imported}/py.typed", f"{imported}/language/zh.mo"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {package, imported}
    with tarfile.open(sdist) as archive:
        assert f"{stem}/README.md" in archive.getnames()


def test_every_verb_and_readme_runs_from_the_wheels_and_sigmoid_core_adds_its_calls(built, python, tmp_path):
    calls = {"unstuck": ("None", "torch.nn.init.orthogonal_"), "sigmoid_core": ("True", "sc.prepare(model, inputs)")}
    for package, (ours, call) in calls.items():
        wheel = built[package][0]
        run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, cwd=tmp_path)
        assert call in run(python, "-c", DIAGNOSE.replace("SC", ours), cwd=tmp_path)
        folder, name = tmp_path / package, package.replace("_", "-")
        folder.mkdir()
        shutil.copy(ROOT / ".ci" / "smoke.py", tmp_path)
        page = shutil.copy(ROOT / "packages" / name / "README.md", tmp_path / f"{name}.md")
        said = run(python, "../smoke.py", name, page, cwd=folder)
        assert f"{name}: every verb" in said
        assert str(python.parents[1]) in said  # not the repository
        assert run(python.parent / name, "--version", cwd=folder).split() == [name, VERSIONS[package]]
