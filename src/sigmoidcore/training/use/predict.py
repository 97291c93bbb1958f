"""Predictions of a run's network for new data: one table for each piece of the data."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sigmoidcore.training.data import DataError, NewData, Preprocessing, needed, short
from sigmoidcore.training.networks import Network

NUMBERS, MOST = 2**20, 4096
"""Most numbers, and most samples, in a batch: thousands of rows of a table, or a few large images."""


def batch_size_for(shape: Sequence[int]) -> int:
    """Batch size for samples of a shape.

    Example:
        >>> batch_size_for((13,)), batch_size_for((3, 224, 224))
        (4096, 6)
    """
    return max(1, min(MOST, NUMBERS // max(1, prod(shape))))


def outputs_of(network: Network, inputs: Tensor, first: int = 0) -> Tensor:
    """A network's outputs, [samples, outputs], without gradients; the model's mode is preserved."""
    model, mode = network.model, network.model.training
    model.eval()
    try:
        with torch.no_grad():
            batches = torch.split(inputs, batch_size_for(inputs.shape[1:]))
            outputs = torch.cat([model(network.arranged(batch)) for batch in batches])
    except RuntimeError as error:
        raise DataError(
            f"the network does not accept these data ({short(error, 120)}): do they belong to another run?"
        ) from error
    finally:
        model.train(mode)
    finite = torch.isfinite(outputs).all(1)
    if not bool(finite.all()):
        row = first + int(finite.logical_not().int().argmax()) + 1
        raise DataError(f"the network's output is not finite in row {row}: did the run fail? train it again")
    return outputs


def names_of(preprocessing: Preprocessing) -> list[str]:
    """Columns of predictions: `prediction` and `probability_CLASS`, or `prediction_TARGET` for several numbers."""
    target = preprocessing.target
    if target.kind.is_class:
        return ["prediction", *(f"probability_{name}" for name in target.classes)]
    return ["prediction"] if len(target.names) == 1 else [f"prediction_{name}" for name in target.names]


def probabilities(outputs: Tensor) -> np.ndarray:
    """Probabilities of the classes, float64, [samples, classes]."""
    return np.asarray(outputs.double().softmax(1).cpu().numpy())


def predictions(network: Network, preprocessing: Preprocessing, data: NewData) -> Iterator[Any]:
    """Predictions piece by piece, in the order of the data.

    Yields:
        pyarrow.Table: the columns that are kept, then those of `names_of`. Classes are text, probabilities float32,
        numbers float64 in the unit of the target.
    """
    pa = needed("pyarrow", "pyarrow")
    names = names_of(preprocessing)
    for piece in data.pieces():
        columns = [*piece.kept, *names]
        twice = next((name for name in columns if columns.count(name) > 1), None)
        if twice is not None:
            raise DataError(f"column {short(twice)!r} cannot be kept: the predictions have this name; rename it")
        outputs = outputs_of(network, piece.inputs, piece.first)
        values = preprocessing.predictions(outputs)
        if preprocessing.target.kind.is_class:
            found = [pa.array(values.tolist(), pa.string()), *probabilities(outputs).astype(np.float32).T]
        else:
            found = [np.ascontiguousarray(column) for column in values.T]
        yield pa.table(dict(piece.kept) | dict(zip(names, found, strict=True)))
