"""What is published: each distribution builds, and works in an environment that has nothing else of this project."""

import os
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
SCRIPT = """
import sys
import torch
from torch import nn

model = nn.Sequential(*(m for _ in range(20) for m in (nn.Linear(64, 64), nn.Sigmoid())), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters())
for _ in range(12):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(torch.randn(64, 64)), torch.randint(10, (64,))).backward()
    optimizer.step()
print("sigmoidcore" in sys.modules)
"""
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


def run(*command: object, cwd: Path, code: int = 0) -> str:
    """Run a command, which has to end with this code; return what it prints on both streams."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "UNSTUCK_LANG")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """The wheel of each package, built from its sdist, and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    for package in VERSIONS:
        source = root / "packages" / package.replace("_", "-")
        run(sys.executable, "-m", "build", "--outdir", folder / package, source, cwd=folder)
    return {package: sorted((folder / package).iterdir()) for package in VERSIONS}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with PyTorch and all other packages of this one, but without ours."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False)
    (folder / "others").mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not path.name.startswith(OURS):
            (folder / "others" / path.name).symlink_to(path)
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "others.pth").write_text(str(folder / "others"))
    return folder / "venv" / "bin" / "python"


def install(wheel: Path, python: Path) -> None:
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel, cwd=wheel.parent)


@pytest.mark.parametrize("package", VERSIONS)
def test_wheel_and_sdist_have_version_and_description_and_hold_one_package(built, package):
    wheel, sdist = built[package]
    stem = f"{package}-{VERSIONS[package]}"
    assert [wheel.name, sdist.name] == [f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"]
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, cwd=wheel.parent)
    imported = package.replace("_", "")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"{imported}/__init__.py", f"{imported}/py.typed", f"{imported}/language/zh.mo"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {package, imported}
    with tarfile.open(sdist) as archive:
        assert f"{stem}/README.md" in archive.getnames()


def test_unstuck_works_alone_and_sigmoid_core_adds_its_calls(built, python, tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    install(built["unstuck"][0], python)
    assert "torch.nn.init.orthogonal_" in run(python, "-c", DIAGNOSE.replace("SC", "None"), cwd=tmp_path)
    command = (python.parent / "unstuck", "--fail-on", "US101", "--json", "diagnosis.json", "train.py")
    said = run(*command, cwd=tmp_path, code=1)
    assert "False\n" in said
    assert "torch.nn.init.orthogonal_" in said
    assert "US101 " in run(python, "-m", "unstuck", "report", "diagnosis.json", cwd=tmp_path)

    install(built["sigmoid_core"][0], python)
    assert "sc.prepare(model, inputs)" in run(python, "-c", DIAGNOSE.replace("SC", "True"), cwd=tmp_path)
    assert "sc.prepare(model, inputs)" in run(*command, cwd=tmp_path, code=1)
    version = run(python.parent / "sigmoid-core", "--version", cwd=tmp_path)
    assert version.split() == ["sigmoid-core", VERSIONS["sigmoid_core"]]
