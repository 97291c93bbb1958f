"""Differential equations, tables of data, and the saturation level that suits a problem."""

from statistics import geometric_mean

from result_tables.figures import bold, one, rows, select
from result_tables.registry import Cells, table

METHODS = ("tanh", "sigmoid", "laaf layer", "laaf neuron", "adaptive tanh", "adaptive sigmoid", "sigmoid core")
EQUATIONS = {"helmholtz": "Helmholtz", "poisson": "Poisson", "burgers": "Burgers", "allen_cahn": "Allen-Cahn"}


def errors(equation: str, layers: int, *files: str) -> tuple[str, ...]:
    """A row of errors, each from the first file that has it: the smallest is bold; the range of our seeds is last."""
    key = {"problem": equation, "depth": layers}
    found = [
        next(row for file in files for row in select(file, **key) if row["method"] == method) for method in METHODS
    ]
    least = min(row["error"] for row in found)
    cells = (bold(f"{row['error']:.2g}", row["error"] == least) for row in found)
    seeds = found[-1]["errors"]
    return EQUATIONS[equation], str(layers), *cells, f"{min(seeds):.2g} to {max(seeds):.2g}"


@table
def pinn_unclipped() -> Cells:
    later = ("pinn_unclipped_poisson", "pinn_unclipped_sigmoid_core")
    for equation in EQUATIONS:
        for layers in (4, 8, 16):
            yield errors(equation, layers, *later, "pinn_unclipped")


@table
def pinn_in_short() -> Cells:
    """For the README of Sigmoid Core: networks of 8 layers."""
    for equation in EQUATIONS:
        name, _layers, tanh, sigmoid, *others, ours, _seeds = errors(
            equation, 8, "pinn_unclipped_poisson", "pinn_unclipped_sigmoid_core", "pinn_unclipped"
        )
        adaptive = min(others, key=lambda cell: float(cell.strip("*")))
        yield name, tanh, sigmoid, adaptive, ours


@table
def pinn() -> Cells:
    for equation in ("burgers", "allen_cahn"):
        for layers in (8, 16):
            yield errors(equation, layers, "pinn")


def second_phase(file: str) -> Cells:
    names = {"tanh": "tanh, Glorot", "tanh-orthogonal": "tanh, orthogonal", "sigmoid core": "Sigmoid Core"}
    least = min(row["error_second"] for row in rows(file))
    for row in rows(file):
        after = bold(f"{row['error_second']:.2g}", row["error_second"] == least)
        others = f"{row['error_first']:.2g}", after, f"{row['worst_second']:.2g}", f"{row['seconds']:.0f}"
        yield names[row["method"]], {"adam": "Adam", "soap": "SOAP"}[row["first_phase"]], f"{row['rate']:g}", *others


@table
def pinn_second_phase() -> Cells:
    yield from second_phase("pinn_second_phase")


@table
def pinn_second_phase_clipped() -> Cells:
    yield from second_phase("pinn_second_phase_clipped")


@table
def tabular() -> Cells:
    for data in dict.fromkeys(row["data"] for row in rows("tabular")):

        def score(method: str, layers: int, data: str = data) -> float:
            return float(one("tabular", data=data, method=method, depth=layers)["score"])

        ours, *others = (
            [score(method, layers) for layers in (3, 10, 30)]
            for method in ("sigmoid core", "mlp relu", "mlp tanh", "mlp logistic")
        )
        chosen = [score(f"mlp {activation}, chosen alpha", 3) for activation in ("relu", "tanh")]
        best = [max(scores) for scores in zip(*others, strict=True)]
        best[0] = max(best[0], *chosen)
        yield (
            data,
            *(bold(f"{mine:.1f}", mine >= theirs) for mine, theirs in zip(ours, best, strict=True)),
            *(", ".join(f"{value:.1f}" for value in scores) for scores in others[:2]),
            f"{others[2][0]:.1f}",
            ", ".join(f"{value:.1f}" for value in chosen),
            f"{score('boosted trees', 0):.1f}",
            f"{score('linear', 0):.1f}",
        )


@table
def own_data() -> Cells:
    for data in dict.fromkeys(row["data"] for row in rows("own_data")):
        ours, linear, mlp = (one("own_data", data=data, method=name) for name in ("sigmoid core", "linear", "mlp"))
        best = max(row["score"] for row in (ours, linear, mlp))
        scores = (bold(f"{row['score']:.1f}", row["score"] == best) for row in (ours, linear, mlp))
        ratio = ours["seconds"] / mlp["seconds"]
        yield f"{data} ({ours['metric']})", *scores, *(f"{row['seconds']:.1f}" for row in (ours, mlp)), f"{ratio:.1f}"


@table
def saturation() -> Cells:
    names = {
        "table": "tables",
        "image": "images",
        "regression": "regression",
        "function": "functions of few dimensions",
    }
    levels = ("0.25", "0.5", "1", "2", "3", "4")
    for kind in ("table", "image", "regression", "function", "all"):
        regrets = []
        for row in rows("saturation") if kind == "all" else select("saturation", kind=kind):
            found = [row[level] + 0.5 for level in levels]
            regrets.append([error / min(found) for error in found])
        means = [geometric_mean(of_level) for of_level in zip(*regrets, strict=True)]
        yield names.get(kind, kind), *(bold(f"{mean:.2f}", mean == min(means)) for mean in means)
