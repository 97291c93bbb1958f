"""The tables of docs/result_tables/physics.py count right."""

import importlib
from pathlib import Path

import pytest


def row(problem, depth, method, refined, seed=0, rate=0.01, optimizer="adam"):
    key = {"problem": problem, "depth": depth, "method": method, "optimizer": optimizer, "seed": seed}
    return {
        **key,
        "rate": rate,
        "refined": refined,
        "seconds": 3.0 if method == "tanh" else 4.0,
        "seconds_refined": 1.0,
    }


ROWS = [
    row("wave", 16, "tanh", "inf"),
    row("wave", 4, "tanh", 0.4),
    row("wave", 4, "sigmoid-core", 0.9),
    *(row("wave", 4, "sigmoid-core", error, seed) for seed, error in ((1, 0.5), (2, 0.1), (3, 0.2))),
    row("wave", 4, "sigmoid-core-equalizer", 0.1),
    row("wave", 16, "sigmoid-core", 0.05, rate=0.03),
    row("kdv", 4, "tanh", 0.2),
    row("kdv", 4, "sigmoid-core", 0.21),
    row("kdv", 4, "tanh", 0.001, optimizer="soap"),
]


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3] / "docs")
    module = importlib.import_module("result_tables.physics")
    monkeypatch.setattr(module, "measured", lambda: ROWS)
    steps = ("tanh", 1.0), ("sigmoid-core", 1.2), ("sigmoid-core", 1.8)
    monkeypatch.setattr(module, "rows", lambda name: [{"method": m, "over_tanh": ratio} for m, ratio in steps])
    return module


def test_errors_are_medians_of_the_seeds_to_report_by_equation_and_depth(tables):
    assert list(tables.physics()) == [
        ("wave", "4", "0.4", "**0.2**"),
        ("wave", "16", "inf", "**0.05**"),
        ("kdv", "4", "**0.2**", "0.21"),
    ]


def test_methods_are_counted_over_all_cells(tables):
    tanh, core = tables.physics_methods()
    # cells, first or nearly, over tanh, over the best other, worse than tanh, 16 over 4 layers, a step over tanh's
    assert tanh == ("tanh", "3", "1", "1.00", "3.36", "0", "2.50", "1.00")
    assert core == ("sigmoid-core", "3", "3", "0.30", "0.30", "0", "0.25", "1.47")


def test_a_cell_without_a_usual_method_is_left_out_and_an_unusual_method_does_not_count(tables, monkeypatch):
    monkeypatch.setattr(tables, "measured", lambda: [*ROWS, row("heat", 4, "tanh", 0.3)])
    assert {(cells[0], cells[1]) for cells in tables.physics()} == {("wave", "4"), ("wave", "16"), ("kdv", "4")}
    assert [cells[0] for cells in tables.physics_methods()] == ["tanh", "sigmoid-core"]


def test_the_best_method_of_an_equation_is_named_with_its_layers_and_rate(tables):
    assert list(tables.physics_choice()) == [
        ("wave", "sigmoid-core", "16", "0.03", "0.05", "5", "0.4 (4 layers)", "0.05 (16 layers)"),
        ("kdv", "tanh", "4", "0.01", "0.2", "4", "0.2 (4 layers)", "0.21 (4 layers)"),
    ]
