"""Networks of cores as scikit-learn estimators: drop-in for `MLPClassifier` and `MLPRegressor`.

    from sigmoidcore.estimators import SigmoidCoreClassifier, SigmoidCoreRegressor

They need scikit-learn: `pip install "sigmoid-core[sklearn]"`.
"""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError('the estimators need scikit-learn: pip install "sigmoid-core[sklearn]"') from error

from sigmoidcore.estimators.classifier import SigmoidCoreClassifier
from sigmoidcore.estimators.regressor import SigmoidCoreRegressor

__all__ = ["SigmoidCoreClassifier", "SigmoidCoreRegressor"]
