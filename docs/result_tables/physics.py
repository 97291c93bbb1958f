"""Solvers of differential equations: errors by equation, and what they come to for each method.

An error is that after L-BFGS, the median of the seeds to report; where only the seed that chose the rate was measured,
its error. In ratios and means an error above 1 counts as 1, which u = 0 has.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from result_tables.figures import Row, bold, rows
from result_tables.registry import Cells, table

OURS = "sigmoid-core"
BESIDE = ("tanh", "piratenet", OURS)
TUNING_SEED = 0
WITHIN = 1.1
"""An error of at most so many times the lowest is as good as first."""


@dataclass(frozen=True)
class Cell:
    """What a method came to on an equation with a number of layers."""

    error: float
    rate: float
    seconds: float


def cells(measured: Sequence[Row], optimizer: str = "adam") -> dict[tuple[str, int], dict[str, Cell]]:
    """By (equation, layers) and method, of the rows with an optimizer, in the order of the file and of depth."""
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in measured:
        if row["optimizer"] == optimizer:
            groups.setdefault((row["problem"], row["depth"], row["method"]), []).append(row)
    found: dict[tuple[str, int], dict[str, Cell]] = {}
    order = list(dict.fromkeys(problem for problem, _, _ in groups))
    for (problem, depth, method), group in sorted(
        groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
    ):
        reported = [row for row in group if row["seed"] != TUNING_SEED] or group
        found.setdefault((problem, depth), {})[method] = Cell(
            statistics.median(float(row["refined"]) for row in reported),
            group[0]["rate"],
            statistics.median(row["seconds"] + row["seconds_refined"] for row in reported),
        )
    return found


def measured() -> list[Row]:
    """The rows of five files. In the first, Sigmoid Core is a plain network that reads the inputs."""
    before = [row | {"method": f"{OURS}-plain"} if row["method"] == OURS else row for row in rows("physics")]
    files = ("physics_16", "physics_inverse", "physics_sigmoid_core", "physics_more")
    return [*before, *(row for name in files for row in rows(name))]


def complete() -> dict[tuple[str, int], dict[str, Cell]]:
    """The cells of the results that have all methods of more than half of the cells: a run may not be finished."""
    found = cells(measured())
    usual = [name for name in methods(found) if 2 * sum(name in by_method for by_method in found.values()) > len(found)]
    whole = {key: by_method for key, by_method in found.items() if by_method.keys() >= set(usual)}
    return {key: {name: by_method[name] for name in usual} for key, by_method in whole.items()}


def methods(found: dict[tuple[str, int], dict[str, Cell]]) -> list[str]:
    """All methods, in order."""
    return list(dict.fromkeys(method for cell in found.values() for method in cell))


def ratio(cell: Cell, other: Cell) -> float:
    return min(cell.error, 1.0) / min(other.error, 1.0)


def mean(ratios: Sequence[float]) -> str:
    """Geometric; a dash for none."""
    return f"{statistics.geometric_mean(ratios):.2f}" if ratios else "-"


@table
def physics() -> Cells:
    """Equation, layers, and the error of every method: the lowest is bold."""
    found = complete()
    for (problem, depth), by_method in found.items():
        least = min(cell.error for cell in by_method.values())
        errors = {name: bold(f"{cell.error:.2g}", cell.error == least) for name, cell in by_method.items()}
        yield problem, str(depth), *(errors.get(name, "-") for name in methods(found))


@table
def physics_methods() -> Cells:
    """Method, cells, first or nearly, over tanh, over the best other, worse than tanh, 16 over 4 layers, step."""
    found = complete()
    for method in methods(found):
        mine = {key: by_method for key, by_method in found.items() if method in by_method}
        others = {
            key: min((cell for name, cell in by_method.items() if not same(name, method)), key=lambda cell: cell.error)
            for key, by_method in mine.items()
        }
        over_best = [ratio(by_method[method], others[key]) for key, by_method in mine.items()]
        beside_tanh = [by_method for by_method in mine.values() if "tanh" in by_method]
        over_tanh = [ratio(by_method[method], by_method["tanh"]) for by_method in beside_tanh]
        deeper = [
            ratio(by_method[method], mine[problem, 4][method])
            for (problem, depth), by_method in mine.items()
            if depth == 16 and (problem, 4) in mine
        ]
        yield (
            method,
            str(len(mine)),
            f"{sum(value <= WITHIN for value in over_best)}",
            mean(over_tanh),
            mean(over_best),
            f"{sum(value > 1.2 for value in over_tanh)}",
            mean(deeper),
            mean([row["over_tanh"] for row in rows("physics_steps") if row["method"] == method]),
        )


@table
def physics_seeds() -> Cells:
    """Equation, and the median of three other seeds with 8 layers: of tanh, PirateNet and Sigmoid Core; their means."""
    yield from _beside_tanh(cells(_seeds()))


@table
def physics_soap() -> Cells:
    """The same with SOAP in the place of Adam; the last row has the errors over those with Adam."""
    found, with_adam = cells(rows("physics_soap"), "soap"), cells(_seeds())
    yield from _beside_tanh(found)
    pairs = {name: [(found[key][name], with_adam[key][name]) for key in found] for name in BESIDE}
    yield "over Adam, geometric mean", *(mean([ratio(*pair) for pair in pairs[name]]) for name in BESIDE)


def _seeds() -> list[Row]:
    return [*rows("physics_seeds"), *rows("physics_seeds_sigmoid_core")]


def _beside_tanh(found: dict[tuple[str, int], dict[str, Cell]]) -> Cells:
    for (problem, _), by_method in found.items():
        least = min(by_method[name].error for name in BESIDE)
        yield problem, *(bold(f"{by_method[name].error:.2g}", by_method[name].error == least) for name in BESIDE)
    over = [mean([ratio(by_method[name], by_method["tanh"]) for by_method in found.values()]) for name in BESIDE]
    yield "over tanh, geometric mean", *over


@table
def physics_choice() -> Cells:
    """Equation; the best method with its layers, rate, error and seconds; the best of tanh and of Sigmoid Core."""
    found = complete()
    for problem in dict.fromkeys(problem for problem, _ in found):
        tried = {
            (depth, name): cell
            for (equation, depth), by_method in found.items()
            if equation == problem
            for name, cell in by_method.items()
        }

        def best(*names: str, tried: dict[tuple[int, str], Cell] = tried) -> tuple[int, str]:
            wanted = [key for key in tried if not names or key[1] in names]
            return min(wanted, key=lambda key: tried[key].error)

        first, cell = best(), tried[best()]
        beside = (best(name) for name in ("tanh", OURS))
        yield (
            problem,
            first[1],
            str(first[0]),
            f"{cell.rate:g}",
            f"{cell.error:.2g}",
            f"{cell.seconds:.0f}",
            *(f"{tried[key].error:.2g} ({key[0]} layers)" for key in beside),
        )


def same(name: str, other: str) -> bool:
    """Whether both are Sigmoid Core, with and without the Equalizer, which are no rivals."""
    return name == other or (name.startswith(OURS) and other.startswith(OURS))
