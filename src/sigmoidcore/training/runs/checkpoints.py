"""Checkpoints: a folder for each, written completely or not at all, with a checksum of every file.

    checkpoints/step-000000140/
        model.safetensors      weights, slopes and shifts
        training.safetensors   optimizer and random generators
        state.json             the rest, in numbers and texts
        config.toml            of the run
        manifest.json          size and SHA-256 of each of these, and of itself

The two latest and the best are kept. Reading one runs no code: safetensors and JSON only, no links, and no names that
come from a file.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sigmoidcore._files import open_regular, read_regular, sync_folder, write_synced
from sigmoidcore.training.data import memory
from sigmoidcore.training.runs.state import State

FORMAT = 3
"""Version of a checkpoint."""
LATEST = 2
"""Number of the latest checkpoints that are kept: if the last one is damaged, there is one before it."""

_WEIGHTS, _TENSORS, _STATE, _CONFIG = "model.safetensors", "training.safetensors", "state.json", "config.toml"
_MANIFEST = "manifest.json"
_FILES = (_WEIGHTS, _TENSORS, _STATE, _CONFIG)
_NAME = re.compile(r"step-(\d{9,12})")


class DamagedError(Exception):
    """A checkpoint differs from what was written."""


class VersionError(DamagedError):
    """A checkpoint of another format; resuming from an older checkpoint would lose its steps."""


@dataclass(frozen=True)
class Checkpoint:
    """The latest valid checkpoint of a folder."""

    state: State  # of the training
    config: bytes  # the run's config.toml when the checkpoint was written
    damaged: tuple[str, ...]  # a sentence about each later checkpoint, which is damaged


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: of all of them; the first `save` makes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: State, config: bytes = b"") -> Path:
        """Write a checkpoint and remove those that are no longer kept; returns its folder."""
        from safetensors.torch import save

        if self.folder.is_symlink():
            raise OSError(f"{self.folder} is a link: a run's folder contains no links")
        self.folder.mkdir(exist_ok=True)
        final = self.folder / f"step-{state.step:09}"
        part = self.folder / f".{final.name}.{os.getpid()}.part"
        files = {
            _WEIGHTS: save(state.weights, metadata={"format": "pt"}),
            _TENSORS: save(state.tensors, metadata={"format": "pt"}),
            _STATE: json.dumps(state.values).encode(),
            _CONFIG: config,
        }
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            for name, data in {**files, _MANIFEST: _manifest(state, files)}.items():
                write_synced(part / name, data)
            sync_folder(part)
            self._remove(final)
            part.replace(final)
            sync_folder(self.folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        paths = self.paths()
        for path in {*paths} - {*paths[-LATEST:], self.best()}:
            self._remove(path)
        return final

    def read(self) -> Checkpoint | None:
        """The latest valid checkpoint, or None without any checkpoint."""
        damaged: list[str] = []
        for path in reversed(self.paths()):
            try:
                return Checkpoint(*_read(path), tuple(damaged))
            except VersionError:
                raise
            except DamagedError as error:
                damaged.append(f"{path} is damaged: {error}")
        if damaged:
            raise DamagedError(f"no checkpoint is valid: {'; '.join(damaged)}")
        return None

    def paths(self) -> list[Path]:
        """All checkpoints, by step."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name) and not path.is_symlink()]
        return sorted(found, key=_step)

    def best(self) -> Path | None:
        """The checkpoint with the highest score, the first of equals; None if none has a score."""
        scores: dict[Path, float] = {}
        for path in self.paths():
            with contextlib.suppress(DamagedError):
                score = _read_manifest(path)["score"]
                scores |= {path: score} if isinstance(score, int | float) else {}
        return max(scores, key=lambda path: scores[path], default=None)

    def clean(self) -> None:
        """Remove what a killed process left behind."""
        if self.folder.is_dir() and not self.folder.is_symlink():
            for path in self.folder.glob(".step-*"):
                shutil.rmtree(path, ignore_errors=True)

    def remove(self) -> None:
        """Remove all of them, and their folder if nothing else is in it."""
        for path in self.paths():
            self._remove(path)
        self.clean()
        if self.folder.is_dir() and not self.folder.is_symlink() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _remove(self, path: Path) -> None:
        """Remove a checkpoint; a reader finds it complete or not at all."""
        if path.is_dir():
            aside = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.replace(aside)
            shutil.rmtree(aside, ignore_errors=True)


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, which cannot contain code."""
    from safetensors import SafetensorError, safe_open

    try:
        os.close(open_regular(path, os.O_RDONLY))
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  not a dict
            return dict(file.metadata() or {}), tensors
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DamagedError(f"{path.name} is not a safetensors file ({error})") from error


def _step(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1])


def _manifest(state: State, files: Mapping[str, bytes]) -> bytes:
    contents = {
        "format": FORMAT,
        "step": state.step,
        "score": state.score if state.score is not None and math.isfinite(state.score) else None,
        "files": {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()},
    }
    return (json.dumps({**contents, "sha256": checksum(contents)}, indent=1) + "\n").encode()


def checksum(contents: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's contents."""
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    contents = _json(path / _MANIFEST, 65_536)
    if contents.pop("sha256", None) != checksum(contents):
        raise DamagedError("its manifest does not match its checksum")
    if contents.get("format") != FORMAT:
        raise VersionError(
            f"{path} has format {str(contents.get('format'))[:20]}, and this package reads {FORMAT}: install the "
            "version of sigmoid-core that wrote it"
        )
    if contents.get("step") != _step(path) or set(contents.get("files", ())) != set(_FILES) or "score" not in contents:
        raise DamagedError("its manifest is that of another checkpoint")
    return contents


def _read(path: Path) -> tuple[State, bytes]:
    manifest = _read_manifest(path)
    for name in _FILES:
        _check(path / name, manifest["files"][name])
    values = _json(path / _STATE)
    weights, tensors = (read_tensors(path / name)[1] for name in (_WEIGHTS, _TENSORS))
    return State(manifest["step"], manifest["score"], weights, tensors, values), read_regular(path / _CONFIG)


def _check(path: Path, written: Mapping[str, Any]) -> None:
    """Compare a file with its entry in the manifest; a file of another size is not read."""
    try:
        with open(path, "rb", opener=open_regular) as file:
            size = os.fstat(file.fileno()).st_size
            if size != written.get("bytes") or size > memory():
                raise DamagedError(f"{path.name} has {size:,} bytes, and {written.get('bytes'):,} were written")
            if hashlib.file_digest(file, "sha256").hexdigest() != written.get("sha256"):
                raise DamagedError(f"{path.name} does not match its checksum")
    except (OSError, TypeError, ValueError) as error:
        raise DamagedError(f"{path.name} cannot be read: {error}") from error


def _json(path: Path, limit: int = -1) -> dict[str, Any]:
    """The object in a JSON file; of a longer file, only the first `limit` bytes are read."""
    try:
        contents = json.loads(read_regular(path, limit))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(contents, dict):
        raise DamagedError(f"{path.name} is not a JSON object")
    return contents
