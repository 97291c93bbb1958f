"""The layers of a measurement as a table: its columns for the text and the page, and a DataFrame of pandas."""

import math
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from sigmoidcore.diagnosis.findings import Finding
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement, Weight

if TYPE_CHECKING:
    import pandas

ALIKE = 0.1
"""The text shows the spread across samples if it is below this in a layer."""


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        key: its name for scripts.
        head: its heading; it ends in "%" if the values are shares.
        meaning: its explanation.
        value: the number of a layer, or None.
        notable: whether a value is reason enough for the text to show the column.
    """

    key: str
    head: str
    meaning: str
    value: Callable[[Layer], float | None]
    notable: Callable[[float], bool] = lambda value: True


def number_columns(measurement: Measurement) -> list[Column]:
    """The columns of numbers, in the order of the page."""
    weights = first_weights(measurement)
    updates = {layer.name: w.update for layer, w in zip(measurement.layers, weights, strict=True) if w is not None}
    gain = "gradient that leaves the layer on the way back, over the gradient that arrives; 1 is level"
    return [
        Column("gradient", "gradient", "size of the gradient of the layer's output", lambda x: x.gradient),
        Column("gain", "gain", gain, lambda x: x.gain),
        Column("rms", "RMS", "root mean square of the output", lambda x: None if math.isnan(x.rms) else x.rms),
        Column(
            "spread", "spread", "difference of the output across samples, from 0 to 1", lambda x: x.spread,
            lambda value: not value >= ALIKE,
        ),
        Column("slope", "slope", "mean relative slope of the neurons, from 0 to 1", lambda x: x.relative_slope),
        Column("saturated", "satur. %", "share of the neurons that are saturated", lambda x: x.saturated, bool),
        Column("dead", "dead %", "share of the neurons with derivative 0 for all samples", lambda x: x.dead, bool),
        Column("entropy", "entropy", "entropy of attention, over its largest value", lambda x: x.entropy),
        Column("sharp", "sharp %", "share of the heads that attend to one place only", lambda x: x.sharp, bool),
        Column("update", "update", "last change of the weight, over its size", lambda x: updates.get(x.name)),
        Column(
            "nonfinite", "not finite", "numbers that are inf or nan, in the output and its gradient",
            lambda x: x.nonfinite + x.nonfinite_gradient or None,
        ),
    ]  # fmt: skip


def named_layers(measurement: Measurement, findings: Iterable[Finding]) -> list[list[int]]:
    """Positions of the layers that each finding names, worst first; a parameter stands for the layers that use it."""
    positions: dict[str, list[int]] = {}
    for i, layer in enumerate(measurement.layers):
        for weight in layer.weights:
            positions.setdefault(weight, []).append(i)
    positions |= {layer.name: [i] for i, layer in enumerate(measurement.layers)}
    return [list(dict.fromkeys(i for name in finding.layers for i in positions.get(name, []))) for finding in findings]


def first_weights(measurement: Measurement) -> list[Weight | None]:
    """Of each layer, its first weight of at least two dimensions, or else its first; None if it has none."""
    known = {weight.name: weight for weight in measurement.weights}
    found: list[Weight | None] = []
    for layer in measurement.layers:
        weights = [known[name] for name in layer.weights if name in known]
        found.append(next((w for w in weights if len(w.shape) >= 2), weights[0] if weights else None))
    return found


def data_frame(measurement: Measurement) -> "pandas.DataFrame":
    """A row for each layer, in the order in which they ran.

    Returns:
        A table with the index `name` and the other fields of `Layer` as columns, then `weight_size`, `weight_gradient`
        and `update` of the layer's first weight of at least two dimensions, or else of its first. Unknown numbers are
        `pandas.NA`, in columns of type Float64 and Int64; nan is a measured number.

    Raises:
        ImportError: pandas is not installed (extra `tables`).

    Example:
        >>> layer = Layer("head", "head", "Linear", "weights", gradient=0.5)
        >>> table = data_frame(Measurement((layer,), (), samples=8))
        >>> print(*table.loc["head", ["kind", "gradient", "gain"]])
        Linear 0.5 <NA>
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError('a table of the layers needs pandas: pip install "sigmoid-core[tables]"') from error

    hints = typing.get_type_hints(Layer)
    columns = {f.name: _array(hints[f.name], [getattr(x, f.name) for x in measurement.layers]) for f in fields(Layer)}
    index = pandas.Index(columns.pop("name"), name="name")
    weights = first_weights(measurement)
    for column, name in {"weight_size": "size", "weight_gradient": "gradient", "update": "update"}.items():
        columns[column] = _array(float | None, [None if w is None else getattr(w, name) for w in weights])
    return pandas.DataFrame({name: pandas.Series(values, index) for name, values in columns.items()}, index)


def _array(hint: Any, values: Sequence[Any]) -> Any:
    """An array of pandas; None becomes NA, and nan stays nan."""
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
    return pandas.array([None, *values], dtype=object)[1:]  # a list of tuples of one length alone gives a matrix
