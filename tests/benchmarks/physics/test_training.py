"""The trainings of benchmarks/physics: points, losses, budgets, and the script from end to end."""

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.quasirandom import SobolEngine

import compare_physics
from physics import METHODS, PROBLEMS
from physics.problem import Fields, on_faces
from physics.problems import poisson_holes, poisson_inverse
from physics.training import OPTIMIZERS, Budget, error, refined, trained

SMALL = Budget(width=8, steps=30, points=96, refining=10, fixed=96, looks=3)


def test_derivatives_of_fields_are_those_of_the_function():
    at = torch.rand(20, 2, dtype=torch.float64).requires_grad_()
    x, t = at.unbind(1)
    f = Fields("xt", at, torch.stack([x**3 * t**2, x * t**4], 1)).rows(slice(5, 15))
    x, t = at.detach()[5:15].unbind(1)
    expected = {"": x**3 * t**2, "x": 3 * x**2 * t**2, "xx": 6 * x * t**2, "tx": 6 * x**2 * t, "xt": 6 * x**2 * t}
    for by, values in expected.items():
        torch.testing.assert_close(f(by).detach(), values)
    torch.testing.assert_close(f("tt", of=1).detach(), 12 * x * t**2)
    torch.testing.assert_close(f.at("t"), t)


@pytest.mark.parametrize("name", PROBLEMS)
def test_points_fill_the_box_and_conditions_hold_where_they_are_placed(name):
    problem = PROBLEMS[name]
    cube = torch.rand(3000, len(problem.axes), generator=torch.Generator().manual_seed(0))
    at = problem.placed(cube)
    parts = problem.parts(3000)
    assert at.shape == cube.shape
    assert parts[0].stop >= 2000
    unit = problem.unit(at)
    assert float(unit.abs().max()) <= 1 + 1e-6
    assert unit[parts[0]].amin(0).tolist() == pytest.approx([-1] * len(problem.axes), abs=0.02)
    assert unit[parts[0]].amax(0).tolist() == pytest.approx([1] * len(problem.axes), abs=0.02)
    for term, rows in zip(problem.terms[1:], parts[1:], strict=True):
        on_face = (unit[rows].abs() - 1).abs().amin(1) < 1e-6
        if term.place is poisson_holes.on_circles:
            to_centre = torch.cdist(at[rows], at.new_tensor(poisson_holes.CENTRES)).amin(1)
            torch.testing.assert_close(to_centre, torch.full_like(to_centre, poisson_holes.RADIUS))
        elif term.residual is not poisson_inverse.measured:
            assert bool(on_face.all())


def test_every_face_is_covered_by_points_of_a_sobol_sequence():
    at = on_faces({0: (0.0, 1.0), 1: (0.0, 1.0)})(SobolEngine(2, scramble=True, seed=0).draw(512))
    for axis in (0, 1):
        for end in (0.0, 1.0):
            along = at[at[:, axis] == end][:, 1 - axis]
            counts = torch.histc(along, 4, 0, 1)
            assert counts.tolist() == pytest.approx([32] * 4, abs=3)


def test_the_loss_is_the_weighted_sum_of_the_mean_squares():
    problem = PROBLEMS["convection_10"]
    at = problem.placed(torch.rand(600, 2, generator=torch.Generator().manual_seed(0)))
    start, ends = (at[rows] for rows in problem.parts(600)[1:])

    class Plane(torch.nn.Module):
        def forward(self, unit):
            return (unit[:, :1] + unit[:, 1:] + 2) ** 2 / 2  # (x / pi + 2 t)^2 / 2

    def u(at):
        return (at[:, 0] / math.pi + 2 * at[:, 1]) ** 2 / 2

    inner = at[: problem.parts(600)[0].stop]
    slope = inner[:, 0] / math.pi + 2 * inner[:, 1]
    first, last = u(ends).chunk(2)
    weights = [term.weight for term in problem.terms]
    squares = [
        (slope * (2 + 10 / math.pi)).square().mean(),
        (u(start) - torch.sin(start[:, 0])).square().mean(),
        (first - last).square().mean(),
    ]
    expected = sum(weight * square for weight, square in zip(weights, squares, strict=True))
    torch.testing.assert_close(problem.loss(Plane(), at), expected)


@pytest.mark.parametrize("name", METHODS)
def test_both_phases_lower_the_loss_and_can_be_repeated(name):
    problem, method = PROBLEMS["reaction"], METHODS[name]
    at = problem.placed(torch.rand(600, 2, generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(1)
    losses = [problem.loss(method.build(problem.unit(at), 8, 2, 1), at).item()]
    run, again = (trained(problem, method, method.rates[1], depth=2, seed=1, budget=SMALL) for _ in range(2))
    assert [step for step, _, _ in run.looks] == [10, 20, 30]
    assert run.error == again.error == run.looks[-1][2] == error(problem, run.model)
    losses.append(problem.loss(run.model, at).item())
    after = refined(problem, method, run, seed=1, budget=SMALL)
    losses.append(problem.loss(after.model, at).item())
    assert losses[0] > losses[1] > losses[2]
    assert after.error == error(problem, run.model)


def test_every_equation_can_be_trained_by_every_optimizer():
    for problem in PROBLEMS.values():
        run = trained(problem, METHODS["tanh"], 0.001, depth=2, seed=0, budget=replace(SMALL, steps=2, looks=1))
        assert math.isfinite(run.error)
    pytest.importorskip("pytorch_optimizer")
    assert set(OPTIMIZERS) == {"adam", "soap"}
    run = trained(PROBLEMS["reaction"], METHODS["sigmoid-core"], 0.001, depth=2, seed=0, budget=SMALL, optimizer="soap")
    assert run.error < 1


def test_a_training_that_explodes_has_an_infinite_error():
    run = trained(PROBLEMS["burgers"], METHODS["adaptive-tanh"], 1e20, depth=2, seed=0, budget=SMALL)
    assert run.error == math.inf
    assert refined(PROBLEMS["burgers"], METHODS["adaptive-tanh"], run, seed=0, budget=SMALL).error == math.inf


def test_the_script_chooses_a_rate_with_one_seed_and_keeps_it_for_the_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare_physics, "Budget", lambda: SMALL)
    monkeypatch.setattr(compare_physics, "DEPTHS", (2,))
    path = tmp_path / "physics.json"
    only = ["--only", "problem=reaction", "--only", "method=tanh,siren"]
    monkeypatch.setattr(sys, "argv", ["compare_physics.py", "--output", str(path), "--threads", "1", *only])
    try:
        compare_physics.main()
    finally:
        torch.set_flush_denormal(False)  # for the tests after it, which are about the smallest numbers
    rows = json.loads(path.read_text())["rows"]
    assert [(row["method"], row["seed"]) for row in rows] == [
        (method, seed) for seed in range(4) for method in ("tanh", "siren")
    ]
    first, *others = [row for row in rows if row["method"] == "tanh"]
    assert first["rates"] == list(METHODS["tanh"].rates)
    assert first["rate"] == first["rates"][int(np.argmin(first["errors"]))]
    assert first["error"] == min(first["errors"]) == first["looks"][-1][2]
    assert all(row["rates"] == [first["rate"]] for row in others)
    assert "written to physics.json" in capsys.readouterr().out
