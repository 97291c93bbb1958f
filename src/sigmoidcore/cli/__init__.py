"""The command `sigmoid-core`: one file a command, `using` for what those share that use a run."""

import errno
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from sigmoidcore.training.printable import printable

if TYPE_CHECKING:
    import typer

NEEDS = {
    "typer": "typer",
    "rich": "rich",
    "matplotlib": "matplotlib",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "safetensors": "safetensors",
}
"""What the command line imports, and the distribution that it comes from."""
WRONG_NAMES = (errno.EACCES, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR)
"""Errors of the system that a name which was given is to blame for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: None: those of the process.

    Returns:
        The exit code: 0; 1 if a run failed, or a diagnosis found what it was told to fail on; 2 if the input was wrong;
        130 after Ctrl-C.
    """
    missing = [package for name, package in NEEDS.items() if importlib.util.find_spec(name) is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        return _complain(f'{", ".join(missing)} {verb} not installed: pip install "sigmoid-core[cli]"', 1)

    import typer

    from sigmoidcore.training.processes import ElsewhereError, LostError, launched, part
    from sigmoidcore.training.runs.session import Stopped

    is_first = launched()[0] == 0  # of several processes, the one that speaks for all
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except Stopped as error:
        return _complain(str(error), error.code) if error.own or is_first else error.code
    except ElsewhereError as error:
        return _complain(str(error), 2) if is_first else 2
    except LostError as error:
        return _complain(f"{error}: start it again", 1) if is_first else 1
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    except BrokenPipeError:
        return _leave_pipe()
    except OSError as error:
        if error.errno in WRONG_NAMES and error.filename is not None:
            return _complain(f"cannot read or write {error.filename}: {error.strerror}; give another name", 2)
        return _complain(f"cannot read or write: {error}", 1)
    except MemoryError as error:
        return _complain(f"not enough memory ({error}): give less data, or make the network or the batch smaller", 1)
    finally:
        part()


def _run(arguments: Sequence[str]) -> int:
    """Run a command; what was typed and is no command, or no option, is bad input like any other."""
    import typer
    from typer.main import get_command

    from sigmoidcore.training.runs.session import bad_input

    # typer's base of all that is wrong with the arguments; it has no public name.
    usage_error: type = typer.BadParameter.__bases__[0]
    try:
        code = get_command(_app()).main(args=list(arguments), prog_name="sigmoid-core", standalone_mode=False)
    except Exception as error:
        if not isinstance(error, usage_error):
            raise
        context = getattr(error, "ctx", None)
        if context is not None:
            context.close()  # of --resume: the run's folder is let go
        path = context.command_path if context is not None else "sigmoid-core"
        message = error.format_message().replace("Value error, ", "")  # type: ignore[attr-defined]
        raise bad_input(f"{message} (see {path} --help)") from error
    return code if isinstance(code, int) else 0


def _app() -> "typer.Typer":
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

    app.command("demo")(demo.demo)
    app.command("train")(train.train)
    app.command("diagnose")(diagnose.diagnose)
    app.command("predict")(predict.predict)
    app.command("evaluate")(evaluate.evaluate)
    app.command("export")(export.export)
    app.command("runs")(runs.runs)
    return app


def _complain(message: str, code: int) -> int:
    print("sigmoid-core: " + printable(" ".join(message.split())), file=sys.stderr)
    return code


def _leave_pipe() -> int:
    """The reader of our output has gone, as `head` does: nothing to say, and nobody to say it to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere, quietly
    return 1
