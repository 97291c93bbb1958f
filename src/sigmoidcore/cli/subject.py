"""The model and the batch of `sigmoid-core diagnose`: from a function of the user, or from a run."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sigmoidcore.cli.common import errors_in_one_line
from sigmoidcore.training.course import probes
from sigmoidcore.training.runs.folder import data_of
from sigmoidcore.training.runs.network import WEIGHTS
from sigmoidcore.training.session import bad_input
from sigmoidcore.training.use.trained import open_run
from sigmoidcore.training.user_code import dotted, reported_as, users_code, with_article

KEYS = ("model", "inputs", "targets", "loss_fn")
WANTED = "return (model, inputs, targets, loss_fn), or (model, inputs), or a dict with these keys"


@dataclass(frozen=True)
class Subject:
    """A model, its batch, and their origin in words."""

    name: str
    model: nn.Module
    inputs: Any
    targets: Any = None
    loss_fn: Any = None


def subject_of(target: str) -> Subject:
    """The model and the batch of `package.module:function`, which is run, or of a run's folder.

    Raises:
        Stopped: there are none, with code 2.
    """
    path = Path(target)
    if path.is_dir():
        return _of_run(path)
    module, colon, attribute = target.partition(":")
    if colon and module and attribute:
        return _of_function(target)
    if path.exists():
        example = f"{dotted(path)}:make" if path.suffix == ".py" else "package.module:make"
        raise bad_input(f"{target} is a file: give the folder of a run, or a function of a module as {example}")
    raise bad_input(f"{target} is not the folder of a run: give one, or a function of yours as package.module:make")


def _of_function(target: str) -> Subject:
    with users_code(target) as make:
        if isinstance(make, nn.Module):
            raise bad_input(f"{target} is a model: give a function that makes a model and a batch; let it {WANTED}")
        if not callable(make):
            raise bad_input(f"{target} is {with_article(make)}, not a function: give a function; let it {WANTED}")
        try:
            inspect.signature(make).bind()
        except TypeError as error:
            raise bad_input(f"{target} is called without arguments: {error}; give a function without any") from error
        torch.manual_seed(0)  # random weights are the same every time
        with reported_as(target):
            made = make()
    if isinstance(made, Mapping):
        unknown = [key for key in made if key not in KEYS]
        missing = [key for key in KEYS[:2] if key not in made]
        if unknown or missing:
            wrong = f"the unknown key {unknown[0]!r}" if unknown else f"no {missing[0]!r}"
            raise bad_input(f"{target} returned a dict with {wrong}: {WANTED}")
        values = [made.get(key) for key in KEYS]
    elif isinstance(made, tuple | list):
        if len(made) not in (2, 4):
            raise bad_input(f"{target} returned {len(made)} values: {WANTED}")
        values = [*made, None, None][:4]
    else:
        raise bad_input(f"{target} returned {with_article(made)}: {WANTED}")
    model, inputs, targets, loss_fn = values
    if not isinstance(model, nn.Module):
        raise bad_input(f"{target} returned {with_article(model)} as the model, not a torch.nn.Module: {WANTED}")
    if loss_fn is not None and not callable(loss_fn):
        raise bad_input(f"{target} returned {with_article(loss_fn)} as loss_fn: give a function of (outputs, targets)")
    return Subject(target, model, inputs, targets, loss_fn)


def _of_run(folder: Path) -> Subject:
    with errors_in_one_line():
        run = open_run(folder)
        network = run.network
        data = data_of(run.config.options).arranged(network.arranged)
    features = network.sizes.get("in_features")
    if features is not None and (features,) != data.shape:
        raise bad_input(
            f"{folder / WEIGHTS} is a network with {features} inputs, but {data.name} has {data.shape[0]}: the weights "
            "belong to another run"
        )
    return Subject(str(folder), network.model, *probes(data), data.loss_fn)
