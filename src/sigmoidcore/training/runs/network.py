"""A run's network as a safetensors file, whose metadata are architecture and sizes."""

from dataclasses import replace
from pathlib import Path

import torch

from sigmoidcore.training.data import short
from sigmoidcore.training.networks import Network, network
from sigmoidcore.training.runs.tensors import DamagedError, read_tensors, save_tensors

WEIGHTS = "model.safetensors"
"""The file in a run's folder."""
_ARCHITECTURE, _PREPROCESSING = "architecture", "preprocessing"


class NetworkError(ValueError):
    """A file does not contain the network. The message is one line: what is wrong, where, and what to do."""


def save_network(path: Path, network: Network) -> Path:
    """Write a network completely or not at all; `read_network` reads it."""
    described = {_ARCHITECTURE: network.architecture, **{name: str(size) for name, size in network.sizes.items()}}
    if network.preprocessing:
        described[_PREPROCESSING] = network.preprocessing
    return save_tensors(path, network.model.state_dict(), described)


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
    try:
        metadata, tensors = read_tensors(path)
    except DamagedError as error:
        remedy = f"`sigmoid-core train --resume {path.parent}` restores it from the last checkpoint"
        raise NetworkError(f"{path} is damaged: {error}; {remedy}") from error
    architecture, preprocessing = metadata.pop(_ARCHITECTURE, ""), metadata.pop(_PREPROCESSING, "")
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
