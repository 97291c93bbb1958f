"""Code of the user that a command was told to run, by `package.module:name`: found, imported, blamed for errors."""

import contextlib
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import sigmoidcore as sc
from sigmoidcore.training.runs.session import bad_input


@contextlib.contextmanager
def users_code(target: str) -> Iterator[Any]:
    """What `package.module:name` names; within, modules of this folder can be imported, as by `python -m`.

    Raises:
        Stopped: it cannot be had, with code 2.
    """
    module, colon, attribute = target.partition(":")
    if not (colon and module and attribute):
        raise bad_input(f"{target} is no function of a module, as package.module:make would be")
    if module.endswith(".py") or os.sep in module:
        raise bad_input(f"{module} is a path: give the module's name, as in {dotted(Path(module))}:{attribute}")
    with _importable_here():
        yield _attribute(_imported(module), module, attribute)


@contextlib.contextmanager
def blamed(what: str) -> Iterator[None]:
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


def dotted(path: Path) -> str:
    """The name that a module in a file has, seen from here."""
    path = path.resolve()
    if Path.cwd() in path.parents:
        path = path.relative_to(Path.cwd())
    return ".".join(path.with_suffix("").parts[-1 if path.is_absolute() else 0 :])


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


def a(value: Any) -> str:
    """The type of a value, with its article."""
    name = type(value).__name__
    return "None" if value is None else f"an {name}" if name[0] in "AEIOUaeiou" else f"a {name}"
