"""From layers to the columns of a figure: two to a layer, one to a layer, or one to several neighbouring layers."""

import math

import numpy as np

from sigmoidcore.diagnosis.report.depth import Floats, Ints, Sizes


def pitch(at: Ints) -> int:
    """How many layers a cell at these places covers: the usual distance, so that they touch where they are regular."""
    return int(np.median(np.diff(np.unique(at)))) if np.unique(at).size > 1 else 1


def columns(layers: int, most: int) -> int:
    """Columns for so many layers: two each, one each, or `most` in all."""
    return next((count for count in (2 * layers, layers) if count <= most), most)


def spans(at: Ints, layers: int, count: int, width: int | None = None) -> list[tuple[int, int]]:
    """For each place, its first column and the one after its last: centred, `width` layers wide, or as the pitch is."""
    scale, half = count / max(1, layers), (pitch(at) if width is None else width) / 2
    found = []
    for place in at.tolist():
        first = max(0, math.floor((place + 0.5 - half) * scale + 0.5))
        end = min(count, math.floor((place + 0.5 + half) * scale + 0.5))
        within = min(count - 1, int((place + 0.5) * scale))
        found.append((first, end) if first < end else (within, within + 1))
    return found


def averaged(at: Ints, values: Floats, layers: int, most: int) -> Floats:
    """Values [rows, places] as [rows, columns]: the mean of the layers in a column; nan where there is none."""
    count = columns(layers, most)
    total, number = np.zeros((len(values), count)), np.zeros(count)
    for i, (first, end) in enumerate(spans(at, layers, count)):
        total[:, first:end] += values[:, i : i + 1]
        number[first:end] += 1
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def farthest(at: Ints, values: Floats, layers: int, most: int) -> Floats:
    """Values [rows, places] as [rows, columns]: of the layers in a column, the one farthest from 0, so none hides."""
    count = columns(layers, most)
    table = np.full((len(values), count), np.nan)
    for i, (first, end) in enumerate(spans(at, layers, count)):
        held, new = table[:, first:end], values[:, i : i + 1]
        table[:, first:end] = np.where(np.isnan(held) | (np.abs(new) > np.abs(held)), new, held)
    return table


def envelope(sizes: Sizes, layers: int, most: int) -> tuple[Floats, Floats]:
    """Smallest and largest drawable size in every column; nan where there is none."""
    count = columns(layers, most)
    low, high = np.full(count, np.nan), np.full(count, np.nan)
    known = sizes.drawable
    spanned = spans(sizes.at, layers, count)
    for value, ok, (first, end) in zip(sizes.values.tolist(), known.tolist(), spanned, strict=True):
        if ok:
            low[first:end] = np.fmin(low[first:end], value)
            high[first:end] = np.fmax(high[first:end], value)
    return low, high
