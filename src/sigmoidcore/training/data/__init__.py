"""Data sets: the built-in ones and the user's own, as tensors or as streams of batches."""

from sigmoidcore.training.data.builtin import FASHION_MNIST, digits, fashion_mnist
from sigmoidcore.training.data.split import Split
from sigmoidcore.training.data.task import Kind, Task

__all__ = ["FASHION_MNIST", "Kind", "Split", "Task", "digits", "fashion_mnist"]
