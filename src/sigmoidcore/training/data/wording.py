"""A data set in words: as a folder's name, in a heading, in a line."""

import re

from sigmoidcore.training.data import Data
from sigmoidcore.training.display import count

CLASSES_SHOWN = 5
"""Names of classes that are shown before the rest is counted."""


def file_name(data: Data) -> str:
    """The set's name, as a folder may have it in its own."""
    return re.sub(r"[^\w.-]+", "-", data.name).strip(".-") or "data"


def outputs(data: Data) -> str:
    """What the network's outputs are, for a heading."""
    return count(len(data.classes), "class", "classes") if data.kind.is_class else count(data.outputs, "number")


def learnt(data: Data) -> str:
    """What the target was found to be, and how many samples there are, in a line."""
    what = ", ".join(data.targets)
    shown = ", ".join(data.classes[:CLASSES_SHOWN]) + (", ..." if len(data.classes) > CLASSES_SHOWN else "")
    kind = f"{data.kind} ({shown})" if data.kind.is_class else str(data.kind)
    return f"target {what}: {kind}; {len(data.train):,} training and {len(data.test):,} test samples"
