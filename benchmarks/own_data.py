"""Own data: `sigmoid-core train` against scikit-learn's linear model and MLP on five made tables, as users have them.

churn: 20,000 customers with numbers, categories and missing values, of whom 3 to 4 % leave (AUC). flats: 6,000 flats
with texts and dates, and their price (R2). wide: 1,000 samples of 2,000 columns, 20 of which matter (accuracy). text:
tf-idf of 3,000 texts of 5 topics and 2,000 words (accuracy). forest: 50,000 x 54, of which 44 columns are 0 or 1, 7
classes (accuracy).

Four fifths of the rows are a file that the command's model learns from (CSV for churn and flats, else Parquet), and it
predicts the file of the others. `LogisticRegression`, `RidgeCV`, `MLPClassifier` and `MLPRegressor` have their defaults
(1,000 iterations for the first); they get the inputs of the command's network, and tf-idf as it is. Scores times 100;
processor time of a fit, one thread. 3 seeds, and 10 for wide, where 200 samples test.
"""

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from _report import Report, arguments
from sigmoidcore.tables.model import learnt
from sigmoidcore.tables.reading import File, interpret, read_file

SEEDS, SEEDS_OF_WIDE = 3, 10
METHODS = ("sigmoid core", "linear", "mlp")
SIZES = {"churn": 20_000, "flats": 6_000, "wide": 1_000, "text": 3_000, "forest": 50_000}
QUICK = {"churn": 500, "flats": 500, "wide": 200, "text": 300, "forest": 700}
METRICS = {"churn": "AUC", "flats": "R2", "wide": "accuracy", "text": "accuracy", "forest": "accuracy"}
Arrays = tuple[np.ndarray, np.ndarray]


def churn(random: np.random.Generator, rows: int) -> pd.DataFrame:
    age, months = random.integers(18, 90, rows), random.gamma(2.0, 12.0, rows)
    plan = random.choice(["basic", "plus", "family", "business"], rows, p=[0.5, 0.25, 0.15, 0.1])
    region = random.choice([f"region {n}" for n in range(40)], rows)
    fee = np.select([plan == "basic", plan == "plus", plan == "family"], [10.0, 20.0, 30.0], 45.0)
    fee = fee + random.normal(0, 2, rows)
    calls = random.poisson(1.0, rows)
    risk = -4.65 + 0.7 * calls - 0.03 * months + 0.04 * fee + 0.9 * (plan == "basic") * (calls > 2)
    table = pd.DataFrame({"age": age, "months": months, "plan": plan, "region": region, "fee": fee, "calls": calls})
    table.loc[random.random(rows) < 0.1, "age"] = None
    table.loc[random.random(rows) < 0.05, "plan"] = None
    table["left"] = np.where(random.random(rows) < 1 / (1 + np.exp(-risk)), "yes", "no")
    return table


def flats(random: np.random.Generator, rows: int) -> pd.DataFrame:
    size, floor = random.gamma(6.0, 12.0, rows) + 18, random.integers(0, 12, rows)
    district = random.integers(0, 60, rows)
    sold = pd.Timestamp("2015-01-01") + pd.to_timedelta(random.integers(0, 3_650, rows), "D")
    worth = random.normal(4_000, 1_200, 60)
    season = np.sin(2 * np.pi * sold.day_of_year.to_numpy() / 365.25)
    years = (sold - pd.Timestamp("2015-01-01")).days.to_numpy() / 365.25
    price = size**0.95 * worth[district] * (1 + 0.05 * years + 0.03 * season) * (1 + 0.01 * floor)
    state = random.choice(["new", "renovated", "old"], rows)
    price *= np.select([state == "new", state == "old"], [1.2, 0.8], 1.0) * random.lognormal(0, 0.08, rows)
    notes = [f"flat of {s:.0f} square metres, number {n}" for n, s in enumerate(size)]
    return pd.DataFrame(
        {
            "size": size, "floor": floor, "district": [f"district {d}" for d in district], "state": state,
            "sold": sold, "notes": notes, "price": price,
        }
    )  # fmt: skip


def wide(random: np.random.Generator, rows: int) -> Arrays:
    x = random.normal(size=(rows, 2_000))
    score = x[:, :20] @ random.choice([-1.0, 1.0], 20)
    return x, (score + random.normal(0, 2, rows) > 0).astype(np.int64)


def text(random: np.random.Generator, rows: int) -> Arrays:
    topics = random.lognormal(sigma=1.2, size=(5, 2_000)) / np.arange(1, 2_001)
    y = random.integers(0, 5, rows)
    counts = np.array([random.multinomial(80, topics[c] / topics[c].sum()) for c in y])
    return TfidfTransformer().fit_transform(counts).toarray(), y


