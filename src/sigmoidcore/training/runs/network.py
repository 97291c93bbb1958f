"""A run's network: written as safetensors with what it is and a checksum, and made again from this by `network_of`.

`ARCHITECTURES` names the networks that a run may be of. The metadata of model.safetensors hold that name, the sizes
that make the network, and the SHA-256 of all of it; nothing in the file is ever run.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sigmoidcore._files import open_no_link, write_whole
from sigmoidcore.nn.networks import MLP
from sigmoidcore.training.networks import SequenceNet, image_net, images, rows, sequences
from sigmoidcore.training.runs.state import MismatchError, fill

WEIGHTS = "model.safetensors"
"""The file in a run's folder."""
OWN = "own"
"""The architecture of a network that the user's own code makes."""
_FORMAT, _ARCHITECTURE, _PREPROCESSING, _SUM = "format", "architecture", "preprocessing", "sha256"


class NetworkError(ValueError):
    """A network cannot be had from a file. The message is one line: what is wrong, where, and what to do."""


@dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Attributes:
        make: the network, from its sizes by name.
        sizes: their names.
        arranged: the network's inputs, from samples as a data set has them, [batch, ...].
    """

    make: Callable[..., nn.Module]
    sizes: tuple[str, ...]
    arranged: Callable[[Tensor], Tensor]


def as_they_are(samples: Tensor) -> Tensor:
    """The samples themselves."""
    return samples


ARCHITECTURES: dict[str, Architecture] = {
    "mlp": Architecture(MLP, ("in_features", "width", "depth", "out_features"), rows),
    "conv": Architecture(
        image_net, ("in_channels", "height", "width", "channels", "depth", "out_features", "halvings"), images
    ),
    "rnn": Architecture(SequenceNet, ("features", "width", "depth", "out_features"), sequences),
}
"""By name; a run of any other name is one of the user's own code."""


@dataclass(frozen=True)
class Network:
    """A network and what it is.

    Attributes:
        architecture: a name in `ARCHITECTURES`, or "own".
        sizes: that made it.
        model: itself.
        preprocessing: digest of the preprocessing that makes its inputs; "" if unknown.
    """

    architecture: str
    sizes: Mapping[str, int]
    model: nn.Module
    preprocessing: str = ""

    def arranged(self, samples: Tensor) -> Tensor:
        """Samples as a data set has them, [batch, ...], as this network takes them."""
        known = ARCHITECTURES.get(self.architecture)
        return as_they_are(samples) if known is None else known.arranged(samples)


def network(architecture: str, **sizes: int) -> Network:
    """A fresh network.

    Args:
        architecture: a name in `ARCHITECTURES`.
        sizes: by name.

    Raises:
        ValueError: there is no such architecture, or a size is not known or out of range.
        KeyError: a size is missing.

    Example:
        >>> network("mlp", in_features=4, width=8, depth=3, out_features=2).model(torch.zeros(5, 4)).shape
        torch.Size([5, 2])
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"there is no architecture {architecture[:60]!r}: there are {', '.join(ARCHITECTURES)}")
    known = ARCHITECTURES[architecture]
    unknown = sorted(set(sizes) - set(known.sizes))
    if unknown:
        raise ValueError(f"{architecture} has no size {unknown[0][:60]!r}: it has {', '.join(known.sizes)}")
    for name in known.sizes:
        if name not in sizes:
            raise KeyError(name)
    return Network(architecture, dict(sizes), known.make(**sizes))


def save_network(path: Path, network: Network) -> Path:
    """Write a network as safetensors, all of it or nothing; `read_network` makes it again.

    Raises:
        OSError: it cannot be written; what was there before is still there.
        ModuleNotFoundError: safetensors is not installed (extra `cli`).
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.model.state_dict().items()}
    described = {_ARCHITECTURE: network.architecture, **{name: str(size) for name, size in network.sizes.items()}}
    if network.preprocessing:
        described[_PREPROCESSING] = network.preprocessing
    metadata = {_FORMAT: "pt", **described, _SUM: checksum(described, tensors)}
    return write_whole(path, save(tensors, metadata=metadata))


def network_of(folder: Path, own: nn.Module | None = None) -> Network:
    """The network of a run with its last weights.

    Args:
        folder: of the run.
        own: the network that takes the weights, where the user's own code makes it.

    Raises:
        NetworkError: the folder has no weights, they are damaged, or they do not fit.
        ModuleNotFoundError: safetensors is not installed (extra `cli`).
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise NetworkError(
            f"{folder} holds no weights ({WEIGHTS}): `sigmoid-core train` writes them when a run ends; give the folder "
            "of such a run"
        )
    return read_network(path, own)


def read_network(path: Path, own: nn.Module | None = None) -> Network:
    """What `save_network` has written; files of older versions, without architecture and checksum, are of MLPs.

    Nothing is allocated for sizes that do not fit the weights.

    Args:
        path: of the file.
        own: the network that takes the weights, where the user's own code makes it.

    Raises:
        NetworkError: the file is damaged, or is of another network.
        ModuleNotFoundError: safetensors is not installed (extra `cli`).
    """
    metadata, tensors = _read(path)
    if _SUM in metadata:
        written = metadata.pop(_SUM)
        if written != checksum(metadata, tensors):
            raise NetworkError(
                f"{path} is damaged: it does not have its checksum; `sigmoid-core train --resume {path.parent}` writes "
                "it anew from the last checkpoint"
            )
    architecture, preprocessing = metadata.pop(_ARCHITECTURE, "mlp"), metadata.pop(_PREPROCESSING, "")
    try:
        if architecture not in ARCHITECTURES or own is not None:
            return replace(_of_own_code(path, architecture, own, tensors), preprocessing=preprocessing)
        sizes = {name: int(value) for name, value in metadata.items()}
        if sizes.get("depth", 0) > len(tensors):
            raise ValueError(f"{sizes['depth']} layers, but {len(tensors)} tensors")
        with torch.device("meta"):
            made = network(architecture, **sizes)
        made.model.load_state_dict(tensors, assign=True)
    except KeyError as error:
        raise NetworkError(f"{path} does not say what network it is of: its metadata lack {error}") from error
    except (RuntimeError, ValueError) as error:
        if isinstance(error, NetworkError):
            raise
        raise NetworkError(f"{path} does not fit the network that its metadata describe: {error}") from error
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


def _of_own_code(path: Path, architecture: str, own: nn.Module | None, tensors: Mapping[str, Tensor]) -> Network:
    if own is None:
        what = "of your own code" if architecture == OWN else f"of the architecture {architecture[:60]!r}"
        raise NetworkError(f"{path} is a network {what}, which this package does not make: give it as well (--model)")
    try:
        fill(own, tensors)
    except MismatchError as error:
        raise NetworkError(f"{path} does not fit the network that was given: {error}") from error
    return Network(architecture, {}, own)


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        os.close(open_no_link(path, os.O_RDONLY))
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  it is no dict
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise NetworkError(
            f"{path} cannot be read: {error}; was the file cut off? `sigmoid-core train --resume {path.parent}` writes "
            "it anew from the last checkpoint"
        ) from error
    written_by = metadata.pop(_FORMAT, "pt")
    if written_by != "pt":
        raise NetworkError(f"{path} is of the format {written_by[:20]!r} and not of PyTorch: is it damaged?")
    return metadata, tensors
