"""Matplotlib figures of gradient profiles, training runs, evaluations, comparisons and the article."""

from sigmoidcore.plots.figures import (
    article_fit,
    confusion_matrix,
    gradient_heatmap,
    gradient_profiles,
    learning_curves,
    method_curves,
    predicted_against_true,
)

__all__ = [
    "article_fit",
    "confusion_matrix",
    "gradient_heatmap",
    "gradient_profiles",
    "learning_curves",
    "method_curves",
    "predicted_against_true",
]
