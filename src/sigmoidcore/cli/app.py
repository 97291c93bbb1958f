"""The command `sigmoid-core`: its commands, and the exit code and message of every error."""

import errno
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from sigmoidcore.training.session import printable

if TYPE_CHECKING:
    import typer

NEEDED = {"typer": "typer", "rich": "rich", "matplotlib": "matplotlib", "sklearn": "scikit-learn"}
"""Packages of every command, by the module that they contain; others are imported when they are needed."""
_WRONG_NAMES = (errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR)
"""Errors of the operating system that come from a wrong file name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the arguments; None for those of the process.

    Returns:
        The exit code: 0 for success; 1 if a run failed or a diagnosis has findings of `--fail-on`; 2 for wrong input;
        130 after Ctrl-C, 143 after SIGTERM.
    """
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        return _end(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: {_INSTALL}", 1)

    import typer

    from sigmoidcore.training.place import LostError, launched, leave
    from sigmoidcore.training.session import Stopped

    is_first = launched()[0] == 0  # only the first of several processes prints
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except Stopped as error:
        return _end(str(error), error.code) if error.local or is_first else error.code
    except LostError as error:
        return _end(f"{error}: start it again", 1) if is_first else 1
    except (KeyboardInterrupt, typer.Abort):
        return _end("interrupted", 130)
    except BrokenPipeError:  # the reader of the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in _WRONG_NAMES and error.filename is not None:
            return _end(f"cannot read or write {error.filename}: {error.strerror}; give another name", 2)
        return _end(f"cannot read or write: {error}", 1)
    except MemoryError as error:
        return _end(f"not enough memory ({error}): use less data, or a smaller network or batch", 1)
    except ModuleNotFoundError as error:
        if error.name is None:  # raised by this package, with the remedy
            return _end(str(error), 1)
        if error.name.startswith("sigmoidcore"):
            raise
        return _end(f"{error.name} is not installed: {_INSTALL}", 1)
    finally:
        leave()


_INSTALL = 'pip install "sigmoid-core[cli]"'


def _run(arguments: Sequence[str]) -> int:
    import typer
    from typer.main import get_command

    from sigmoidcore.training.session import bad_input

    usage_error: type = typer.BadParameter.__bases__[0]  # the base class of all errors in arguments has no public name
    try:
        code = get_command(application()).main(args=list(arguments), prog_name="sigmoid-core", standalone_mode=False)
    except Exception as error:
        if not isinstance(error, usage_error):
            raise
        context = getattr(error, "ctx", None)
        if context is not None:
            context.close()  # releases the run of --resume
        path = context.command_path if context is not None else "sigmoid-core"
        message = error.format_message().replace("Value error, ", "").rstrip(".")  # type: ignore[attr-defined]
        raise bad_input(f"{message} (see {path} --help)") from error
    return code if isinstance(code, int) else 0


def application() -> "typer.Typer":
    """The commands, for typer."""
    import typer

    from sigmoidcore.cli import demo, diagnose, evaluate, export, predict, runs, train

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.callback(invoke_without_command=True)
    def root(
        context: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    ) -> None:
        """Plain networks of sigmoids that train at any depth."""
        from sigmoidcore import __version__

        if version:
            print(f"sigmoid-core {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            print(context.get_help())

    for command in (
        demo.demo, train.train, diagnose.diagnose, predict.predict, evaluate.evaluate, export.export, runs.runs,
    ):  # fmt: skip
        app.command(command.__name__)(command)
    return app


def _end(message: str, code: int) -> int:
    print("sigmoid-core: " + printable(" ".join(message.split())), file=sys.stderr)
    return code
