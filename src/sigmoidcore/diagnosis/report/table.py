"""The layers of a measurement as a DataFrame of pandas."""

import typing
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement, Weight

if TYPE_CHECKING:
    import pandas

_OF_WEIGHT = {"weight_size": "size", "weight_gradient": "gradient", "update": "update"}


def layers(measurement: Measurement) -> "pandas.DataFrame":
    """A row for each layer, in the order in which they ran.

    Args:
        measurement: of one step.

    Returns:
        A table whose index is `name` and whose columns are the other fields of `Layer`, then `weight_size`,
        `weight_gradient` and `update` of the layer's first weight of at least two dimensions, or else of its first.
        What is not known is `pandas.NA`, in columns of type Float64 and Int64; nan there is a number that was measured.

    Raises:
        ImportError: pandas is not installed (extra `tables`).

    Example:
        >>> layer = Layer("head", "head", "Linear", "weights", gradient=0.5)
        >>> table = layers(Measurement((layer,), (), samples=8))
        >>> print(*table.loc["head", ["kind", "gradient", "gain"]])
        Linear 0.5 <NA>
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            'a table of the layers needs pandas, which is missing: pip install "sigmoid-core[tables]"'
        ) from error

    hints = typing.get_type_hints(Layer)
    columns: dict[str, Any] = {
        field.name: _column(hints[field.name], [getattr(layer, field.name) for layer in measurement.layers])
        for field in fields(Layer)
    }
    weights = first_weights(measurement)
    for column, name in _OF_WEIGHT.items():
        columns[column] = _column(float | None, [None if w is None else getattr(w, name) for w in weights])
    index = pandas.Index(columns.pop("name"), name="name")
    return pandas.DataFrame({name: pandas.Series(values, index) for name, values in columns.items()}, index)


def first_weights(measurement: Measurement) -> list[Weight | None]:
    """Of each layer, its first weight of at least two dimensions, or else its first; None if it has none."""
    known = {weight.name: weight for weight in measurement.weights}
    found: list[Weight | None] = []
    for layer in measurement.layers:
        weights = [known[name] for name in layer.weights if name in known]
        found.append(next((w for w in weights if len(w.shape) >= 2), weights[0] if weights else None))
    return found


def _column(hint: Any, values: Sequence[Any]) -> Any:
    """An array of the type that says it best; None becomes NA, and nan stays nan."""
    import pandas

    if hint in (float, int, bool):
        return np.array(values, dtype=hint)
    if hint in (float | None, int | None):
        missing = np.array([value is None for value in values], dtype=bool)
        filled = [0 if value is None else value for value in values]
        if hint == float | None:
            return pandas.arrays.FloatingArray(np.array(filled, dtype=np.float64), missing)
        return pandas.arrays.IntegerArray(np.array(filled, dtype=np.int64), missing)
    if typing.get_origin(hint) is typing.Literal or hint is str:
        return pandas.array(values, dtype="str")
    objects = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):  # all at once, tuples of one length would be taken for a matrix
        objects[i] = value
    return objects
