"""Draw physics_depth.svg and physics_solutions.png from the results of compare_physics.py.

The solutions are trained here, with the rates of the results: some minutes.
"""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from sigmoidcore.plots.style import INK, PALETTE, legend_below, new_figure, style_axes

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from result_tables.physics import TUNING_SEED, cells, measured, methods
from svg import svg

from physics import METHODS, PROBLEMS
from physics.training import Budget, refined, trained

HERE = Path(__file__).parent
SHOWN = {
    "sigmoid-core": ("vermilion", "-"),
    "tanh": ("black", "-"),
    "tanh-orthogonal": ("black", "--"),
    "piratenet": ("blue", "-"),
    "modified-mlp": ("blue", "--"),
    "adaptive-tanh": ("green", "-"),
    "l-laaf": ("green", "--"),
    "siren": ("purple", "-"),
    "fourier-features": ("purple", "--"),
}
"""Colours and lines; other methods are in the tables alone."""
COLUMNS = 4
SOLUTIONS, DEPTH = ("wave", "convection_30", "navier_stokes", "poisson_holes"), 8
COMPARED = {"tanh": "tanh", "piratenet": "PirateNet", "sigmoid-core": "Sigmoid Core"}
SIDE = 150


def style(method: str) -> dict[str, Any]:
    """Options of a method's line."""
    colour, line = SHOWN[method]
    return {"color": PALETTE[colour], "linestyle": line, "linewidth": 2 if method == "sigmoid-core" else 1.2}


def panels(names: list[str]) -> tuple[Figure, dict[str, Any]]:
    """A figure with one panel for each equation, four in a row."""
    lines = math.ceil(len(names) / COLUMNS)
    figure = new_figure(12.0, 2.6 * lines + 0.8)
    grid = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    return figure, dict(zip(names, grid, strict=False))


def over_depth(rows: list[dict[str, Any]]) -> Figure:
    """Of every equation."""
    found = cells(rows)
    figure, of = panels(list(dict.fromkeys(problem for problem, _ in found)))
    for problem, axes in of.items():
        for method in (name for name in SHOWN if name in methods(found)):
            at = {depth: c[method].error for (name, depth), c in found.items() if name == problem and method in c}
            axes.plot(at.keys(), at.values(), marker="o", markersize=4, label=method, **style(method))
        style_axes(axes, problem, "layers", "error")
        axes.set(xscale="log", yscale="log", xticks=(4, 8, 16), xticklabels=("4", "8", "16"))
        axes.minorticks_off()
    return with_legend(figure)


def with_legend(figure: Figure) -> Figure:
    """One entry for each method."""
    known = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    legend_below(figure, handles=list(known.values()), labels=list(known), ncols=5)
    return figure


def solutions(rows: list[dict[str, Any]]) -> Figure:
    """A row for each equation that was measured: the reference, and what some methods say, with their errors."""
    rates = {
        (row["problem"], row["method"]): row["rate"]
        for row in rows
        if (row["depth"], row["optimizer"], row["seed"]) == (DEPTH, "adam", TUNING_SEED)
    }
    names = [name for name in SOLUTIONS if all((name, method) in rates for method in COMPARED)]
    figure = new_figure(8.8, 2.0 * len(names))
    grid = figure.subplots(len(names), 1 + len(COMPARED), squeeze=False)
    for line, name in zip(grid, names, strict=True):
        problem = PROBLEMS[name]
        points = problem.grid(SIDE**2)
        expected = problem.solution(points)[:, 0]
        pictures = {"reference": expected}
        for method in COMPARED:
            options = {"seed": 1, "budget": Budget()}
            run = trained(problem, METHODS[method], rates[name, method], depth=DEPTH, **options)
            run = refined(problem, METHODS[method], run, **options)
            with torch.no_grad():
                at = problem.unit(torch.tensor(points, dtype=torch.float32))
                pictures[f"{COMPARED[method]}, error {run.error:.2g}"] = run.model(at)[:, problem.measured[0]].numpy()
        low, high = expected.min(), expected.max()
        for axes, (title, values) in zip(line, pictures.items(), strict=True):
            picture = np.full((SIDE, SIDE), np.nan)
            places = np.rint((points - problem.low) / np.subtract(problem.high, problem.low) * (SIDE - 1)).astype(int)
            picture[tuple(places.T)] = values
            sides = problem.axes if "t" not in problem.axes else "tx"
            shown = picture if "t" in problem.axes else picture.T
            axes.imshow(shown, origin="lower", aspect="auto", vmin=low, vmax=high, cmap="viridis")
            axes.set_title(name if title == "reference" else title, loc="left", fontsize=9, color=INK)
            axes.set(xlabel=sides[0], ylabel=sides[1], xticks=(), yticks=())
    return figure


def main() -> None:
    """Draw both."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    rows = measured()
    (HERE / "physics_depth.svg").write_text(svg(over_depth(rows)), encoding="utf-8")
    solutions(rows).savefig(HERE / "physics_solutions.png", dpi=110)


if __name__ == "__main__":
    main()
