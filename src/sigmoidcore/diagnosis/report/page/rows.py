"""The table of the page: its columns, its rows, and the data that the page's script reads."""

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.measure.measurement import Layer, Measurement
from sigmoidcore.diagnosis.report.columns import printable
from sigmoidcore.diagnosis.report.depth import spread_evenly
from sigmoidcore.diagnosis.report.listing import named_layers
from sigmoidcore.diagnosis.report.table import first_weights
from sigmoidcore.diagnosis.report.wording import percent, short, shown

FIRST = 100
"""Rows that the page holds without its script; those are the ones that a page of the table has with it."""


@dataclass(frozen=True)
class Column:
    """A column of numbers: its key for the script, its heading, what it means, and a cell's text."""

    key: str
    head: str
    meaning: str
    cell: Callable[[Layer], str]


@dataclass(frozen=True)
class Table:
    """The table.

    Attributes:
        columns: those that say something.
        places: of the layers that are in it, ascending; all of them if they fit.
        cells: of each column, a text for every layer of `places`.
        rules: by place, the findings that name a layer: positions in `Diagnosis.findings`.
    """

    measurement: Measurement
    columns: tuple[Column, ...]
    places: tuple[int, ...]
    cells: tuple[tuple[str, ...], ...]
    rules: dict[int, list[int]]
    marks: tuple[str, ...]

    @property
    def layers(self) -> list[Layer]:
        """The layers of `places`."""
        return [self.measurement.layers[place] for place in self.places]

    def data(self) -> str:
        """What the script reads, as JSON that is safe within HTML."""
        layers = self.layers
        content = {
            "layers": len(self.measurement.layers),
            "places": list(self.places) if len(self.places) < len(self.measurement.layers) else None,
            "names": [shown(layer.name) for layer in layers],
            "kinds": _coded([shown(layer.kind) for layer in layers]),
            "shapes": _coded([_output(layer) for layer in layers]),
            "columns": [[column.key, column.head] for column in self.columns],
            "cells": [" ".join(cells) for cells in self.cells],
            "marks": self.marks,
            "found": [[place, found] for place, found in self.rules.items()],
            "page": FIRST,
        }
        text = json.dumps(content, separators=(",", ":"))
        return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")

    def head(self) -> str:
        """The heading row as HTML."""
        cells = [
            ("#", "number", "place of the layer, counted from the input"),
            ("layer", "name", "its name in the model"),
            ("kind", "kind", "class of the module, or name of the function"),
        ]
        cells += [(column.head, column.key, column.meaning) for column in self.columns]
        cells += [("found", "found", "rules whose findings name the layer")] if self.rules else []
        return "".join(
            f'<th scope="col" data-key="{key}" title="{meaning}">{head}</th>' for head, key, meaning in cells
        )

    def first(self) -> tuple[str, int]:
        """Rows as HTML, and how many: all, or those that a finding names and some evenly between the others."""
        kept = _most_telling(self.rules, self.places, FIRST)
        index = {place: row for row, place in enumerate(self.places)}
        return "".join(self._row(index[place]) for place in kept), len(kept)

    def _row(self, row: int) -> str:
        place, layer = self.places[row], self.measurement.layers[self.places[row]]
        numbers = "".join(f"<td>{cells[row]}</td>" for cells in self.cells)
        found = (
            f"<td>{html.escape(' '.join(self.marks[f] for f in self.rules.get(place, ())))}</td>" if self.rules else ""
        )
        return (
            f'<tr id="layer-{place + 1}"><td>{place + 1}</td><th scope="row">{html.escape(shown(layer.name))}</th>'
            f"<td>{html.escape(shown(layer.kind))}</td>{numbers}{found}</tr>"
        )


