"""Matplotlib figures of gradient profiles, training runs and the article."""

from sigmoidcore.plots.figures import article_fit, draw_profiles, gradient_heatmap, gradient_profiles, learning_curves

__all__ = ["article_fit", "draw_profiles", "gradient_heatmap", "gradient_profiles", "learning_curves"]
