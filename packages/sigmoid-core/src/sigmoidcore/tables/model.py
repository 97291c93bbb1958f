"""A network that predicts a column of a table: what it learns from, its rivals, and its file."""

import json
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import skops.io
import skrub
from scipy.special import softmax
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_selection import VarianceThreshold
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import get_scorer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from sigmoidcore import fold
from sigmoidcore.estimators import SigmoidCoreClassifier, SigmoidCoreRegressor
from sigmoidcore.tables.reading import Column, File, interpret
from unstuck.language.errors import InputError, short

HIDDEN, FOLDS = (64, 64, 64), 5
MOST_VALUES = 100  # of a column of text: the most frequent values, and one for all others
MOST_CLASSES = 20  # whole numbers with more distinct values are not classes
KINDS = "number", "text", "date"


class Model(NamedTuple):
    """A network, and everything that it needs to read a table."""

    columns: list[Column]
    target: Column
    classes: list[Any]  # none if it predicts a number
    center: float = 0.0  # of this number
    scale: float = 1.0
    inputs: Any = None  # a fitted pipeline of scikit-learn
    layers: Any = ()  # weight and bias of each layer

    def candidates(self, seed: int) -> dict[str, Any]:
        """Pipelines of scikit-learn: the network, and what it is compared with."""
        numbers, texts, dates = ([n for n, each in enumerate(self.columns) if each.kind == kind] for kind in KINDS)
        one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", sparse_output=False, max_categories=MOST_VALUES)
        steps = [(f"date {n}", skrub.DatetimeEncoder(add_weekday=True), n) for n in dates]
        features = ColumnTransformer([("number", "passthrough", numbers), ("text", one_hot, texts), *steps])
        scale = SimpleImputer(add_indicator=True), StandardScaler(), VarianceThreshold(0.5)
        network, trees, linear = SigmoidCoreRegressor, HistGradientBoostingRegressor, RidgeCV(np.logspace(-3, 5, 9))
        if self.classes:
            network, trees = SigmoidCoreClassifier, HistGradientBoostingClassifier
            linear = LogisticRegression(max_iter=1000)
        return {
            "Sigmoid Core": make_pipeline(features, *scale, network(HIDDEN, random_state=seed)),
            trees.__name__: skrub.tabular_pipeline(trees(random_state=seed)),
            type(linear).__name__: make_pipeline(features, *scale, linear),
        }

    def scores(self, frame: Any, answers: Any, seed: int) -> Iterator[tuple[str, float]]:
        """Name and score of each candidate, fold by fold: AUC of two classes, accuracy of more, R2 of numbers."""
        score = get_scorer("r2" if not self.classes else "roc_auc" if len(self.classes) == 2 else "accuracy")
        stratified = self.classes and min(np.bincount(answers)) >= FOLDS
        folds = (StratifiedKFold if stratified else KFold)(FOLDS, shuffle=True, random_state=seed)
        for train, test in folds.split(frame, answers):
            for name, candidate in self.candidates(seed).items():
                fitted = _fit(candidate, frame.iloc[train], answers[train])
                yield name, score(fitted, frame.iloc[test], answers[test])

    def fit(self, frame: Any, answers: Any, seed: int) -> "Model":
        """The model after it has learnt from all rows."""
        center, scale = (0.0, 1.0) if self.classes else (float(answers.mean()), float(answers.std()))
        fitted = _fit(self.candidates(seed)["Sigmoid Core"], frame, (answers - center) / scale)
        # Inputs and answers are standardised: the estimator's own scaling is the identity.
        layers = [each.detach().numpy() for each in fold(fitted[-1].network_).parameters()]
        return self._replace(center=center, scale=scale, inputs=fitted[:-1], layers=layers)

    def predict(self, file: File) -> pd.DataFrame:
        """The prediction for each row, and the probability of each class."""
        file.check(*(each.name for each in self.columns), remedy="the model has learnt from it, so add it to")
        frame = pd.DataFrame({each.name: interpret(file, each.name, each)[0] for each in self.columns})
        with InputError.replacing("other packages wrote this model ({error}): train again", AttributeError, ValueError):
            outputs = self.inputs.transform(frame)
        for n in range(0, len(self.layers), 2):
            outputs = (np.tanh(outputs) if n else outputs) @ self.layers[n].T + self.layers[n + 1]
        if not self.classes:
            return pd.DataFrame({"prediction": outputs[:, 0] * self.scale + self.center})
        found = pd.DataFrame(softmax(outputs, axis=1), columns=[f"probability_{name}" for name in self.classes])
        found.insert(0, "prediction", [self.classes[place] for place in outputs.argmax(1)])
        return found


