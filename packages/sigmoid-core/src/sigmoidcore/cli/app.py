"""The command `sigmoid-core`: its commands, and the exit code and message of every error."""

import errno
import functools
import inspect
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Self

from unstuck._torch.launcher import launched
from unstuck.language import VARIABLE, _, edited
from unstuck.language.errors import InputError, LostError, Stopped
from unstuck.language.terminal import printable

if TYPE_CHECKING:
    import typer

_WRONG_NAMES = (errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR)
"""Errors of the operating system that come from a wrong file name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the arguments; None for those of the process.

    Returns:
        The exit code: 0 for success; 1 if a run failed or a diagnosis has findings of `--fail-on`; 2 for wrong input;
        130 after Ctrl-C, 143 after SIGTERM. Those of a script are its own.
    """
    before = os.environ.get(VARIABLE)
    try:
        result = _result(arguments)
        return result() if callable(result) else result
    finally:  # --lang is for this command and the processes that it starts
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def _result(arguments: Sequence[str] | None) -> int | Callable[[], int]:
    """The exit code of a command, or what remains to be run as if there were no command line: a user's script."""
    with _Sigterm() as sigterm:
        try:
            with _printing():
                words = sys.argv[1:] if arguments is None else arguments
                app = application(only_watch=_command(words) == "watch")
                result = app(words, prog_name="sigmoid-core", standalone_mode=False)
            if result == 130:  # typer returns it for every KeyboardInterrupt
                raise KeyboardInterrupt(*sigterm.received)
            return result if isinstance(result, int) or callable(result) else 0
        except (Exception, KeyboardInterrupt) as error:
            sigterm.heeded = False  # the message is printed, whatever a launcher sends
            message, code = _ending(error)
            # What all processes of a training know, the first one prints.
            if launched()[0] == 0 or getattr(error, "local", not isinstance(error, InputError | LostError)):
                print("sigmoid-core: " + printable(" ".join(message.split())), file=sys.stderr)
            return code


def _command(words: Sequence[str]) -> str | None:
    """The name of the command among the words of a command line."""
    rest = iter(words)
    for word in rest:
        if word == "--lang":
            next(rest, None)
        elif not word.startswith("--lang="):
            return None if word.startswith("-") else word
    return None


def _ending(error: BaseException) -> tuple[str, int]:
    """Message and exit code of an error; a bug is raised again, with its traceback."""
    match error:
        case Stopped():
            return str(error), error.code
        case InputError():
            return str(error), 2
        case LostError():
            return _("{error}: start it again", error=error), 1
        case KeyboardInterrupt(args=(int(code),)) if launched()[1] > 1:
            return _("ended by SIGTERM, which launchers send when another process of this training has ended"), code
        case KeyboardInterrupt(args=(int(code),)):
            return _("ended by SIGTERM"), code
        case KeyboardInterrupt():
            return _("interrupted"), 130
        case MemoryError():
            return _("not enough memory ({error}): use less data, or a smaller network or batch", error=error), 1
        case ModuleNotFoundError(name=None):  # raised by this package, with the remedy
            return str(error), 1
        case ModuleNotFoundError(name=str(name)) if not name.startswith("sigmoidcore"):
            return _('{package} is not installed: pip install "{extra}"', package=name, extra="sigmoid-core[cli]"), 1
        case OSError(filename=name) if name is not None and error.errno in _WRONG_NAMES:
            what = {"name": name, "reason": error.strerror}
            return _("cannot read or write {name}: {reason}; give another name", **what), 2
        case OSError():
            return _("cannot read or write: {error}", error=error), 1
    if hasattr(error, "format_message"):  # of typer, for wrong arguments
        context = getattr(error, "ctx", None)
        path = "sigmoid-core" if context is None else context.command_path
        from sigmoidcore.cli.translation import wrong_arguments  # needs typer

        sentence = edited(wrong_arguments(error.format_message()), lambda text: text.rstrip("。"))
        return _("{sentence} (see {command} --help)", sentence=sentence, command=path), 2
    raise error


@contextmanager
def _printing() -> Iterator[None]:
    """An output that is not UTF-8 gets question marks; a warning is one line without control characters."""
    streams = [s for s in (sys.stdout, sys.stderr) if isinstance(s, io.TextIOWrapper) and s.errors == "strict"]
    for stream in streams:
        stream.reconfigure(errors="replace")
    before = warnings.formatwarning

    def one_line(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        text = printable(" ".join(str(message).split()))
        return f"sigmoid-core: {text} ({category.__name__}, {filename}:{lineno})\n"

    warnings.formatwarning = one_line
    try:
        yield
    finally:
        warnings.formatwarning = before
        for stream in streams:
            with suppress(BrokenPipeError):  # it flushes
                stream.reconfigure(errors="strict")


class _Sigterm:
    """While it is entered, SIGTERM ends the command as Ctrl-C does, so that no incomplete file is left."""

    def __init__(self) -> None:
        self.received: list[int] = []  # the exit code that it asks for, once it has arrived
        self.heeded = True  # not any more once the command is at its end

    def __enter__(self) -> Self:
        self._is_main = threading.current_thread() is threading.main_thread()
        self._before = signal.signal(signal.SIGTERM, self._end) if self._is_main else None
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_main:
            signal.signal(signal.SIGTERM, self._before)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self.heeded:
            self.received.append(128 + number)
            raise KeyboardInterrupt(128 + number)


def application(only_watch: bool = False) -> "typer.Typer":
    """The commands, for typer; `watch` alone without PyTorch, which the others import."""
    import typer

    from sigmoidcore.cli import watch
    from sigmoidcore.cli.translation import Command, Group

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, cls=Group)

    @app.callback(invoke_without_command=True)
    def root(
        context: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
        lang: Annotated[str | None, _language_option()] = None,
    ) -> None:
        """Plain networks of sigmoids that train at any depth."""
        from sigmoidcore import __version__

        if version:
            print(f"sigmoid-core {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            print(context.get_help())

    for command in () if only_watch else _others():
        app.command(command.__name__, cls=Command)(_with_language(_leaving_group(command)))
    # What follows the script belongs to the script.
    settings = {"allow_interspersed_args": False}
    app.command("watch", cls=Command, context_settings=settings)(_with_language(watch.watch))
    return app


def _others() -> tuple[Callable[..., Any], ...]:
    """All commands but `watch`."""
    from sigmoidcore.cli import compare, demo, diagnose, evaluate, export, lab, predict, runs, skipgram, train

    return (
        demo.demo, train.train, diagnose.diagnose, predict.predict, evaluate.evaluate, export.export, runs.runs,
        compare.compare, skipgram.skipgram, lab.lab,
    )  # fmt: skip


def _leaving_group(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, after which the process group that it has made ends."""

    @functools.wraps(command)
    def run(*values: Any, **options: Any) -> Any:
        from sigmoidcore.training.place import leave_group

        try:
            return command(*values, **options)
        finally:
            leave_group()

    return run


def _language_option() -> Any:
    import typer

    return typer.Option("--lang", metavar="en|zh", help=f"Language of messages. Default: {VARIABLE}, or en.")


def _with_language(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the option `--lang`, which `translation` reads."""

    @functools.wraps(command)
    def run(lang: str | None, **values: Any) -> Any:
        return command(**values)

    annotation = Annotated[str | None, _language_option()]
    option = inspect.Parameter("lang", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
    parameters = inspect.signature(command).parameters.values()
    run.__signature__ = inspect.Signature([*parameters, option])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, "lang": option.annotation}
    return run
