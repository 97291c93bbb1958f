"""Tables: our estimators against scikit-learn's, 5 folds of data sets that packages ship.

Networks of 3, 10 and 30 hidden layers: `SigmoidCoreClassifier` and `SigmoidCoreRegressor` against `MLPClassifier` and
`MLPRegressor` with relu, tanh and logistic, all with their defaults and the same sizes. Ours choose a weight decay
among four; so at 3 layers there are also MLPs that choose their alpha among four, on as many held-out samples, and
ours with a fixed decay. Beside them gradient-boosted trees and a linear model. Inputs of all are standardised, and so
are the targets of regressions. Accuracy in percent, R2 times 100; processor time of a fit, one thread.

Data: scikit-learn's; R's mlbench (`apt install r-cran-mlbench`, or `--mlbench FOLDER` with its .rda files), read by
pyreadr; vega_datasets (`pip install pyreadr vega-datasets`). What is not installed is left out, and named.
The defaults of our estimators were chosen on other data (docs/estimators.md).
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, KFold, ShuffleSplit, StratifiedKFold, StratifiedShuffleSplit
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from _report import Report, arguments, table
from sigmoidcore.estimators import SigmoidCoreClassifier, SigmoidCoreRegressor

MLBENCH = Path("/usr/lib/R/site-library/mlbench/data")
DEPTHS = (3, 10, 30)
NETWORKS = ("sigmoid core", "mlp relu", "mlp tanh", "mlp logistic")
ALPHAS = [1e-4, 1e-2, 1e-1, 1.0]
Table = tuple[np.ndarray, np.ndarray]


def mlbench(folder: Path, name: str, target: str, numbers: tuple[str, ...] = ()) -> Table:
    import pyreadr

    frame = pyreadr.read_r(folder / f"{name}.rda")[name].dropna()
    frame = frame.astype(dict.fromkeys(numbers, float))
    y = frame.pop(target)
    return pd.get_dummies(frame).to_numpy(np.float64), np.asarray(y)


def cars() -> Table:
    from vega_datasets import local_data

    frame = local_data.cars().drop(columns="Name").dropna()
    frame["Year"] = pd.to_datetime(frame["Year"]).dt.year
    y = frame.pop("Miles_per_Gallon")
    return pd.get_dummies(frame).to_numpy(np.float64), y.to_numpy(np.float64)


def sources(folder: Path) -> dict[str, tuple[str, Callable[[], Table]]]:
    """Every data set: its kind, and what reads it."""
    return {
        "wine": ("classes", lambda: datasets.load_wine(return_X_y=True)),
        "breast_cancer": ("classes", lambda: datasets.load_breast_cancer(return_X_y=True)),
        "digits": ("classes", lambda: datasets.load_digits(return_X_y=True)),
        "letter": ("classes", lambda: mlbench(folder, "LetterRecognition", "lettr")),
        "satellite": ("classes", lambda: mlbench(folder, "Satellite", "classes")),
        "shuttle": ("classes", lambda: mlbench(folder, "Shuttle", "Class")),
        "vehicle": ("classes", lambda: mlbench(folder, "Vehicle", "Class")),
        "ionosphere": ("classes", lambda: mlbench(folder, "Ionosphere", "Class")),
        "pima": ("classes", lambda: mlbench(folder, "PimaIndiansDiabetes", "diabetes")),
        "diabetes": ("numbers", lambda: datasets.load_diabetes(return_X_y=True)),
        "ozone": ("numbers", lambda: mlbench(folder, "Ozone", "V4", ("V1", "V2", "V3"))),
        "servo": ("numbers", lambda: mlbench(folder, "Servo", "Class")),
        "cars": ("numbers", cars),
    }


def network(ours: bool, classes: bool, sizes: tuple[int, ...], **settings: Any) -> Any:
    kinds = (SigmoidCoreClassifier, SigmoidCoreRegressor) if ours else (MLPClassifier, MLPRegressor)
    return kinds[not classes](hidden_layer_sizes=sizes, random_state=0, **settings)


def methods(classes: bool, width: int, depths: tuple[int, ...]) -> dict[tuple[str, int], Callable[[], Any]]:
    """What makes an estimator, by method and depth."""
    found: dict[tuple[str, int], Callable[[], Any]] = {}
    for depth in depths:
        sizes = (width,) * depth
        found["sigmoid core", depth] = lambda s=sizes: network(True, classes, s)
        for activation in ("relu", "tanh", "logistic"):
            found[f"mlp {activation}", depth] = lambda s=sizes, a=activation: network(False, classes, s, activation=a)
    sizes = (width,) * 3
    found["sigmoid core, fixed decay", 3] = lambda: network(True, classes, sizes, weight_decay=2.0)
    holdout = (StratifiedShuffleSplit if classes else ShuffleSplit)(1, test_size=0.2, random_state=0)
    loss = "neg_log_loss" if classes else "neg_mean_squared_error"
    for activation in ("relu", "tanh"):
        found[f"mlp {activation}, chosen alpha", 3] = lambda a=activation: GridSearchCV(
            network(False, classes, sizes, activation=a), {"alpha": ALPHAS}, cv=holdout, scoring=loss
        )
    trees = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    found["boosted trees", 0] = lambda: trees(random_state=0)
    found["linear", 0] = lambda: LogisticRegression(max_iter=1000) if classes else RidgeCV()
    return found


def measured(make: Callable[[], Any], samples: Table, classes: bool, folds: int) -> tuple[list[float], list[float]]:
    """Scores and seconds of every fold."""
    X, y = samples
    split = (StratifiedKFold if classes else KFold)(folds, shuffle=True, random_state=0)
    scores, seconds = [], []
    for train, test in split.split(X, y):
        model = make_pipeline(StandardScaler(), make())
        if not classes:
            model = TransformedTargetRegressor(model, transformer=StandardScaler())
        started = time.process_time()
        model.fit(X[train], y[train])
        seconds.append(time.process_time() - started)
        score = accuracy_score if classes else r2_score  # a search's own score is what it searched by
        scores.append(100 * float(score(y[test], model.predict(X[test]))))
    return scores, seconds


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every depth and network: its median rank among those of its depth, its mean score, and the time of a fit.

    Seconds are the median over the data, and `over tanh` is over that of the tanh.
    """
    found = []
    for depth in sorted({row["depth"] for row in rows} - {0}):
        of = {(row["data"], row["method"]): row for row in rows if row["depth"] == depth}
        data = [d for d in dict.fromkeys(row["data"] for row in rows) if all((d, m) in of for m in NETWORKS)]
        if not data:
            continue
        scores = np.array([[of[d, method]["score"] for d in data] for method in NETWORKS])
        ranks = 1 + (scores[None] > scores[:, None]).sum(1)
        seconds = [statistics.median(of[d, method]["seconds"] for d in data) for method in NETWORKS]
        for at, method in enumerate(NETWORKS):
            found.append(
                {
                    "depth": depth,
                    "method": method,
                    "median rank": float(np.median(ranks[at])),
                    "mean score": round(float(scores[at].mean()), 1),
                    "seconds": round(seconds[at], 2),
                    "over tanh": round(seconds[at] / seconds[NETWORKS.index("mlp tanh")], 1),
                }
            )
    return found


