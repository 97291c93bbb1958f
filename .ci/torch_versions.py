"""Run the tests with the last patch of every minor release of PyTorch: `python .ci/torch_versions.py`.

One environment after the other is made beside `.venv`, and removed after its run; a version needs up to 8 GB and about
ten minutes. Prints a row for docs/pytorch.md, "Supported versions", after each. Arguments are versions, such as `2.7`.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from oldest import lowest
from packaging.version import Version

LOG = ".venv-torch-{minor}.log"


def releases() -> dict[str, Version]:
    """The newest patch of every minor release that pip can install here."""
    command = [sys.executable, "-m", "pip", "index", "versions", "torch"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    versions = re.search("Available versions: (.*)", listed).group(1).split(", ")
    lowest_allowed = lowest(sorted(Path("packages").glob("*/pyproject.toml")))["torch"]
    newest: dict[str, Version] = {}
    for version in map(Version, versions):
        if version >= lowest_allowed and not version.local:
            minor = f"{version.major}.{version.minor}"
            newest[minor] = max(version, newest.get(minor, version))
    return dict(sorted(newest.items(), key=lambda item: item[1]))


def tested(version: Version, environment: Path, log: Path) -> str:
    """Install this version, run the tests, return what pytest counts."""
    python = environment / "bin" / "python"
    with log.open("w") as output:

        def run(*command: str | Path) -> None:
            subprocess.run(command, check=False, stdout=output, stderr=subprocess.STDOUT)

        run(sys.executable, "-m", "venv", "--clear", environment)
        extras = "data,lab,plots,sklearn,tensorboard"
        packages = ["-e", "packages/unstuck", "-e", f"packages/sigmoid-core[{extras}]", "-r", "tests/requirements.txt"]
        run(python, "-m", "pip", "install", "-q", *packages, f"torch=={version}")
        run(python, "-m", "pytest", "-q", "-n", "auto", "--maxprocesses", "8", "--dist", "loadscope")
    shutil.rmtree(environment)
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped|xfailed)", log.read_text().rsplit("\n", 2)[-2])
    return ", ".join(counts) or f"did not run: see {log}"


def main(chosen: list[str]) -> int:
    """Test the chosen minor releases, or all; 1 if one fails."""
    failed = False
    python = ".".join(map(str, sys.version_info[:2]))
    for minor, version in releases().items():
        if chosen and minor not in chosen:
            continue
        result = tested(version, Path(f".venv-torch-{minor}"), Path(LOG.format(minor=minor)))
        failed |= "passed" not in result or "failed" in result or "error" in result
        print(f"| {version} | {python} | {result} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
