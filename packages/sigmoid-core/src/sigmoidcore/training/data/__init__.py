"""Data sets: the built-in ones and the user's own, as tensors or as streams of batches."""

from sigmoidcore.training.data.builtin import BUILT_IN, built_in_table, digits
from sigmoidcore.training.data.dataset import Data, Learnable, Split
from sigmoidcore.training.data.errors import DataError, listed, nearest, needed
from sigmoidcore.training.data.files import memory
from sigmoidcore.training.data.fingerprint import changes
from sigmoidcore.training.data.loading import load
from sigmoidcore.training.data.new_data import NewData
from sigmoidcore.training.data.preprocessing import Preprocessing
from sigmoidcore.training.data.readers import ARRAYS, PARQUET, TABLE_FILES, as_table, suffix
from sigmoidcore.training.data.splits import SplitError
from sigmoidcore.training.data.targets import Kind, Task, accuracy, task, uneven
from unstuck.language.errors import InputError, short

__all__ = [
    "ARRAYS",
    "BUILT_IN",
    "PARQUET",
    "TABLE_FILES",
    "Data",
    "DataError",
    "InputError",
    "Kind",
    "Learnable",
    "NewData",
    "Preprocessing",
    "Split",
    "SplitError",
    "Task",
    "accuracy",
    "as_table",
    "built_in_table",
    "changes",
    "digits",
    "listed",
    "load",
    "memory",
    "nearest",
    "needed",
    "short",
    "suffix",
    "task",
    "uneven",
]
