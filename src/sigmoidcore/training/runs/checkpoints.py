"""Checkpoints: a folder for each, written whole or not at all, with a checksum for every file in it.

    checkpoints/step-000000140/
        model.safetensors      weights, slopes and shifts
        training.safetensors   optimizer, Equalizer, random generators
        state.json             the rest, in numbers and texts
        config.toml            of the run
        manifest.json          size and SHA-256 of each of these, and its own

The two latest and the best are kept. Reading one runs no code: safetensors and JSON only, no links, and no names that
come from a file.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sigmoidcore._files import open_no_link, sync_folder, write_synced
from sigmoidcore.training.runs.state import State

FORMAT = 1
"""Version of a checkpoint."""
KEPT = 2
"""The latest checkpoints that are kept, beside the best: if the last one is damaged, there is one before it."""

_WEIGHTS, _TENSORS, _STATE, _CONFIG, _MANIFEST = (
    "model.safetensors",
    "training.safetensors",
    "state.json",
    "config.toml",
    "manifest.json",
)
_FILES = (_WEIGHTS, _TENSORS, _STATE, _CONFIG)
_NAME = re.compile(r"step-(\d{9,12})")
_LARGEST_MANIFEST = 65_536


class DamagedError(Exception):
    """A checkpoint is not what was written."""


class NewerError(DamagedError):
    """A checkpoint is sound, and of a newer format: to go on from an older one would lose what it has."""


@dataclass(frozen=True)
class Read:
    """What was read from a folder of checkpoints.

    Attributes:
        state: of the latest checkpoint that is sound.
        config: the run's config.toml, as it was when the checkpoint was written.
        damaged: a sentence for each later one, which is damaged.
    """

    state: State
    config: bytes
    damaged: tuple[str, ...]


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: of all of them; it is made when the first is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: State, config: bytes = b"") -> Path:
        """Write a checkpoint, then remove those that are not kept any more.

        Args:
            state: of the training.
            config: the run's config.toml.

        Returns:
            The checkpoint's folder.

        Raises:
            OSError: it cannot be written; those that were there are there still.
            ModuleNotFoundError: safetensors is not installed (extra `cli`).
        """
        from safetensors.torch import save

        if self.folder.is_symlink():
            raise OSError(f"{self.folder} is a link: a run's folder holds no links")
        self.folder.mkdir(exist_ok=True)
        final = self.folder / f"step-{state.step:09}"
        part = self.folder / f".{final.name}.{os.getpid()}.part"
        files = {
            _WEIGHTS: save(state.weights, metadata={"format": "pt"}),
            _TENSORS: save(state.tensors, metadata={"format": "pt"}),
            _STATE: json.dumps(_as_json(state.values), allow_nan=False).encode(),
            _CONFIG: config,
        }
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            for name, data in files.items():
                write_synced(part / name, data)
            write_synced(part / _MANIFEST, _manifest(state, files))
            sync_folder(part)
            self._remove(final)
            part.replace(final)
            sync_folder(self.folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._thin()
        return final

    def read(self, largest: int = 1 << 40) -> Read | None:
        """The latest checkpoint that is sound, or None if there is no checkpoint at all.

        Args:
            largest: bytes that a file may have at most; nothing larger is read.

        Raises:
            NewerError: the latest that is sound is of a newer format.
            DamagedError: there are some, and none is sound.
        """
        damaged: list[str] = []
        for path in reversed(self.paths()):
            try:
                state, config = _read(path, largest)
            except NewerError:
                raise
            except DamagedError as error:
                damaged.append(f"{path} is damaged: {error}")
            else:
                return Read(state, config, tuple(damaged))
        if damaged:
            raise DamagedError(f"no checkpoint is sound: {'; '.join(damaged)}")
        return None

    def paths(self) -> list[Path]:
        """All checkpoints, by step."""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name) and not path.is_symlink()]
        return sorted(found, key=_step)

    def best(self) -> Path | None:
        """The checkpoint with the highest score, the first of equals; None if none has a score."""
        scores = list(self._scores())
        return max(scores, key=lambda pair: pair[1])[0] if scores else None

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

    def _scores(self) -> Iterator[tuple[Path, float]]:
        for path in self.paths():
            try:
                score = _read_manifest(path)["score"]
            except DamagedError:
                continue
            if isinstance(score, int | float) and math.isfinite(score):
                yield path, float(score)

    def _thin(self) -> None:
        kept = {*self.paths()[-KEPT:], self.best()}
        for path in self.paths():
            if path not in kept:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        """Remove a checkpoint; whoever looks meanwhile finds it whole or not at all."""
        if path.is_dir():
            gone = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.replace(gone)
            shutil.rmtree(gone, ignore_errors=True)


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
    return (json.dumps({**contents, "sha256": _sum_of(contents)}, indent=1) + "\n").encode()


def _sum_of(contents: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        contents = json.loads(_bytes(path / _MANIFEST, _LARGEST_MANIFEST))
    except (ValueError, RecursionError) as error:
        raise DamagedError("its manifest is no JSON") from error
    if not isinstance(contents, dict) or contents.pop("sha256", None) != _sum_of(contents):
        raise DamagedError("its manifest does not have its checksum")
    if contents.get("format") != FORMAT:
        raise NewerError(
            f"{path} has format {str(contents.get('format'))[:20]}, and this package reads {FORMAT}: install a newer "
            "sigmoid-core"
        )
    if contents.get("step") != _step(path) or set(contents.get("files", ())) != set(_FILES) or "score" not in contents:
        raise DamagedError("its manifest is that of another checkpoint")
    return contents


def _read(path: Path, largest: int) -> tuple[State, bytes]:
    manifest = _read_manifest(path)
    for name in _FILES:
        _check(path / name, manifest["files"][name], largest)
    try:
        values = _from_json(json.loads(_bytes(path / _STATE, largest)))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{_STATE} is no JSON") from error
    if not isinstance(values, dict):
        raise DamagedError(f"{_STATE} holds no state")
    weights, tensors = (read_tensors(path / name) for name in (_WEIGHTS, _TENSORS))
    return State(manifest["step"], manifest["score"], weights, tensors, values), _bytes(path / _CONFIG, largest)


def _check(path: Path, written: Mapping[str, Any], largest: int) -> None:
    """Compare a file with its entry in the manifest; only one of the right size is read."""
    try:
        descriptor = open_no_link(path, os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(descriptor).st_size
            if size != written.get("bytes"):
                raise DamagedError(f"{path.name} has {size:,} bytes, and {written.get('bytes'):,} were written")
            if size > largest:
                raise DamagedError(f"{path.name} has {size:,} bytes, more than this network can have")
            if hashlib.file_digest(file, "sha256").hexdigest() != written.get("sha256"):
                raise DamagedError(f"{path.name} does not have its checksum")
    except (OSError, TypeError, ValueError) as error:
        raise DamagedError(f"{path.name} cannot be read: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; no code in it can run, whatever its name is.

    Raises:
        DamagedError: it is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        os.close(open_no_link(path, os.O_RDONLY))
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  it is no dict
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DamagedError(f"{path.name} is no safetensors file: {error}") from error


def _bytes(path: Path, largest: int) -> bytes:
    try:
        with os.fdopen(open_no_link(path, os.O_RDONLY), "rb") as file:
            if os.fstat(file.fileno()).st_size > largest:
                raise DamagedError(f"{path.name} is too large")
            return file.read()
    except OSError as error:
        raise DamagedError(f"{path.name} cannot be read: {error.strerror or error}") from error


_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def _as_json(value: Any) -> Any:
    """The same without numbers that JSON has not: these become {"float": "inf"}."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    return [_as_json(item) for item in value] if isinstance(value, list | tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"float"} and value["float"] in _NOT_FINITE:
            return _NOT_FINITE[value["float"]]
        return {key: _from_json(item) for key, item in value.items()}
    return [_from_json(item) for item in value] if isinstance(value, list) else value
