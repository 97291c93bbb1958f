"""Three new users: a student with the article, an engineer with a stuck model, a researcher with a PINN."""

import subprocess
import sys

import pytest
import torch

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]

RUN = """
import sys, torch
program = torch.export.load({!r}).module()
torch.save(program(torch.load({!r})), {!r})
print("sigmoidcore" in sys.modules)
"""


def test_a_student_goes_from_the_articles_points_to_a_hundred_layers(example, tmp_path):
    fitted, profiles, accuracies = example("article_to_depth").main(["--folder", str(tmp_path), "--epochs", "3"])
    assert fitted.loss[-1] < fitted.loss[0] / 80
    assert profiles["plain sigmoids"].spread > 1e30
    assert profiles["Sigmoid Core"].spread < 1.2
    assert accuracies["plain sigmoids"] < 15
    assert accuracies["Sigmoid Core"] > 90
    assert [(tmp_path / name).stat().st_size > 10_000 for name in ("fit.png", "profiles.png")] == [True, True]


def test_an_engineer_repairs_a_stuck_model_and_ships_it_without_sigmoidcore(example, tmp_path):
    diagnosis, repaired, model, (inputs, targets) = example("stuck_model").main(["--folder", str(tmp_path)])
    assert diagnosis.findings[0].rule == "US101"
    assert repaired.healthy
    outputs = model(inputs).detach()
    assert (outputs.argmax(1) == targets).double().mean() > 0.95
    torch.save(inputs, tmp_path / "inputs.pt")
    code = RUN.format(*(str(tmp_path / name) for name in ("reader.pt2", "inputs.pt", "outputs.pt")))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "False", done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "outputs.pt"), outputs, rtol=1e-3, atol=1e-3)


def test_a_researcher_replaces_the_tanhs_of_a_physics_informed_network(example):
    before, after = example("pinn_from_tanh").main(["--steps", "500"])
    assert after < 0.1
    assert after < before / 3
