"""The command `unstuck`: `unstuck train.py` and `unstuck report FILE.json`."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from unstuck import __version__
from unstuck.cli import script
from unstuck.language import LANGUAGES, VARIABLE, _
from unstuck.language.errors import InputError, check_file
from unstuck.language.terminal import printable

CONDITION = re.compile(r"error|warning|US[1-9](\d\d)?")
RUN = """run your own training script as it is, and say why its models do not learn"""
EPILOG = """unstuck report FILE.json shows a diagnosis that --json has written; see unstuck report --help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the arguments; None for those of the process.

    Returns:
        The exit code: 0 for success; 1 if there are findings of `--fail-on`; 2 for wrong input. That of a script that
        fails is its own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        start = _report(words[1:]) if words[:1] == ["report"] else _script(words)
    except InputError as error:
        print(f"unstuck: {printable(str(error))}", file=sys.stderr)
        return 2
    return start()  # without a handler around it: the script ends as it does alone


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError("{message} (see {command} --help)", message=message, command=self.prog)


def _parser(name: str, description: str, **settings: object) -> _Parser:
    parser = _Parser(name, description=description, allow_abbrev=False, **settings)  # type: ignore[arg-type]
    parser.add_argument("--html", metavar="FILE", type=_file, help="write one page that needs no network connection")
    parser.add_argument(
        "--fail-on", metavar="WHAT", type=_condition, action="append", default=[],
        help="exit with 1 on: error, warning (includes errors), a rule (US101) or a group (US1); repeatable",
    )  # fmt: skip
    parser.add_argument("--lang", choices=LANGUAGES, help=f"language of the diagnosis (default: {VARIABLE}, or en)")
    return parser


def _file(name: str) -> Path:
    if name == "-":
        raise argparse.ArgumentTypeError("- would mix with the output of the script: give the name of a file")
    try:
        check_file(Path(name))
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return Path(name).absolute()  # the script may change folders


def _condition(text: str) -> str:
    if not CONDITION.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not error, warning, a rule such as US101, or a group such as US1"
        )
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps of at least 1")
    return int(text)


def _parsed(parser: _Parser, words: Sequence[str]) -> argparse.Namespace:
    options = parser.parse_args(words)
    if options.lang is not None:
        os.environ[VARIABLE] = options.lang  # also for the processes that the script starts
    return options


def _script(words: Sequence[str]) -> partial[int]:
    """What runs the user's script."""
    parser = _parser("unstuck", RUN, epilog=EPILOG, usage="unstuck [options] SCRIPT [arguments of the script]")
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is the name of a module, as python -m")
    parser.add_argument(
        "--every", metavar="N", type=_positive,
        help="measure one step in N (default: 1, from step 1 on 10, from 100 on 100)",
    )  # fmt: skip
    parser.add_argument(
        "--trace-nonfinite", action="store_true",
        help="at the first inf or NaN, repeat the step and name the operation that made it; compiled code runs "
        "uncompiled",
    )  # fmt: skip
    parser.add_argument(
        "--no-trials", dest="trials", action="store_false",
        help="do not train copies of the weights at the end to prove the findings",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=_file, help="write the diagnosis as JSON")
    parser.add_argument("--version", action="version", version=f"unstuck {__version__}")
    parser.add_argument("script", metavar="SCRIPT", help="your script, which is run")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS).required = False
    options = _parsed(parser, words)
    own = re.findall(r"^ +(--[a-z-]+)", parser.format_help(), re.MULTILINE)
    options.misplaced = [option for option in own if any(w.partition("=")[0] == option for w in options.arguments)]
    return partial(script.run, script.prepared(options.script, options.arguments, module=options.module), options)


def _report(words: Sequence[str]) -> partial[int]:
    """Shows a diagnosis that was written as JSON."""
    parser = _parser("unstuck report", "show a diagnosis that --json has written; messages stay in their language")
    parser.add_argument("file", metavar="FILE.json", type=Path)
    options = _parsed(parser, words)
    from unstuck.diagnosis import Diagnosis

    with (
        InputError.replacing("cannot read {path}: {error}", OSError, path=options.file),
        InputError.replacing("{path} is not a diagnosis: {error}", ValueError, path=options.file),
    ):
        diagnosis = Diagnosis.from_json(options.file.read_bytes())
    try:
        print(diagnosis, flush=True)
    except BrokenPipeError:  # `head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if options.html is not None:
        with InputError.replacing("cannot write {path}: {error}", OSError, path=options.html):
            print(printable(_("written: {path}", path=diagnosis.to_html(options.html))))
    return partial(int, diagnosis.fails(options.fail_on))
