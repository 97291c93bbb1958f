"""Build both packages into dist/, check them, and use them without the repository: `make dist`.

python .ci/dist.py               # in an empty environment with the newest versions that pip finds
python .ci/dist.py --oldest      # with the lowest versions that the packages allow, which need Python 3.11
python .ci/dist.py --build-only  # build and check

`.ci/smoke.py` says what is used. An environment needs up to 8 GB.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from oldest import lowest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"unstuck": "", "sigmoid-core": "[data,demo]"}
"""The packages in the order in which they are installed, with the extras that their READMEs use."""


def run(*words: str | Path, folder: Path = ROOT) -> None:
    """Run a command, which has to succeed; the checkout is not on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([str(word) for word in words], cwd=folder, env=environment, check=True)


def build(dist: Path) -> None:
    """The sdist of each package, and its wheel from this sdist, in a new folder."""
    shutil.rmtree(dist, ignore_errors=True)
    for package in PACKAGES:
        run(sys.executable, "-m", "build", "--outdir", dist, ROOT / "packages" / package)
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(dist.iterdir()))


def use(dist: Path, constraints: list[str]) -> None:
    """Install the wheels into an empty environment, one after the other, and use each."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(sys.executable, "-m", "venv", folder / "venv")
        python = folder / "venv" / "bin" / "python"
        (folder / "constraints.txt").write_text("\n".join(constraints))
        shutil.copy(ROOT / ".ci" / "smoke.py", folder)
        for package, extras in PACKAGES.items():
            (wheel,) = dist.glob(f"{package.replace('-', '_')}-*.whl")
            wanted = f"{package}{extras} @ {wheel.as_uri()}"
            run(python, "-m", "pip", "install", "-q", "-c", folder / "constraints.txt", wanted)
            shutil.copy(ROOT / "packages" / package / "README.md", folder / f"{package}.md")
            (folder / package).mkdir()
            run(python, "../smoke.py", package, f"../{package}.md", folder=folder / package)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--build-only", action="store_true")
    parser.add_argument("--oldest", action="store_true")
    options = parser.parse_args()
    build(options.output.resolve())
    if not options.build_only:
        bounds = lowest(sorted(ROOT.glob("packages/*/pyproject.toml"))) if options.oldest else {}
        use(options.output.resolve(), [f"{name}=={version}" for name, version in bounds.items()])
