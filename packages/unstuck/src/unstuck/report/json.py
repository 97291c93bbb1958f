"""A diagnosis as JSON. The dataclasses define the format; docs/diagnosis-schema.json describes it.

{"format": 1, "version": "0.2.0", "healthy": false, "findings": [...], "measurement": {...}, "earlier": [...]}
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import unstuck
from unstuck.files import write_file
from unstuck.findings import Finding, Gap, Trials
from unstuck.judgement import Judgement
from unstuck.measure.measurement import Measurement
from unstuck.report.axes import spread_evenly
from unstuck.values import read, written

FORMAT = 1
"""Changes when a reader of the old format would misread the new one; new fields do not change it."""
EARLIER = 8_000_000
"""Characters of the earlier measurements of a training; of more, evenly spaced ones are kept."""


def to_json(judgement: Judgement, path: str | Path | None = None) -> str:
    """One line of strict JSON, the same for the same diagnosis, without its `subject`; also written to `path`."""
    measurement, history = judgement.measurement, judgement.history
    earlier = [_dumped(m) for m in (history[:-1] if history and history[-1] is measurement else history)]
    members = {
        "format": json.dumps(FORMAT),
        "version": json.dumps(unstuck.__version__),
        "healthy": json.dumps(judgement.healthy),
        "findings": f"[{','.join(map(_dumped, judgement.findings))}]",
        "measurement": _dumped(measurement),
        "earlier": f"[{','.join(_thinned(earlier))}]",
        "gaps": f"[{','.join(map(_dumped, judgement.gaps))}]",
        "trials": _dumped(judgement.trials),
    }
    text = "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"
    if path is not None:
        write_file(Path(path), f"{text}\n".encode())
    return text


def from_json(text: str | bytes) -> dict[str, Any]:
    """The fields of the judgement that was written; a ValueError from another text."""
    try:
        members = json.loads(text)
        if members["format"] != FORMAT:
            raise ValueError(f"its format is {members['format']!r}, not {FORMAT}: another version wrote it")
        measurement = read(Measurement, members["measurement"])
        earlier = tuple(read(Measurement, one) for one in members["earlier"])
        return {
            "measurement": measurement,
            "findings": tuple(read(Finding, one) for one in members["findings"]),
            "history": (*earlier, measurement) if earlier else (),
            "gaps": tuple(read(Gap, one) for one in members["gaps"]),
            "trials": read(Trials, members.get("trials", {})),
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"something is missing or of another kind ({error!r})") from error


def _dumped(value: Finding | Gap | Measurement | Trials) -> str:
    return json.dumps(written(type(value), value), separators=(",", ":"), allow_nan=False)


def _thinned(texts: Sequence[str]) -> Sequence[str]:
    """All texts, or evenly spaced ones within the limit, with the first."""
    if sum(map(len, texts)) <= EARLIER:
        return texts
    return [texts[i] for i in spread_evenly(len(texts), max(1, EARLIER // max(map(len, texts))))]
