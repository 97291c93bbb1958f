"""What a run's network says of new data: a table of predictions for each piece of them."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data import DataError, NewData, Preprocessing, needed, short
from sigmoidcore.training.runs.network import Network

NUMBERS = 2**20
"""Numbers of the inputs that go through the network at once: some thousand rows of a table, or a few large images."""
MOST = 4096
"""Most samples that do."""


def at_once(shape: Sequence[int]) -> int:
    """How many samples of a shape go through a network at once.

    Example:
        >>> at_once((13,)), at_once((3, 224, 224))
        (4096, 6)
    """
    return max(1, min(MOST, NUMBERS // max(1, prod(shape))))


def outputs_of(network: Network, inputs: Tensor, first: int = 0) -> Tensor:
    """A network's outputs, [samples, outputs], without gradients; the model's mode is kept.

    Args:
        network: of a run.
        inputs: as preprocessing makes them, [samples, ...].
        first: number of the first sample, for messages.

    Raises:
        DataError: an output is not finite.
    """
    model, mode = network.model, network.model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = torch.cat(
                [model(network.arranged(part)) for part in torch.split(inputs, at_once(inputs.shape[1:]))]
            )
    except RuntimeError as error:
        raise DataError(
            f"the network does not take these data ({short(error, 120)}): are they those of another run?"
        ) from error
    finally:
        model.train(mode)
    finite = torch.isfinite(outputs).all(1)
    if not bool(finite.all()):
        row = first + int(finite.logical_not().int().argmax()) + 1
        raise DataError(f"the network's output is not finite in row {row}: did the run fail? train it anew")
    return outputs


def names_of(preprocessing: Preprocessing) -> list[str]:
    """The columns of predictions: `prediction` and `probability_CLASS`, or `prediction_TARGET` of several numbers."""
    target = preprocessing.target
    if target.kind.is_class:
        return ["prediction", *(f"probability_{name}" for name in target.classes)]
    return ["prediction"] if len(target.names) == 1 else [f"prediction_{name}" for name in target.names]


def predictions(network: Network, preprocessing: Preprocessing, unseen: NewData) -> Iterator[Any]:
    """Predictions piece by piece, in the order of the data.

    Args:
        network: of the run.
        preprocessing: of the run.
        unseen: the data.

    Yields:
        pyarrow.Table: columns that were kept, then those of `names_of`. Classes are text, probabilities float32,
        numbers float64 in the unit of the target.

    Raises:
        DataError: a value does not fit, or an output is not finite.
    """
    names = names_of(preprocessing)
    for piece in unseen.pieces():
        _check_names([*piece.kept, *names])
        outputs = outputs_of(network, piece.inputs, piece.first)
        columns = dict(piece.kept) | dict(zip(names, _columns(preprocessing, outputs), strict=True))
        yield needed("pyarrow", "pyarrow").table(columns)


def probabilities(outputs: Tensor) -> np.ndarray:
    """Of each class, float64, [samples, classes]; every row adds up to 1."""
    return np.asarray(outputs.double().softmax(1).cpu().numpy())


def _columns(preprocessing: Preprocessing, outputs: Tensor) -> Iterator[Any]:
    pa = needed("pyarrow", "pyarrow")
    values = preprocessing.predictions(outputs)
    if preprocessing.target.kind.is_class:
        yield pa.array(values.tolist(), pa.string())
        yield from (pa.array(column) for column in probabilities(outputs).astype(np.float32).T)
    else:
        yield from (pa.array(np.ascontiguousarray(column)) for column in values.T)


def _check_names(names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"column {short(twice)!r} cannot be kept: the predictions have this name; rename it")
