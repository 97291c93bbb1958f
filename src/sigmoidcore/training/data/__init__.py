"""Data sets: the built-in ones and the user's own, as tensors or as streams of batches."""

from sigmoidcore.training.data.builtin import BUILT_IN, built_in_table, digits
from sigmoidcore.training.data.dataset import Batch, Data, Learnable, Part, Split
from sigmoidcore.training.data.errors import DataError, InputError, listed, nearest, needed, short
from sigmoidcore.training.data.files import memory
from sigmoidcore.training.data.fingerprint import changes
from sigmoidcore.training.data.loading import load
from sigmoidcore.training.data.new_data import NewData, Piece
from sigmoidcore.training.data.preprocessing import Preprocessing
from sigmoidcore.training.data.readers import FEATHER, PARQUET, as_table, suffix
from sigmoidcore.training.data.splits import SplitError
from sigmoidcore.training.data.targets import Kind, Target, Task, accuracy, task, uneven

__all__ = [
    "BUILT_IN",
    "FEATHER",
    "PARQUET",
    "Batch",
    "Data",
    "DataError",
    "InputError",
    "Kind",
    "Learnable",
    "NewData",
    "Part",
    "Piece",
    "Preprocessing",
    "Split",
    "SplitError",
    "Target",
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
