"""Draw article_fit.png: the article's six points, and Sigmoid Core before and after training."""

from pathlib import Path

from sigmoidcore.article import POINTS_X, POINTS_Y, fit
from sigmoidcore.plots.figures import article_fit

fitted = fit(POINTS_X, POINTS_Y)
path = Path(__file__).with_suffix(".png")
article_fit(fitted).savefig(path, dpi=200)
print(f"{path}: {fitted}")
