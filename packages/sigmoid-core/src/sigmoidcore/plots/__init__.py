"""Matplotlib figures of gradient profiles, trainings and the article."""

from sigmoidcore.plots.figures import article_fit, gradient_profiles

__all__ = ["article_fit", "gradient_profiles"]
