"""Train networks of cores: data sets, the training loop, and the folder that a run leaves behind."""

from sigmoidcore.training.data import Split, digits, fashion_mnist
from sigmoidcore.training.loop import Progress, Result, Training, accuracy, train
from sigmoidcore.training.recipe import Recipe
from sigmoidcore.training.state import State

__all__ = [
    "Progress",
    "Recipe",
    "Result",
    "Split",
    "State",
    "Training",
    "accuracy",
    "digits",
    "fashion_mnist",
    "train",
]
