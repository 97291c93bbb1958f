"""Data sets: the built-in ones and the user's own, as tensors or as streams of batches."""

from sigmoidcore.training.data.builtin import BUILT_IN, FASHION_MNIST, digits, fashion_mnist
from sigmoidcore.training.data.dataset import Data
from sigmoidcore.training.data.error import DataError
from sigmoidcore.training.data.loading import load
from sigmoidcore.training.data.preprocessing import Preprocessing
from sigmoidcore.training.data.split import Split
from sigmoidcore.training.data.task import Kind, Task

__all__ = [
    "BUILT_IN",
    "FASHION_MNIST",
    "Data",
    "DataError",
    "Kind",
    "Preprocessing",
    "Split",
    "Task",
    "digits",
    "fashion_mnist",
    "load",
]
