"""Own data: the command's defaults against scikit-learn's linear model and MLP on five made tables, as users have them.

churn: 20,000 customers with numbers, categories and missing values, of whom 3 to 4 % leave (AUC). flats: 6,000 flats
with texts and dates, and their price (R2). wide: 1,000 samples of 2,000 columns, 20 of which matter (accuracy). text:
tf-idf of 3,000 texts of 5 topics and 2,000 words (accuracy). forest: 50,000 x 54, of which 44 columns are 0 or 1, 7
classes (accuracy).

`fit` is the command with its defaults. `LogisticRegression`, `RidgeCV`, `MLPClassifier` and `MLPRegressor` have their
defaults too (1,000 iterations for the first); they get the inputs that the run's preprocessing makes, and tf-idf as it
is. All are tested on the same fifth of the samples. Scores times 100; processor time of a fit, one thread. 3 seeds, and
10 for wide, where 200 samples test.
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
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
from sklearn.neural_network import MLPClassifier, MLPRegressor
from threadpoolctl import threadpool_limits

from _report import Report, arguments
from sigmoidcore.training import Data, fit, load

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
TARGETS = {"churn": "left", "flats": "price"}


def written(folder: Path, name: str, rows: int, seed: int) -> Path:
    """The data as a file: a table as CSV, arrays as NPZ."""
    made = MAKE[name](np.random.default_rng(seed), rows)
    if isinstance(made, pd.DataFrame):
        made.to_csv(folder / f"{name}.csv", index=False)
        return folder / f"{name}.csv"
    np.savez(folder / f"{name}.npz", x=made[0], y=made[1])
    return folder / f"{name}.npz"


def ours(name: str, path: Path, folder: Path) -> tuple[float, float]:
    """Score and seconds of a run."""
    started = time.process_time()
    run = fit(path, TARGETS.get(name), output=folder / "run", overwrite=True, progress=False)
    seconds = time.process_time() - started
    return run.evaluate()[METRICS[name]], seconds


def parts(data: Data) -> tuple[Arrays, Arrays]:
    """Inputs and targets of the training part and of the test part."""
    found = []
    for part in (data.train, data.test):
        x, y = zip(*part.in_order(10_000), strict=True)
        found.append((np.concatenate(x), np.concatenate(y).squeeze()))
    return found[0], found[1]


def theirs(name: str, method: str, path: Path) -> tuple[float, float]:
    """Score and seconds of an estimator of scikit-learn."""
    data = load(path, target=TARGETS.get(name))
    train, (x, y) = parts(data)
    if name == "text":  # the preprocessing standardises; they are better without it
        inputs = data.preprocessing.inputs
        scaler = inputs.transformer.named_transformers_["number"][0]  # type: ignore[union-attr]
        train, x = (train[0] * scaler.scale_ + scaler.mean_, train[1]), x * scaler.scale_ + scaler.mean_
    if METRICS[name] == "R2":
        model = RidgeCV() if method == "linear" else MLPRegressor(random_state=0)
    else:
        model = LogisticRegression(max_iter=1000) if method == "linear" else MLPClassifier(random_state=0)
    started = time.process_time()
    model.fit(*train)
    seconds = time.process_time() - started
    if METRICS[name] == "AUC":
        return float(roc_auc_score(y, model.predict_proba(x)[:, 1])), seconds
    return float((r2_score if METRICS[name] == "R2" else accuracy_score)(y, model.predict(x))), seconds


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
                    path = written(folder, name, sizes[name], seed)
                    score, taken = ours(name, path, folder) if method == "sigmoid core" else theirs(name, method, path)
                    scores.append(score)
                    seconds.append(taken)
                report.add(
                    data=name,
                    method=method,
                    metric=METRICS[name],
                    score=round(100 * statistics.mean(scores), 2),
                    seconds=round(statistics.mean(seconds), 2),
                    scores=[round(100 * score, 2) for score in scores],
                )
    report.finish()


if __name__ == "__main__":
    main()