def forest(random: np.random.Generator, rows: int) -> Arrays:
    seed = int(random.integers(2**31))
    x, y = make_classification(
        rows, 12, n_informative=10, n_redundant=2, n_classes=7, n_clusters_per_class=2, random_state=seed
    )
    area, soil = (
        np.digitize(x[:, n], np.quantile(x[:, n], np.linspace(0, 1, k + 1)[1:-1])) for n, k in ((0, 4), (1, 40))
    )
    return np.hstack([x[:, 2:], np.eye(4)[area], np.eye(40)[soil]]), y


MAKE: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "churn": churn, "flats": flats, "wide": wide, "text": text, "forest": forest,
}  # fmt: skip
TARGETS = {"churn": "left", "flats": "price", "wide": "y", "text": "y", "forest": "y"}


def parts(name: str, rows: int, seed: int) -> list[pd.DataFrame]:
    """The table to train on and the one to test on, a fifth of the rows; the same classes in both."""
    made = MAKE[name](np.random.default_rng(seed), rows)
    if not isinstance(made, pd.DataFrame):
        made = pd.DataFrame(made[0]).add_prefix("x").assign(y=made[1])
    classes = None if METRICS[name] == "R2" else made[TARGETS[name]]
    return list(train_test_split(made, test_size=0.2, random_state=seed, stratify=classes))


def written(name: str, table: pd.DataFrame, folder: Path) -> File:
    """The table, read from a file as the command reads it."""
    path = folder / f"{name}.{'csv' if name in ('churn', 'flats') else 'parquet'}"
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
    return read_file(path)


def score(name: str, test: pd.DataFrame, predicted: Any, positive: Any) -> float:
    """The score of predictions; for AUC, of the probabilities of "yes"."""
    truth = test[TARGETS[name]]
    if METRICS[name] == "AUC":
        return float(roc_auc_score(truth == "yes", positive))
    return float((r2_score if METRICS[name] == "R2" else accuracy_score)(truth, predicted))


def ours(name: str, train: pd.DataFrame, test: pd.DataFrame, folder: Path) -> tuple[float, float]:
    """Score and seconds of the command's model."""
    file = written(name, train, folder)
    started = time.process_time()
    model, _, frame, answers = learnt(file, TARGETS[name])
    model = model.fit(frame, answers, seed=0)
    seconds = time.process_time() - started
    found = model.predict(written(name, test, folder))
    return score(name, test, found["prediction"], found.get("probability_yes")), seconds


def theirs(name: str, method: str, train: pd.DataFrame, test: pd.DataFrame, folder: Path) -> tuple[float, float]:
    """Score and seconds of an estimator of scikit-learn."""
    if METRICS[name] == "R2":
        estimator = RidgeCV() if method == "linear" else MLPRegressor(random_state=0)
        estimator = TransformedTargetRegressor(estimator, transformer=StandardScaler())
    else:
        estimator = LogisticRegression(max_iter=1000) if method == "linear" else MLPClassifier(random_state=0)
    model, _, x, _ = learnt(written(name, train, folder), TARGETS[name])
    file = written(name, test, folder)
    x_test = pd.DataFrame({column.name: interpret(file, column.name, column)[0] for column in model.columns})
    if name != "text":
        inputs = model.candidates(0)["Sigmoid Core"][:-1].fit(x)
        x, x_test = inputs.transform(x), inputs.transform(x_test)
    started = time.process_time()
    estimator.fit(x, train[TARGETS[name]])
    seconds = time.process_time() - started
    positive = estimator.predict_proba(x_test)[:, 1] if METRICS[name] == "AUC" else None
    return score(name, test, estimator.predict(x_test), positive), seconds


def main() -> None:
    options = arguments(__doc__).parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    sizes = QUICK if options.quick else SIZES
    count = {name: 1 if options.quick else SEEDS_OF_WIDE if name == "wide" else SEEDS for name in MAKE}
    settings, seeds = {"rows": sizes, "seeds": count}, list(range(max(count.values())))
    report = Report("own_data", options, key=("data", "method"), seeds=seeds, settings=settings)
    with threadpool_limits(1), tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in MAKE:
            for method in METHODS:
                if not report.wants(data=name, method=method):
                    continue
                scores, seconds = [], []
                for seed in range(count[name]):
                    train, test = parts(name, sizes[name], seed)
                    if method == "sigmoid core":
                        found, taken = ours(name, train, test, folder)
                    else:
                        found, taken = theirs(name, method, train, test, folder)
                    scores.append(found)
                    seconds.append(taken)
                report.add(
                    data=name,
                    method=method,
                    metric=METRICS[name],
                    score=round(100 * statistics.mean(scores), 2),
                    seconds=round(statistics.mean(seconds), 2),
                    scores=[round(100 * found, 2) for found in scores],
                )
    report.finish()


if __name__ == "__main__":
    main()
