"""Estimators in several processes at once, as in a search with `n_jobs`."""

import numpy as np
import pytest
import torch
from joblib.externals.loky import get_reusable_executor
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV

from sigmoidcore.estimators import SigmoidCoreClassifier

pytestmark = pytest.mark.integration


@pytest.fixture
def workers():
    """They are ended with the test, not when they have been idle for long."""
    yield 2
    get_reusable_executor().shutdown(wait=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_search_in_two_processes_finds_what_one_finds(seed, workers):
    X, y = load_iris(return_X_y=True)
    model = SigmoidCoreClassifier((8, 8), max_iter=10, weight_decay=0.4, random_state=seed)
    one, two = (
        GridSearchCV(model, {"saturation": [0.25, 1.0, 4.0]}, cv=2, n_jobs=jobs).fit(X, y) for jobs in (1, workers)
    )
    for fold in ("split0_test_score", "split1_test_score"):
        np.testing.assert_array_equal(one.cv_results_[fold], two.cv_results_[fold])
    assert one.best_params_ == two.best_params_
    found, expected = two.best_estimator_.network_.state_dict(), one.best_estimator_.network_.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
