"""Safetensors files with a checksum, for weights and checkpoints; they cannot contain code. A run's network is one."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sigmoidcore.training.data import InputError, memory
from sigmoidcore.training.networks import Network, network
from unstuck.files import open_regular, write_file
from sigmoidcore.language import _
from unstuck.language.errors import TranslatedError

WEIGHTS = "model.safetensors"
"""The file in a run's folder."""
_FORMAT, _SUM, _ARCHITECTURE = {"format": "pt"}, "sha256", "architecture"


class DamagedError(TranslatedError):
    """A file differs from what was written."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write a file completely or not at all; `read_tensors` reads it."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    described = {**_FORMAT, **metadata}
    return write_file(path, save(tensors, metadata={**described, _SUM: checksum(described, tensors)}))


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file; DamagedError if they are not what was written."""
    with _opened(path) as file:
        metadata = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  not a dict
    if metadata.pop(_SUM, None) != checksum(metadata, tensors):
        raise DamagedError("{name} does not match its checksum", name=path.name)
    return {name: text for name, text in metadata.items() if name not in _FORMAT}, tensors


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a file, which are not compared with its checksum."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb", opener=open_regular) as regular:
            size = os.fstat(regular.fileno()).st_size
        if size > memory():
            raise ValueError(_("{size:,} bytes are more than the memory of this machine", size=size))
        with safe_open(path, "pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DamagedError("{name} is not a safetensors file ({error})", name=path.name, error=error) from error


def checksum(described: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of metadata and of names, dtypes, shapes and bytes of tensors."""
    found = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def save_network(path: Path, network: Network) -> Path:
    """Write a network completely or not at all; `read_network` reads it."""
    sizes = {name: str(size) for name, size in network.sizes.items()}
    return save_tensors(path, network.model.state_dict(), {_ARCHITECTURE: network.architecture, **sizes})


def network_of(folder: Path) -> Network:
    """The network of a run with its last weights; errors are those of `read_network`."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise InputError(
            "{folder} contains no weights ({file}): `sigmoid-core train` writes them when a run "
            "ends; give the folder of a run that has ended",
            folder=folder,
            file=WEIGHTS,
        )
    return read_network(path)


def read_network(path: Path) -> Network:
    """Read what `save_network` wrote; no memory is allocated for sizes that do not match the weights."""
    remedy = _("`sigmoid-core train --resume {folder}` restores it from the last checkpoint", folder=path.parent)
    with InputError.replacing("{path} is damaged: {error}; {remedy}", DamagedError, path=path, remedy=remedy):
        metadata, tensors = read_tensors(path)
    architecture = metadata.pop(_ARCHITECTURE, "")
    with InputError.replacing(
        "{path} does not match the network that its metadata describe: {error}", RuntimeError, ValueError, path=path
    ):
        sizes = {name: int(value) for name, value in metadata.items()}
        if wrong := [name for name, size in sizes.items() if size >= 2**31]:
            raise ValueError(_("{name} is too large", name=wrong[0]))
        if sizes.get("depth", 0) > len(tensors):
            raise ValueError(_("{depth} layers, but {count} tensors", depth=sizes["depth"], count=len(tensors)))
        with torch.device("meta"):
            made = network(architecture, **sizes)
        made.model.load_state_dict(tensors, assign=True)
    return made
