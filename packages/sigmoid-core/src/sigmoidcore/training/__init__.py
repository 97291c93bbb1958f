"""Train networks of cores: data sets, the training loop, and the folder of a run."""

from sigmoidcore.training.data import Data, DataError, InputError, Preprocessing, Split, digits, load
from sigmoidcore.training.fit import FitError, fit
from sigmoidcore.training.loop import Progress, Result, Training, train
from sigmoidcore.training.options import Options
from sigmoidcore.training.place import Place, place_of
from sigmoidcore.training.recipe import Recipe
from sigmoidcore.training.runs.state import State
from sigmoidcore.training.use import Evaluation, TrainedRun, open_run

__all__ = [
    "Data",
    "DataError",
    "Evaluation",
    "FitError",
    "InputError",
    "Options",
    "Place",
    "Preprocessing",
    "Progress",
    "Recipe",
    "Result",
    "Split",
    "State",
    "TrainedRun",
    "Training",
    "digits",
    "fit",
    "load",
    "open_run",
    "place_of",
    "train",
]
