"""Checkpoints: `checkpoints/step-000000140.safetensors`, each written completely or not at all, with a checksum.

The tensors are those of the model, as `model.NAME`, of the optimizer and of the random generators. The metadata are
step, score, the rest of the state as JSON, and the run's config.toml. The two latest and the best are kept.
"""

import contextlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from sigmoidcore.training.runs.state import State
from sigmoidcore.training.runs.weights import DamagedError, read_metadata, read_tensors, save_tensors
from sigmoidcore.language import _

FORMAT = "4"
"""Version of a checkpoint."""
LATEST = 2
"""Number of the latest checkpoints that are kept: if the last one is damaged, there is one before it."""
_MODEL = "model."
_NAME = re.compile(r"step-(\d{9,12})\.safetensors")


class VersionError(DamagedError):
    """A checkpoint of another format; resuming from an older checkpoint would lose its steps."""


@dataclass(frozen=True)
class Checkpoint:
    """The latest valid checkpoint of a folder."""

    state: State  # of the training
    config: str  # the run's config.toml when the checkpoint was written
    damaged: tuple[str, ...] = ()  # a sentence about each later checkpoint, which is damaged


class Checkpoints:
    """The checkpoints of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: State, config: str = "") -> Path:
        """Write a checkpoint and remove those that are no longer kept; returns its path."""
        if self.folder.is_symlink():
            raise OSError(_("{folder} is a link: a run's folder contains no links", folder=self.folder))
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"step-{state.step:09}.safetensors"
        tensors = {**{_MODEL + name: weight for name, weight in state.weights.items()}, **state.tensors}
        score = str(state.score) if state.score is not None and math.isfinite(state.score) else ""
        described = {"step": str(state.step), "score": score, "values": json.dumps(state.values), "config": config}
        save_tensors(path, tensors, {"checkpoint": FORMAT, **described})
        paths = self.paths()
        for old in {*paths} - {*paths[-LATEST:], self.best()}:
            old.unlink()
        return path

    def read(self) -> Checkpoint | None:
        """The latest valid checkpoint, or None without any checkpoint."""
        damaged: list[str] = []
        for path in reversed(self.paths()):
            try:
                return Checkpoint(*_read(path), tuple(damaged))
            except VersionError:
                raise
            except DamagedError as error:
                damaged.append(_("{path} is damaged: {error}", path=path, error=error))
        if damaged:
            raise DamagedError("no checkpoint is valid: {damaged}", damaged=_("; ").join(damaged))
        return None

    def paths(self) -> list[Path]:
        """All checkpoints, by step."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), key=_step)

    def best(self) -> Path | None:
        """The checkpoint with the highest score, the first of equals; None if none has a score."""
        scores: dict[Path, float] = {}
        for path in self.paths():
            with contextlib.suppress(DamagedError, KeyError, ValueError):
                scores[path] = float(read_metadata(path)["score"])
        return max(scores, key=lambda path: scores[path], default=None)

    def clean(self) -> None:
        """Remove what a killed process left behind."""
        if not self.folder.is_symlink():
            for path in self.folder.glob("step-*.part"):
                path.unlink()

    def remove(self) -> None:
        """Remove all of them, and their folder if nothing else is in it."""
        self.clean()
        for path in self.paths():
            path.unlink()
        if self.folder.is_dir() and not self.folder.is_symlink() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def _step(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1])


def _read(path: Path) -> tuple[State, str]:
    described, tensors = read_tensors(path)
    if described.get("checkpoint") != FORMAT:
        raise VersionError(
            "{path} has format {found}, and this package reads {format}: install the version of "
            "sigmoid-core that wrote it",
            path=path,
            found=described.get("checkpoint", "")[:20],
            format=FORMAT,
        )
    try:
        step, score, values = int(described["step"]), described["score"], json.loads(described["values"])
        weights = {name.removeprefix(_MODEL): t for name, t in tensors.items() if name.startswith(_MODEL)}
        others = {name: tensor for name, tensor in tensors.items() if not name.startswith(_MODEL)}
        if step != _step(path) or not isinstance(values, dict):
            raise ValueError(_("its metadata are those of another file"))
        return State(step, float(score) if score else None, weights, others, values), described["config"]
    except (KeyError, ValueError, RecursionError) as error:
        raise DamagedError("{name} is not a checkpoint: {error}", name=path.name, error=error) from error
