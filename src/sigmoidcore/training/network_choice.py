"""Which network is trained: one of cores by kind of data, or what a function of the user makes."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sigmoidcore.training.data import Data, memory
from sigmoidcore.training.display import count
from sigmoidcore.training.networks import DEPTHS, kind_for, sizes_for
from sigmoidcore.training.runs.network import ARCHITECTURES, OWN, Network
from sigmoidcore.training.runs.network import network as new_network
from sigmoidcore.training.runs.session import bad_input
from sigmoidcore.training.user_code import a, blamed, users_code


@dataclass(frozen=True)
class Chosen:
    """A network that is to be trained.

    Attributes:
        name: of the network.
        heading: data and network in a line.
        folder: name of the run's folder, without its number.
        data: as the network takes them.
        options: what was left open, decided.
        make: it.
    """

    name: str
    heading: str
    folder: str
    data: Data
    options: Mapping[str, Any]
    make: Callable[[], Network]


def chosen(options: Mapping[str, Any], data: Data, own_code: bool) -> Chosen:
    """The network that the options mean, for a data set.

    Args:
        options: of the run.
        data: what it learns from.
        own_code: whether code of the user may be run, for he has named it here and now.

    Raises:
        Stopped: there is none, or it is the user's own code, which may not be run; with code 2.
    """
    if options["model"] is not None:
        if not own_code:
            raise bad_input(
                f"the network of this run is made by code of your own: to run it, add --model {options['model']}"
            )
        return _own(options, data)
    kind = kind_for(data.shape) if options["network"] == "auto" else options["network"]
    depth = options["depth"] or DEPTHS[kind]
    _check_memory(depth, options["width"])
    try:
        sizes = sizes_for(kind, data.shape, data.outputs, options["width"], depth)
    except ValueError as error:
        raise bad_input(f"{data.name}: {error} (--network)") from error
    return Chosen(
        "Sigmoid Core",
        f"{data.name}: {_in_words(kind, sizes)}, {outputs(data)}",
        f"{data.file_name}-{'' if kind == 'mlp' else kind + '-'}{depth}x{options['width']}",
        data.arranged(ARCHITECTURES[kind].arranged),
        {"network": kind, "depth": depth, "prepare": options["prepare"] is not False},
        lambda: new_network(kind, **sizes),
    )


def outputs(data: Data) -> str:
    """The network's outputs in words."""
    return count(len(data.classes), "class", "classes") if data.kind.is_class else count(data.outputs, "number")


def _check_memory(depth: int, width: int) -> None:
    """Refuse what can never fit: its weights, their gradients, and the two numbers that AdamW keeps of each."""
    least = depth * (16 * width**2 + 10_000)
    if least > memory():
        raise bad_input(
            f"{count(depth, 'layer')} of {width:,} need at least {least / 2**30:,.0f} GiB of memory, and this machine "
            f"has {memory() / 2**30:,.0f}: lower --depth or --width"
        )


def _in_words(kind: str, sizes: Mapping[str, int]) -> str:
    depth = sizes["depth"]
    if kind == "mlp":
        return f"{sizes['in_features']} inputs, {count(depth, 'layer')} of {sizes['width']} sigmoids"
    if kind == "rnn":
        layers = count(depth, "recurrent layer")
        return f"sequences of {count(sizes['features'], 'number')}, {layers} of {sizes['width']} sigmoids"
    image = f"{sizes['height']} x {sizes['width']}"
    return (
        f"images of {image} and {count(sizes['in_channels'], 'channel')}, {count(depth, 'layer')} of "
        f"{count(sizes['channels'], 'channel')}"
    )


def _own(options: Mapping[str, Any], data: Data) -> Chosen:
    target = options["model"]
    with users_code(target) as make:
        if isinstance(make, nn.Module) or not callable(make):
            what = "a model" if isinstance(make, nn.Module) else f"{a(make)}, no function"
            raise bad_input(f"{target} is {what}: give a function of (shape, outputs) that makes a model")
        torch.manual_seed(options["seed"])  # weights that are drawn afresh are those of this seed
        with blamed(target):
            _check_takes_two(make)
            model = make(data.shape, data.outputs)
    if not isinstance(model, nn.Module):
        raise bad_input(f"{target} returned {a(model)}, no torch.nn.Module: let it return the model")
    _check_outputs(target, model, data)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if not parameters:
        raise bad_input(f"{target} returned a model without parameters that require a gradient: nothing to train")
    shape = " x ".join(map(str, data.shape))
    return Chosen(
        target.rpartition(":")[2],
        f"{data.name}: inputs of {shape}, {target} with {count(parameters, 'parameter')}, {outputs(data)}",
        f"{data.file_name}-{target.rpartition(':')[2]}",
        data,
        {"prepare": options["prepare"] is True},
        lambda: Network(OWN, {}, model),
    )


def _check_takes_two(make: Callable[..., Any]) -> None:
    try:
        inspect.signature(make).bind((1,), 1)
    except TypeError as error:
        raise TypeError(f"it is called with a sample's shape and the number of outputs, and has {error}") from error


def _check_outputs(target: str, model: nn.Module, data: Data) -> None:
    """Refuse a model that cannot take these data, before anything is written."""
    inputs = data.probes(2)[0]
    mode = model.training
    with torch.no_grad(), blamed(f"the model of {target}, called with {list(inputs.shape)}, "):
        found = model.eval()(inputs)
    model.train(mode)
    wanted = [len(inputs), data.outputs]
    if not isinstance(found, torch.Tensor) or list(found.shape) != wanted:
        what = list(found.shape) if isinstance(found, torch.Tensor) else a(found)
        raise bad_input(f"the model of {target} gave {what} for a batch of {len(inputs)} samples: let it give {wanted}")
