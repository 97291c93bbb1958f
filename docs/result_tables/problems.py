"""Tables of data, and the saturation level that suits a problem."""

from statistics import geometric_mean

from result_tables.figures import bold, one, rows, select
from result_tables.registry import Cells, table


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
