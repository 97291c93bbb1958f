"""Parameters and samples that the estimators refuse, each with its name and value."""

import math

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_iris, make_multilabel_classification

from sigmoidcore.estimators import SigmoidCoreClassifier, SigmoidCoreRegressor

X, y = load_iris(return_X_y=True)
LABELS = np.eye(3, dtype=int)[y]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"hidden_layer_sizes": ()}, r"hidden_layer_sizes .* got \(\)"),
        ({"hidden_layer_sizes": (4, 0)}, r"hidden_layer_sizes .* got \(4, 0\)"),
        ({"max_iter": 0}, "max_iter == 0, must be >= 1"),
        ({"batch_size": 0}, "batch_size == 0, must be >= 1"),
        ({"learning_rate_init": 0}, "learning_rate_init == 0, must be > 0"),
        ({"weight_decay": "much"}, "weight_decay must be \"auto\" or a number, got 'much'"),
        ({"weight_decay": None}, "weight_decay must be an instance of float, not NoneType"),
        ({"tol": -1}, "tol == -1, must be >= 0"),
        ({"saturation": 0}, "saturation == 0, must be > 0"),
        ({"tolerance": math.inf}, "tolerance == inf, must be < inf"),
        ({"early_stopping": True, "validation_fraction": 1.5}, "validation_fraction == 1.5, must be < 1"),
        ({"early_stopping": True, "validation_fraction": 0.001}, "raise validation_fraction"),
        ({"class_weight": {0: 1, 1: -1, 2: 1}}, "class_weight .* at least 0, got {0: 1, 1: -1, 2: 1}"),
    ],
)
def test_an_invalid_parameter_is_named_with_its_value(parameters, message):
    with pytest.raises((ValueError, TypeError), match=message):
        SigmoidCoreClassifier(**{"hidden_layer_sizes": (4,), "max_iter": 5, **parameters}).fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "first", "second", "message"),
    [
        ({}, (X, y), None, "classes must be given in the first call"),
        ({}, (X, y, [0, 1]), None, r"unknown classes: \[2\]"),
        ({"early_stopping": True}, (X, y, [0, 1, 2]), None, "early_stopping=False"),
        ({"class_weight": "balanced"}, (X, y, [0, 1, 2]), None, "needs all samples at once"),
        ({}, (X, LABELS, [0, 1]), None, r"3 labels a sample, but there are 2 classes, array.*: give one class"),
        ({}, (X, y, [0, 1, 2]), (X, y, [0, 1]), "differ from those of the first call"),
        ({}, (X, y, [0, 1, 2]), (X, y + 1), r"unknown classes: \[3\]"),
        ({}, (X, y, [0, 1, 2]), (X, LABELS), "several labels a sample, and had one class before"),
        ({}, (X, LABELS, [0, 1, 2]), (X, LABELS[:, :2]), "y has 2 labels a sample, but there are 3 classes"),
    ],
)
def test_partial_fit_says_what_it_cannot_do(parameters, first, second, message):
    model = SigmoidCoreClassifier((4,), **parameters)
    if second is not None:
        model.partial_fit(*first)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(*(second or first))


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("values", [(0, 2), (0.0, -1.0)])
def test_an_indicator_matrix_contains_only_0_and_1(kind, values):
    inputs, labels = make_multilabel_classification(80, n_classes=3, random_state=0)
    with pytest.raises(ValueError, match=r"several labels a sample, but contains (-1|2): an indicator matrix contains"):
        SigmoidCoreClassifier((4,)).fit(inputs, kind(np.choose(labels, values)))


def test_weights_of_classes_are_checked_for_every_label():
    inputs, labels = make_multilabel_classification(80, n_classes=2, random_state=0)
    with pytest.raises(ValueError, match=r"class_weight must contain finite numbers .* 1: nan"):
        SigmoidCoreClassifier((4,), class_weight=[{0: 1, 1: 1}, {0: 1, 1: math.nan}]).fit(inputs, labels)
    with pytest.raises(ValueError, match="class_weight"):
        SigmoidCoreClassifier((4,), class_weight="much").fit(inputs, labels)
    SigmoidCoreClassifier((4,), class_weight=[{0: 1, 1: 2}, {0: 0, 1: 1}], max_iter=2).fit(inputs, labels)


def test_useless_weights_and_wrong_targets_are_refused():
    with pytest.raises(ValueError, match=r"at least one non-zero|all sample weights are 0"):
        SigmoidCoreClassifier((4,)).fit(X, y, sample_weight=np.zeros(150))
    with pytest.raises(ValueError, match="one classifier for each column"):
        SigmoidCoreClassifier((4,)).fit(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match=r"give y.toarray\(\)"):
        SigmoidCoreRegressor((4,)).fit(X, sparse.csr_matrix(LABELS))
    with pytest.raises(ValueError, match="y has 1 targets a sample, and had 3 before"):
        SigmoidCoreRegressor((4,)).partial_fit(X, LABELS).partial_fit(X, y)
