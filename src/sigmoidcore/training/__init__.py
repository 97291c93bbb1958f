"""Train networks of cores: data sets, the training loop, and the folder that a run leaves behind."""

from sigmoidcore.training.data import Data, DataError, Preprocessing, Split, digits, fashion_mnist, load
from sigmoidcore.training.loop import Progress, Result, Training, accuracy, train
from sigmoidcore.training.recipe import Recipe
from sigmoidcore.training.state import State

__all__ = [
    "Data",
    "DataError",
    "Preprocessing",
    "Progress",
    "Recipe",
    "Result",
    "Split",
    "State",
    "Training",
    "accuracy",
    "digits",
    "fashion_mnist",
    "load",
    "train",
]