PLAIN = dict, list, slice, str, tuple, np.dtype, np.float64, np.int64, np.ndarray, Column, Model
STEPS = ColumnTransformer, FunctionTransformer, MissingIndicator, OneHotEncoder, Pipeline, SimpleImputer, StandardScaler
TRUSTED = {f"{each.__module__}.{each.__name__}" for each in (*PLAIN, *STEPS, VarianceThreshold, skrub.DatetimeEncoder)}
"""All types that a model's file may hold."""


def load(path: Path) -> Model:
    """Read a model that skops has written, or raise an InputError; nothing in the file is executed."""
    with InputError.replacing("{path} is not a model of sigmoid-core train: {error}", Exception, path=path):
        if not zipfile.is_zipfile(path):
            raise InputError(f"{path} is not a model of sigmoid-core train: give the .skops file that it has written")
        nodes: list[dict[str, Any]] = []
        json.loads(zipfile.ZipFile(path).read("schema.json"), object_hook=nodes.append)
        types = {f"{node['__module__']}.{node['__class__']}" for node in nodes if "__class__" in node}
        if types - TRUSTED:
            raise ValueError(f"it holds {min(types - TRUSTED)}, which is not trusted")
        return Model(*tuple(skops.io.load(path, trusted=sorted(TRUSTED))))


def learnt(file: File, target: str, task: str | None = None) -> tuple[Model, list[Column], Any, Any]:
    """A model without weights, all columns, the values of those that it uses, and the answers for each row.

    The kind of a column that is not used is the reason. Task: "classification", "regression", or None for the usual.
    """
    file.check(target)
    answers, column = interpret(file, target)
    missing, distinct, rows = answers.isna() | answers.isin([""]), answers.nunique(), len(answers)
    first = short(file.table[target][0], 30)
    whole = column.kind == "number" and bool((answers % 1 == 0).all())
    few = whole and not column.unit and distinct <= min(MOST_CLASSES, max(2, rows // 2))
    classify = task == "classification" if task else few or column.kind == "text"
    smallest = answers.value_counts().iloc[:2].iloc[-1:].sum() if classify else rows // 2  # of two classes
    for problem, found in {
        f"{missing.sum()} missing values (first: row {missing.idxmax() + 1}): fill or drop them": missing.any(),
        f"{column.kind}s such as {first!r}, not numbers": column.kind != "number" and not classify,
        f"only {first!r} in all rows, so there is nothing to learn: name another column": distinct < 2,
        f"{distinct} different values such as {first!r} in {rows} rows: too few rows, or no classes": smallest < FOLDS,
    }.items():
        if found:
            raise InputError(f"target {short(target)!r} has {problem}")
    columns, values = list[Column](), dict[str, Any]()
    for name in file.table.columns.drop(target):
        cells, each = interpret(file, name)
        constant = "constant or empty" * (cells.nunique(dropna=False) == 1)
        reason = constant or "different in every row" * (each.kind == "text" and cells.is_unique)
        columns.append(each._replace(kind=reason or each.kind))
        values |= {} if reason else {name: cells}
    if not values:
        raise InputError(f"{file.path} has no column to learn from")
    classes: Any
    classes, places = np.unique(answers, return_inverse=True) if classify else ([], answers.to_numpy())
    classes = [int(each) if whole else each for each in classes]
    model = Model([each for each in columns if each.name in values], column, classes)
    return model, columns, pd.DataFrame(values), places


def _fit(candidate: Any, frame: Any, answers: Any) -> Any:
    """Train; Ctrl-C ends the command, although estimators keep the network of that moment."""
    failed = InputError.replacing("the training failed: {error}", ArithmeticError, ValueError)
    with failed, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        candidate.fit(frame, answers)
    if any("interrupted" in str(each.message) for each in caught):
        raise KeyboardInterrupt
    return candidate
