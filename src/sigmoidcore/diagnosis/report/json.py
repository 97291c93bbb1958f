"""A diagnosis as JSON, and back: what the dataclasses say is what the format is.

    {"format": 1, "version": "0.2.0", "healthy": false, "findings": [...], "measurement": {...}, "earlier": [...]}

docs/diagnosis-schema.json describes it. A field that has the default value of its dataclass is left out. Numbers have
6 significant digits; those that are not finite are the texts "nan", "inf" and "-inf", for JSON has no others. The model
and its batch are not recorded.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import sigmoidcore
from sigmoidcore._files import write_whole
from sigmoidcore.diagnosis.findings import Finding
from sigmoidcore.diagnosis.judgement import Judgement
from sigmoidcore.diagnosis.measure.measurement import Measurement
from sigmoidcore.diagnosis.values import WrongValueError, read, written

FORMAT = 1
"""Changes when a reader of the old format would misread the new one; new fields do not change it."""
EARLIER = 8_000_000
"""Characters that the earlier measurements of a training may take; of more, evenly distant ones are kept."""

_AGAIN = "write it again with Diagnosis.to_json"


def to_json(diagnosis: Judgement, path: str | Path | None = None) -> str:
    """The diagnosis as one line of strict JSON, also written to `path`, whole or not at all.

    The same diagnosis gives the same text, and so does what `from_json` makes of it. The size is bounded by the size
    of the model: of the earlier measurements of a training, evenly distant ones are kept, the first among them, so that
    they take no more than `EARLIER` characters.

    Args:
        diagnosis: what was measured and found; its `subject` is left out.
        path: of a file, which is replaced.

    Raises:
        OSError: the file cannot be written.
    """
    measurement, history = diagnosis.measurement, diagnosis.history
    earlier = [_dumped(m) for m in (history[:-1] if history and history[-1] is measurement else history)]
    members = {
        "format": json.dumps(FORMAT),
        "version": json.dumps(sigmoidcore.__version__),
        "healthy": json.dumps(diagnosis.healthy),
        "findings": _listed([_dumped(finding) for finding in diagnosis.findings]),
        "measurement": _dumped(measurement),
        "earlier": _listed(_thinned(earlier)),
    }
    text = "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"
    if path is not None:
        write_whole(Path(path), f"{text}\n".encode())
    return text


def from_json(source: str | Path) -> Judgement:
    """Read what `to_json` gave. Nothing in it can run; fields that this version does not know are left out.

    Args:
        source: a `Path`, or the text itself.

    Returns:
        The diagnosis without its `subject`.

    Raises:
        ValueError: it is no diagnosis, not whole, changed, or of a newer format; the message says which and what to do.
        OSError: the file cannot be read.
    """
    place = "the text" if isinstance(source, str) else str(source)
    try:
        text = source if isinstance(source, str) else source.read_bytes().decode("utf-8-sig")
        found = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        path = "; a file is given as a pathlib.Path" if isinstance(source, str) and "{" not in source else ""
        raise ValueError(f"{place} is no JSON, or was cut off ({error}): {_AGAIN}{path}") from error
    number = found.get("format") if isinstance(found, dict) else None
    if type(number) is not int or number < 1:
        raise ValueError(f"{place} is no diagnosis, for it has no format number: give what Diagnosis.to_json wrote")
    if number > FORMAT:
        raise ValueError(
            f"{place} has format {number}, this package reads up to {FORMAT}: install a newer sigmoid-core"
        )
    try:
        findings = read(tuple[Finding, ...], found.get("findings"), "findings")
        measurement = read(Measurement, found.get("measurement"), "measurement")
        earlier = read(tuple[Measurement, ...], found.get("earlier", []), "earlier")
        _check_positions(measurement, "measurement")
        for i, one in enumerate(earlier):
            _check_positions(one, f"earlier[{i}]")
    except WrongValueError as error:
        raise ValueError(f"{place} was changed or damaged: {error}; {_AGAIN}") from error
    return Judgement(measurement, findings, (*earlier, measurement) if earlier else ())


def _dumped(value: Finding | Measurement) -> str:
    return json.dumps(written(type(value), value), separators=(",", ":"), allow_nan=False)


def _listed(texts: Sequence[str]) -> str:
    return "[" + ",".join(texts) + "]"


def _thinned(texts: Sequence[str]) -> Sequence[str]:
    """All, or as many as the limit allows, evenly distant, the first among them."""
    if sum(map(len, texts)) <= EARLIER:
        return texts
    count = max(1, EARLIER // max(map(len, texts)))
    return [texts[round(i * (len(texts) - 1) / max(1, count - 1))] for i in range(count)]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _check_positions(measurement: Measurement, place: str) -> None:
    """Raise a WrongValueError where a layer is pointed to that is not there."""
    count = len(measurement.layers)
    pointers = [(f"{place}.layers[{i}].sources", s) for i, x in enumerate(measurement.layers) for s in x.sources]
    if measurement.loss_reads is not None:
        pointers.append((f"{place}.loss_reads", measurement.loss_reads))
    for where, position in pointers:
        if not 0 <= position < count:
            raise WrongValueError(f"{where} points to layer {position} of {count}")
