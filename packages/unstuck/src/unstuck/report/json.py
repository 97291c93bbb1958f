"""A diagnosis as JSON. The dataclasses define the format; docs/diagnosis-schema.json describes it.

{"format": 1, "version": "0.2.0", "healthy": false, "findings": [...], "measurement": {...}, "earlier": [...]}
"""

import json
from pathlib import Path
from typing import Any

import unstuck
from unstuck.files import write_file
from unstuck.findings import Finding, Gap, Judgement, Trials
from unstuck.measure.measurement import Measurement
from unstuck.report.layers import evenly
from unstuck.values import read, written

FORMAT = 1
"""Changes when a reader of the old format would misread the new one; new fields do not change it."""
EARLIER = 20_000
"""Layers in the earlier measurements of a training; of more, evenly spaced measurements are kept."""


def to_json(judgement: Judgement, path: str | Path | None = None) -> str:
    """One line of strict JSON, the same for the same diagnosis, without its `subject`; also written to `path`."""
    measurement = judgement.measurement
    earlier = [one for one in judgement.history if one is not measurement]
    kept = evenly(earlier, EARLIER // max(1, len(measurement.layers)))
    members = {
        "format": FORMAT,
        "version": unstuck.__version__,
        "healthy": judgement.healthy,
        "findings": [written(one) for one in judgement.findings],
        "measurement": written(measurement),
        "earlier": [written(one) for one in kept],
        "gaps": [written(one) for one in judgement.gaps],
        "trials": written(judgement.trials),
        "steps": judgement.steps,
    }
    text = json.dumps(members, separators=(",", ":"), allow_nan=False)
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
            "steps": members.get("steps", 0),
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"something is missing or of another kind ({error!r})") from error
