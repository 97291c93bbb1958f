"""Train networks of cores: data sets, the training loop, and the folder that a run leaves behind."""

from sigmoidcore.training.data import Split, digits, fashion_mnist
from sigmoidcore.training.loop import Progress, Result, accuracy, train

__all__ = ["Progress", "Result", "Split", "accuracy", "digits", "fashion_mnist", "train"]
