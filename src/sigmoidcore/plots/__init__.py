"""Matplotlib figures of gradient profiles, training runs, evaluations, comparisons and the article."""

from sigmoidcore.plots.comparison import method_curves
from sigmoidcore.plots.evaluation import confusion_matrix, predicted_against_true
from sigmoidcore.plots.figures import article_fit, gradient_heatmap, gradient_profiles, learning_curves

__all__ = [
    "article_fit",
    "confusion_matrix",
    "gradient_heatmap",
    "gradient_profiles",
    "learning_curves",
    "method_curves",
    "predicted_against_true",
]
