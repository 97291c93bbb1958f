"""Networks of cores as scikit-learn estimators, in place of `MLPClassifier` and `MLPRegressor`."""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError('the estimators need scikit-learn: pip install "sigmoid-core[sklearn]"') from error

from sigmoidcore.estimators.estimators import SigmoidCoreClassifier, SigmoidCoreRegressor

__all__ = ["SigmoidCoreClassifier", "SigmoidCoreRegressor"]