def table(diagnosis: Judgement, room: int) -> Table:
    """The table of a diagnosis: every layer, or as many as there is room for in characters of the script's data."""
    measurement = diagnosis.measurement
    rules: dict[int, list[int]] = {}
    for number, places in enumerate(named_layers(measurement, diagnosis.findings)):
        for place in places:
            rules.setdefault(place, []).append(number)
    marks = tuple(printable(finding.rule) for finding in diagnosis.findings)
    columns = _columns(measurement)
    everyone = tuple(range(len(measurement.layers)))
    made = _table(measurement, columns, everyone, rules, marks)
    while (size := len(made.data())) > room and len(made.places) > 2:
        most = int(0.98 * len(made.places) * room / size)
        made = _table(measurement, columns, _most_telling(rules, made.places, most), rules, marks)
    return made


def _table(
    measurement: Measurement,
    columns: Sequence[Column],
    places: tuple[int, ...],
    rules: dict[int, list[int]],
    marks: tuple[str, ...],
) -> Table:
    layers = [measurement.layers[place] for place in places]
    cells = {column: tuple(map(column.cell, layers)) for column in columns}
    telling = {column: texts for column, texts in cells.items() if any(texts)}
    within = set(places)
    named = {place: rules[place] for place in sorted(rules) if place in within}
    return Table(measurement, tuple(telling), places, tuple(telling.values()), named, marks)


def _most_telling(rules: dict[int, list[int]], places: Sequence[int], most: int) -> tuple[int, ...]:
    """All, if they are few; else those that the worst findings name, half at most, and the rest evenly."""
    if len(places) <= most:
        return tuple(places)
    within = set(places)
    named = [place for place in rules if place in within]
    named = sorted(named, key=lambda place: min(rules[place]))[: most // 2]
    even = [places[i] for i in spread_evenly(len(places), max(2, most - len(named)))]
    return tuple(sorted({*named, *even}))


def _columns(measurement: Measurement) -> list[Column]:
    weights = first_weights(measurement)
    updates = {layer.name: w.update for layer, w in zip(measurement.layers, weights, strict=True) if w is not None}

    def gradient(layer: Layer) -> str:
        return "none" if layer.gradient is None and layer.role == "weights" else short(layer.gradient)

    def nonfinite(layer: Layer) -> str:
        count = layer.nonfinite + layer.nonfinite_gradient
        return str(count) if count else ""

    return [
        Column("gradient", "gradient", "size of the gradient of the layer's output", gradient),
        Column(
            "gain", "gain", "what the layer makes of the gradient on its way back; 1 is level", lambda x: short(x.gain)
        ),
        Column("rms", "RMS", "root mean square of the output", lambda x: _known(x.rms)),
        Column(
            "spread", "spread", "how much the output differs across samples, from 0 to 1", lambda x: short(x.spread)
        ),
        Column("slope", "slope", "mean relative slope of the neurons, from 0 to 1", lambda x: short(x.relative_slope)),
        Column("saturated", "satur. %", "share of the neurons that are saturated", lambda x: percent(x.saturated)),
        Column("dead", "dead %", "share of the neurons that let nothing through", lambda x: percent(x.dead)),
        Column("entropy", "entropy", "of attention, over its largest", lambda x: short(x.entropy)),
        Column("sharp", "sharp %", "share of the heads that look at one place only", lambda x: percent(x.sharp)),
        Column("update", "update", "last change of its weight over its size", lambda x: short(updates.get(x.name))),
        Column("nonfinite", "not finite", "numbers that are inf or nan, in the output and its gradient", nonfinite),
    ]


def _known(value: float) -> str:
    """For fields that are nan where nothing was measured."""
    return "" if value != value else short(value)


def _output(layer: Layer) -> str:
    return f"{' x '.join(map(str, layer.shape))} {layer.dtype}".strip()


def _coded(texts: Sequence[str]) -> dict[str, Any]:
    """Texts of which many are the same: each once, and for every place which one it is."""
    unique = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    return {"texts": list(unique), "which": " ".join(str(unique[text]) for text in texts)}
