"""`unstuck` on 28 training scripts with one mistake each, by two strangers to it, and on the same scripts repaired.

The scripts are in `stranger_scripts/`: those who wrote them knew neither the rules nor the code, and were asked for
mistakes that people ask about in forums. `repairs.diff` repairs them, `causes.toml` says what is wrong and which rules
name it; where no rule knows a cause, none does. Each script runs as a user would run it: `unstuck SCRIPT.py`, trials
and all. Outcomes are those of `diagnosis_failures.py`; a repaired script is *accused* if it has an error or a warning.

Some scripts need torchvision, timm, transformers or scikit-learn.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import torch

from _report import SOURCES, Report, arguments
from diagnosis_failures import outcome
from unstuck.findings import Severity

SCRIPTS = Path(__file__).resolve().parent / "stranger_scripts"
LIMIT = 300
"""Seconds for a script."""


def said(script: Path) -> tuple[list[tuple[str, Severity]], int]:
    """Rules and severities of all findings of a script, in order, and its exit code."""
    paths = os.pathsep.join(map(str, SOURCES))
    environment = dict(os.environ, PYTHONPATH=paths, OMP_NUM_THREADS=str(torch.get_num_threads()))
    command = [sys.executable, "-m", "unstuck", "--json", "found.json", script.name]
    process = subprocess.run(command, cwd=script.parent, env=environment, capture_output=True, timeout=LIMIT)
    diagnoses = [json.loads(file.read_text()) for file in sorted(script.parent.glob("found*.json"))]
    for file in script.parent.glob("found*.json"):
        file.unlink()
    findings = [finding for diagnosis in diagnoses for finding in diagnosis["findings"]]
    return [(finding["rule"], Severity(finding["severity"])) for finding in findings], process.returncode


def main() -> None:
    parser = arguments(__doc__)
    options = parser.parse_args()
    options.threads = options.threads or 1
    causes = tomllib.loads((SCRIPTS / "causes.toml").read_text())
    report = Report("diagnosis_scripts", options, key=("script", "variant"), seeds=[0], settings={"limit": LIMIT})
    with tempfile.TemporaryDirectory() as folder:
        for variant in ("broken", "repaired"):
            place = Path(folder) / variant
            shutil.copytree(SCRIPTS, place)
            if variant == "repaired":
                subprocess.run(["git", "apply", "repairs.diff"], cwd=place, check=True)
            for name, known in list(causes.items())[:: 10 if options.quick else 1]:
                if not report.wants(script=name, variant=variant):
                    continue
                started = time.perf_counter()
                found, code = said(place / f"{name}.py")
                result = outcome(set(known["rules"]), found)
                if variant == "repaired":
                    result = "accused" if any(severity is not Severity.NOTE for _rule, severity in found) else "silent"
                report.add(
                    script=name,
                    variant=variant,
                    outcome=result,
                    said=[[rule, severity.value] for rule, severity in found],
                    code=code,
                    seconds=round(time.perf_counter() - started, 2),
                )
    report.finish()


if __name__ == "__main__":
    main()
