"""What `sigmoid-core diagnose` looks at: what a function of the user makes, or a run's last weights."""

import contextlib
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore.cli.data import data_of_run
from sigmoidcore.cli.session import bad_input, probes
from sigmoidcore.training.network import WEIGHTS, NetworkError, network_of
from sigmoidcore.training.run import read_config

KEYS = ("model", "inputs", "targets", "loss_fn")
WANTED = "return (model, inputs, targets, loss_fn), or (model, inputs), or a dict with these keys"


@dataclass(frozen=True)
class Given:
    """A model and its batch, and where they come from, in words."""

    name: str
    model: nn.Module
    inputs: Any
    targets: Any = None
    loss_fn: Any = None


def given(target: str) -> Given:
    """The model and batch that are meant: by `package.module:callable`, which is run, or by a run's folder.

    Raises:
        Stopped: they cannot be had, with code 2.
    """
    path = Path(target)
    if path.is_dir():
        return _of_run(path)
    module, colon, attribute = target.partition(":")
    if colon and module and attribute:
        return _of_function(target, module, attribute)
    if path.exists():
        raise bad_input(f"{target} is a file: give the folder of a run, or a function of a module as {_example(path)}")
    raise bad_input(f"{target} is no folder of a run, and no function of a module, as package.module:make would be")


@contextlib.contextmanager
def users_code(what: str) -> Iterator[None]:
    """Run code of the user: what it prints goes to standard error; what goes wrong is bad input, with its place.

    Raises:
        Stopped: it raised something, with code 2.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        raise bad_input(f"{what} raised {said(error)}") from error


def said(error: BaseException) -> str:
    """An error in one line: its type, its text, and the line of the user's code that it came from."""
    text = " ".join(str(error).split())
    words = type(error).__name__ + (f": {text}" if text else "")
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if _is_users(f.filename)]
    frame = next(reversed(ours or frames), None)
    if isinstance(error, SyntaxError) or frame is None:  # which says its place itself
        return words
    return f"{words} (at {frame.line or '?'!r}, {_near(frame.filename)}, line {frame.lineno})"


def raised_here(error: BaseException) -> bool:
    """Whether it was this package that raised it, whose messages say where and what to do."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(sc.__file__).parent in Path(frames[-1].filename).parents


def _is_users(filename: str) -> bool:
    """Whether a file is neither a package that is installed nor one of Python's own, nor ours."""
    path = Path(filename)
    ours = Path(sc.__file__).parent
    library = Path(os.__file__).parent
    return (
        path.is_file()
        and not {"site-packages", "dist-packages"} & set(path.parts)
        and (library not in path.parents and ours not in path.parents)
    )


def _near(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if Path.cwd() in path.parents else filename


def _example(path: Path) -> str:
    return f"{_dotted(path)}:make" if path.suffix == ".py" else "package.module:make"


def _dotted(path: Path) -> str:
    """The name that a module in a file has, seen from here."""
    path = path.resolve()
    if Path.cwd() in path.parents:
        path = path.relative_to(Path.cwd())
    return ".".join(path.with_suffix("").parts[-1 if path.is_absolute() else 0 :])


# --- a function of the user ------------------------------------------------------------------------------------------


def _of_function(target: str, module: str, attribute: str) -> Given:
    if module.endswith(".py") or os.sep in module:
        raise bad_input(f"{module} is a path: give the module's name, as in {_dotted(Path(module))}:{attribute}")
    with _importable_here():
        make = _attribute(_imported(module), module, attribute)
        if isinstance(make, nn.Module):
            raise bad_input(f"{target} is a model: give a function that makes one and a batch; let it {WANTED}")
        if not callable(make):
            raise bad_input(f"{target} is {_a(make)}, no function: give one; let it {WANTED}")
        torch.manual_seed(0)  # a model that is drawn afresh is the same one each time
        with users_code(target):
            made = make()
    return _checked(target, made)


@contextlib.contextmanager
def _importable_here() -> Iterator[None]:
    """Modules of this folder can be imported, as by `python -m`."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def _imported(module: str) -> Any:
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise bad_input(
                f"there is no module {error.name!r} in {Path.cwd()} or among the installed packages: run the command "
                "in the folder that holds it"
            ) from error
        raise bad_input(f"{module} cannot be imported: {said(error)}; install what it needs") from error
    except (Exception, SystemExit) as error:
        raise bad_input(f"{module} cannot be imported: {said(error)}") from error


def _attribute(module: Any, name: str, attribute: str) -> Any:
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        names = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
        near = difflib.get_close_matches(attribute, names, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "check the name"
        raise bad_input(f"{name} has no {attribute!r}; {hint}") from error


def _checked(target: str, made: Any) -> Given:
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
        raise bad_input(f"{target} returned {_a(made)}: {WANTED}")
    model, inputs, targets, loss_fn = values
    if not isinstance(model, nn.Module):
        raise bad_input(f"{target} returned {_a(model)} as the model, no torch.nn.Module: {WANTED}")
    if loss_fn is not None and not callable(loss_fn):
        raise bad_input(f"{target} returned {_a(loss_fn)} as loss_fn, no function: give one of (outputs, targets)")
    return Given(target, model, inputs, targets, loss_fn)


def _a(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"an {name}" if name[0] in "AEIOUaeiou" else f"a {name}"


# --- a run's folder --------------------------------------------------------------------------------------------------


def _of_run(folder: Path) -> Given:
    options = _options(folder)
    try:
        network = network_of(folder)
    except NetworkError as error:
        raise bad_input(str(error)) from error
    data = data_of_run(options)
    features = network.sizes.get("in_features")
    if features is not None and (features,) != data.shape:
        raise bad_input(
            f"{folder / WEIGHTS} is a network of {features} inputs, but {data.name} has {data.shape[0]}: it is not "
            "the network of this run"
        )
    return Given(str(folder), network.model, *probes(data), data.loss_fn)


def _options(folder: Path) -> Mapping[str, Any]:
    try:
        return read_config(folder).options
    except FileNotFoundError as error:
        raise bad_input(
            f"{folder} holds no run: it has no config.toml; give a folder that `sigmoid-core train` wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise bad_input(f"{error}; was the file edited?") from error
