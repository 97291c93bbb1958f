"""`unstuck` with the Trainer, LoRA of PEFT and a diffusion model: nothing is accused."""

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.integration]


@pytest.mark.parametrize("script", ["trainer", "lora", "diffusion"])
def test_trainings_of_today_are_healthy(root, tmp_path, script):
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "unstuck", "--fail-on", "warning", "--json", report]
    result = subprocess.run(
        [*command, root / "benchmarks" / "modern_scripts" / f"{script}.py", "40"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    verdict = json.loads(report.read_text(encoding="utf-8"))
    assert verdict["healthy"]
    assert verdict["measurement"]["step"] == 30
