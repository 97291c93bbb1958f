"""The command `sigmoid-core`: its commands, and the exit code and message of every error."""

import errno
import io
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sigmoidcore import __version__
from sigmoidcore.language import VARIABLE, _
from unstuck.language.errors import InputError
from unstuck.language.terminal import printable

if TYPE_CHECKING:
    import typer

DEMO = "Train 100 layers of sigmoids, with and without Sigmoid Core: half a minute, with figures."
EXTRAS = {"lab": "lab", "train": "data", "predict": "data"}  # the extra that a command needs; `demo` for all others
TABLES = ("pandas", "pyarrow", "skrub")  # packages that the lab needs for a table only
WRONG_NAMES = (errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR)
"""Errors of the operating system that come from a wrong file name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, in the main thread.

    Args:
        arguments: the arguments; None for those of the process.

    Returns:
        The exit code: 0 for success, 1 for a failure, 2 for wrong input, 130 after Ctrl-C, 143 after SIGTERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sigterm = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no incomplete file is left
    spoken = os.environ.get(VARIABLE)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, kind, *place, **options: _say(f"{message} ({kind.__name__})")
            code: Any = application(words[0] == "demo")(words, prog_name="sigmoid-core", standalone_mode=False)
        if code == 130:  # typer returns it for every KeyboardInterrupt
            raise KeyboardInterrupt
        return int(code or 0)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        message, failure = _ending(error, EXTRAS.get(words[0], "demo"))
        _say(message)
        return failure
    finally:
        signal.signal(signal.SIGTERM, sigterm)
        os.environ.pop(VARIABLE, None)  # which --lang sets
        os.environ.update({} if spoken is None else {VARIABLE: spoken})


def _say(message: str) -> None:
    print("sigmoid-core: " + printable(" ".join(message.split())), file=sys.stderr)


def _ending(error: BaseException, extra: str) -> tuple[str, int]:
    """Message and exit code of an error; a bug is raised again, with its traceback."""
    match error:
        case InputError():
            return str(error), 2
        case KeyboardInterrupt():
            return _("interrupted"), 130
        case SystemExit(code=143):
            return _("ended by SIGTERM"), 143
        case MemoryError():
            return _("not enough memory ({error}): use less data, or a smaller network or batch", error=error), 1
        case ModuleNotFoundError(name=str(name)) if not name.startswith(("sigmoidcore", "unstuck")):
            command = _install("data" if name in TABLES else extra)
            return _("{package} is not installed: {command}", package=name, command=command), 1
        case OSError(filename=name) if name is not None and error.errno in WRONG_NAMES:
            reason = error.strerror
            return _("cannot read or write {name}: {reason}; give another name", name=name, reason=reason), 2
        case OSError():
            return _("cannot read or write: {error}", error=error), 1
    if hasattr(error, "format_message"):  # of typer, for wrong arguments
        command = getattr(getattr(error, "ctx", None), "command_path", "sigmoid-core")
        return f"{error.format_message().rstrip('.')} (see {command} --help)", 2
    raise error


def _install(extra: str) -> str:
    """The command that installs an extra for this Python, from the clone if it runs from one."""
    folder = Path(__file__).parents[3]
    source = f'-e "{folder}' if (folder / "pyproject.toml").is_file() else '"sigmoid-core'
    return f'{shlex.quote(sys.executable)} -m pip install {source}[{extra}]"'


def application(with_demo: bool) -> "typer.Typer":
    """The commands, for typer; without the demo, which imports PyTorch at once, its summary for `--help` is there."""
    import typer

    from sigmoidcore.cli.lab import lab
    from sigmoidcore.cli.predict import predict
    from sigmoidcore.cli.train import train

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    def print_version(asked: bool) -> None:
        if asked:
            print(f"sigmoid-core {__version__}")
            raise typer.Exit

    @app.callback()
    def root(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=print_version)
        ] = False,
    ) -> None:
        """Plain networks of sigmoids that train at any depth."""

    if with_demo:
        from sigmoidcore.cli.demo import demo

        app.command()(demo)
    else:
        app.command("demo", help=DEMO)(lambda: None)
    for command in (lab, train, predict):
        app.command()(command)
    return app
