"""A trained network in use: predictions, evaluation, export."""

from sigmoidcore.training.use.evaluate import Evaluation
from sigmoidcore.training.use.export import path_of_preprocessing
from sigmoidcore.training.use.predict import check_output
from sigmoidcore.training.use.scores import Score
from sigmoidcore.training.use.trained import TrainedRun, open_run

__all__ = ["Evaluation", "Score", "TrainedRun", "check_output", "open_run", "path_of_preprocessing"]
