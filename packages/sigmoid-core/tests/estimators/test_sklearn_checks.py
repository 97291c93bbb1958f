"""scikit-learn's own checks of an estimator."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sigmoidcore.estimators import SigmoidCoreClassifier, SigmoidCoreRegressor

# scikit-learn's own reason, where its estimators train in random batches: the batches, and the samples that slopes are
# prepared with, are others. `test_estimators.py` has what does hold.
NOT_EQUIVALENT = "sample_weight is not equivalent to removing/repeating samples."
EXPECTED = {
    "check_sample_weight_equivalence_on_dense_data": NOT_EQUIVALENT,
    "check_sample_weight_equivalence_on_sparse_data": NOT_EQUIVALENT,
}


# Quick: few epochs, one weight decay. The checks are of what an estimator takes, gives and keeps.
@parametrize_with_checks(
    [kind((16,), max_iter=10, weight_decay=0.4) for kind in (SigmoidCoreClassifier, SigmoidCoreRegressor)],
    expected_failed_checks=lambda estimator: EXPECTED,
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass(estimator, check):
    np.random.seed(0)  # noqa: NPY002  random_state=None draws from it
    check(estimator)
