"""The user's own code, named on the command line as `package.module:name`: imported and called."""

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
from sigmoidcore.training.data import InputError
from sigmoidcore.language import _


@contextlib.contextmanager
def users_code(target: str) -> Iterator[Any]:
    """The object that `package.module:name` names; inside the context, modules of this folder can be imported."""
    module, colon, attribute = target.partition(":")
    if not (colon and module and attribute):
        raise InputError("{target} is not the name of a function: use the form package.module:make", target=target)
    if module.endswith(".py") or os.sep in module:
        raise InputError(
            "{module} is a path: give the module's name, as in {dotted}:{attribute}",
            module=module,
            dotted=dotted(Path(module)),
            attribute=attribute,
        )
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield _attribute(_imported(module), module, attribute)
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


@contextlib.contextmanager
def reported_as(what: str) -> Iterator[None]:
    """Context that runs the user's code: its prints go to standard error, and its exceptions are bad input."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        raise InputError("{what} raised {error}", what=what, error=exception_text(error)) from error


def exception_text(error: BaseException) -> str:
    """An exception in one line: type, text, and the line of the user's code that raised it."""
    text = " ".join(str(error).split())
    words = type(error).__name__ + (f": {text}" if text else "")
    frames = traceback.extract_tb(error.__traceback__)
    others = [frame for frame in frames if Path(sc.__file__).parent not in Path(frame.filename).parents]
    own = [frame for frame in others if _is_users(frame.filename)]
    frame = next(reversed(own or others), None)
    if isinstance(error, SyntaxError) or frame is None:  # a SyntaxError names its own place
        return words
    path = Path(frame.filename)
    near = path.relative_to(Path.cwd()) if Path.cwd() in path.parents else path
    place = {"line": frame.line or "?", "file": near, "number": frame.lineno}
    return _("{error} (at {line!r}, {file}, line {number})", error=words, **place)


def raised_here(error: BaseException) -> bool:
    """Whether this package raised the exception; its messages name the place and the remedy."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and Path(sc.__file__).parent in Path(frames[-1].filename).parents


def dotted(path: Path) -> str:
    """The name of the module in a file, as seen from this folder."""
    path = path.resolve()
    if Path.cwd() in path.parents:
        path = path.relative_to(Path.cwd())
    return ".".join(path.with_suffix("").parts[-1 if path.is_absolute() else 0 :])


def with_article(value: Any) -> str:
    """The type of a value with its article."""
    name = type(value).__name__
    if value is None:
        return "None"
    return _("an {name}", name=name) if name[0] in "AEIOUaeiou" else _("a {name}", name=name)


def _is_users(filename: str) -> bool:
    """Whether a file belongs neither to this package, nor to an installed one, nor to Python."""
    path = Path(filename)
    libraries = {Path(sc.__file__).parent, Path(os.__file__).parent}
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return path.is_file() and not installed and not libraries & set(path.parents)


def _imported(module: str) -> Any:
    importlib.invalidate_caches()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        name = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        if name is not None and (module == name or module.startswith(f"{name}.")):
            raise InputError(
                "there is no module {name!r} in {cwd} or among the installed packages: run the "
                "command in the folder that contains it",
                name=name,
                cwd=Path.cwd(),
            ) from error
        remedy = "" if name is None else _("; install what it needs")
        raise InputError(
            "{module} cannot be imported: {error}{remedy}", module=module, error=exception_text(error), remedy=remedy
        ) from error


def _attribute(module: Any, name: str, attribute: str) -> Any:
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        names = [n for n in vars(module) if callable(getattr(module, n)) and not n.startswith("_")]
        close = difflib.get_close_matches(attribute, names, n=3)
        hint = _("did you mean {names}?", names=_(" or ").join(close)) if close else _("check the name")
        raise InputError("{name} has no {attribute!r}; {hint}", name=name, attribute=attribute, hint=hint) from error
