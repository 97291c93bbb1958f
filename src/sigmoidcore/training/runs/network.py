"""A run's network as a safetensors file, whose metadata are architecture, sizes and a checksum."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sigmoidcore._files import write_file
from sigmoidcore.training.data import short
from sigmoidcore.training.networks import Network, network
from sigmoidcore.training.runs.checkpoints import DamagedError, read_tensors

WEIGHTS = "model.safetensors"
"""The file in a run's folder."""
_FORMAT, _ARCHITECTURE, _PREPROCESSING, _SUM = "format", "architecture", "preprocessing", "sha256"


class NetworkError(ValueError):
    """A file does not contain the network. The message is one line: what is wrong, where, and what to do."""


def save_network(path: Path, network: Network) -> Path:
    """Write a network completely or not at all; `read_network` reads it."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.model.state_dict().items()}
    described = {_ARCHITECTURE: network.architecture, **{name: str(size) for name, size in network.sizes.items()}}
    if network.preprocessing:
        described[_PREPROCESSING] = network.preprocessing
    metadata = {_FORMAT: "pt", **described, _SUM: checksum(described, tensors)}
    return write_file(path, save(tensors, metadata=metadata))


def network_of(folder: Path) -> Network:
    """The network of a run with its last weights; errors are those of `read_network`."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise NetworkError(
            f"{folder} contains no weights ({WEIGHTS}): `sigmoid-core train` writes them when a run ends; give the "
            "folder of a run that has ended"
        )
    return read_network(path)


def read_network(path: Path) -> Network:
    """Read what `save_network` wrote; no memory is allocated for sizes that do not match the weights."""
    remedy = f"`sigmoid-core train --resume {path.parent}` restores it from the last checkpoint"
    try:
        metadata, tensors = read_tensors(path)
    except DamagedError as error:
        raise NetworkError(f"{path} cannot be read: {error}; was the file cut off? {remedy}") from error
    metadata.pop(_FORMAT, None)
    written = metadata.pop(_SUM, None)  # files that others have made may have none
    if written not in (None, checksum(metadata, tensors)):
        raise NetworkError(f"{path} is damaged: it does not match its checksum; {remedy}")
    architecture, preprocessing = metadata.pop(_ARCHITECTURE, "mlp"), metadata.pop(_PREPROCESSING, "")
    try:
        sizes = {name: int(value) for name, value in metadata.items()}
        if wrong := [name for name, size in sizes.items() if size >= 2**31]:
            raise ValueError(f"{wrong[0]} is too large")
        if sizes.get("depth", 0) > len(tensors):
            raise ValueError(f"{sizes['depth']} layers, but {len(tensors)} tensors")
        with torch.device("meta"):
            made = network(architecture, **sizes)
        made.model.load_state_dict(tensors, assign=True)
    except (RuntimeError, ValueError) as error:
        raise NetworkError(
            f"{path} does not match the network that its metadata describe: {short(error, 200)}"
        ) from error
    return replace(made, preprocessing=preprocessing)


def checksum(described: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a description and of names, dtypes, shapes and bytes of tensors.

    Example:
        >>> checksum({}, {"a": torch.zeros(2)}) == checksum({}, {"a": torch.zeros(2, 1)})
        False
    """
    found = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