def read(options: argparse.Namespace, samples: int) -> dict[str, tuple[str, Table]]:
    found = {}
    for name, (kind, load) in sources(options.mlbench).items():
        if options.quick and name not in ("wine", "diabetes"):
            continue
        try:
            X, y = load()
        except (ImportError, OSError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        rows = np.random.default_rng(0).permutation(len(y))[:samples]
        X, y = X[rows], y[rows]
        if kind == "classes":  # a class of a few samples is not in every fold, nor in what a fold holds out
            names, counts = np.unique(y, return_counts=True)
            kept = np.isin(y, names[counts >= 10])
            X, y = X[kept], y[kept]
        found[name] = kind, (X, y)
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--mlbench", type=Path, default=MLBENCH, metavar="FOLDER", help="of mlbench's .rda files")
    parser.add_argument("--samples", type=int, default=500, metavar="N", help="of a data set, at most (default: 500)")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.filterwarnings("ignore", "The least populated class")
    folds, width, depths = (2, 32, (3,)) if options.quick else (5, 32, DEPTHS)
    tables = read(options, options.samples)
    report = Report(
        "tabular",
        options,
        key=("data", "method", "depth"),
        seeds=[0],
        settings={"width": width, "folds": folds, "samples": options.samples, "data": list(tables), "alphas": ALPHAS},
    )
    with threadpool_limits(options.threads):
        for name, (kind, samples) in tables.items():
            for (method, depth), make in methods(kind == "classes", width, depths).items():
                if report.wants(data=name, method=method, depth=depth):
                    scores, seconds = measured(make, samples, kind == "classes", folds)
                    report.add(
                        data=name,
                        kind=kind,
                        method=method,
                        depth=depth,
                        score=round(statistics.mean(scores), 2),
                        seconds=round(statistics.mean(seconds), 3),
                        scores=[round(score, 2) for score in scores],
                    )
    report.finish()
    print("\n" + table(summary(report.rows)))


if __name__ == "__main__":
    main()
