"""Parameters and samples that the estimators refuse, each with its name and value."""

import math

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_iris

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


def test_useless_weights_and_wrong_targets_are_refused():
    with pytest.raises(ValueError, match=r"at least one non-zero|all sample weights are 0"):
        SigmoidCoreClassifier((4,)).fit(X, y, sample_weight=np.zeros(150))
    with pytest.raises(ValueError, match=r"y should be a 1d array, got an array of shape \(150, 3\)"):
        SigmoidCoreClassifier((4,)).fit(X, LABELS)
    with pytest.raises(ValueError, match=r"give y.toarray\(\)"):
        SigmoidCoreRegressor((4,)).fit(X, sparse.csr_matrix(LABELS))
