"""`sigmoid-core watch`: runs a user's own training script as it is, and monitors the models that it trains."""

import builtins
import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.abc import InspectLoader
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Annotated, TextIO

import typer

from sigmoidcore._language import _
from sigmoidcore.cli.common import fail_on_option, fails
from sigmoidcore.diagnosis.findings import Finding
from sigmoidcore.diagnosis.report.terminal import printable, width, wrapped, writable
from sigmoidcore.diagnosis.report.text import finding_lines, to_text
from sigmoidcore.diagnosis.watch import Verdict, Watch
from sigmoidcore.training.data import InputError
from sigmoidcore.training.place import launched
from sigmoidcore.training.use import check_output

TARGET = typer.Argument(metavar="SCRIPT", show_default=False, help="Your script, which is run; with -m, your module.")
ARGUMENTS = typer.Argument(metavar="ARGUMENTS", show_default=False, help="Arguments of your script, as they are.")
MODULE = typer.Option("-m", help="SCRIPT is the name of a module, as in python -m.")
EVERY = typer.Option(
    "--every", metavar="N", min=1, show_default="1, from step 1 on 10, from 100 on 100", help="Measure one step in N."
)
TRACE = typer.Option(
    "--trace-nonfinite",
    help="At the first inf or NaN, repeat the step and name the operation that made it. Compiled code runs uncompiled.",
)
HTML = typer.Option("--html", metavar="FILE", help="Write one page that needs no network connection.")
JSON = typer.Option("--json", metavar="FILE", help="Write the diagnosis as JSON.")


def watch(
    target: Annotated[str, TARGET],
    arguments: Annotated[list[str] | None, ARGUMENTS] = None,
    module: Annotated[bool, MODULE] = False,
    every: Annotated[int | None, EVERY] = None,
    trace_nonfinite: Annotated[bool, TRACE] = False,
    html: Annotated[Path | None, HTML] = None,
    json: Annotated[Path | None, JSON] = None,
    fail_on: Annotated[list[str] | None, fail_on_option("never")] = None,
) -> Callable[[], int]:
    """Run your own training script as it is, and say why its models do not learn."""
    for option, file in (("--html", html), ("--json", json)):
        if str(file) == "-":
            raise InputError(
                _("{option} - would mix with the output of the script: give the name of a file", option=option)
            )
        if file is not None:
            check_output(file, overwrite=True)
    if not module:
        _check_script(Path(target))
    # The script may change folders.
    files = _Files(html=html.absolute() if html else None, json=json.absolute() if json else None)
    program = partial(_run_module if module else _run_script, target)
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd() if module else os.path.dirname(os.path.realpath(target))
    sys.argv = ["-m" if module else target, *(arguments or ())]
    return partial(
        _watched, program, partial(Watch, every=every, trace_nonfinite=trace_nonfinite), files, fail_on or ()
    )


def _check_script(path: Path) -> None:
    if path.is_dir():
        raise InputError(_("{path} is a folder: give a script, or -m and the name of a module", path=path))
    if not path.is_file():
        raise InputError(_("there is no script {path}; a module needs -m: sigmoid-core watch -m {path}", path=path))
    if path.suffix == ".ipynb":
        raise InputError(_("{path} is a notebook: sigmoid-core watch -m IPython {path}", path=path))


@dataclass(frozen=True)
class _Files:
    """The files to write."""

    html: Path | None
    json: Path | None

    def write(self, verdicts: Sequence[Verdict]) -> list[Path]:
        """Write the worst diagnosis, and those of other models beside it; returns the files."""
        measured = [(v.name, v.diagnosis) for v in verdicts if v.diagnosis is not None]
        measured.sort(key=lambda pair: [fails(pair[1].findings, [what]) for what in ("error", "warning")], reverse=True)
        written = []
        for i, (name, diagnosis) in enumerate(measured):
            for path, write in ((self.html, diagnosis.to_html), (self.json, diagnosis.to_json)):
                if path is not None:
                    path = path.with_stem(f"{path.stem}-{name.replace(' ', '-')}") if i else path
                    write(path)
                    written.append(path)
        return written


def _run_script(script: str) -> None:
    """Run a script as `python SCRIPT` does."""
    path = os.path.join(os.getcwd(), script)
    loader = SourceFileLoader("__main__", path)
    code = compile(loader.get_data(path), path, "exec", dont_inherit=True)
    _execute(code, __file__=path, __cached__=None, __loader__=loader)


def _run_module(name: str) -> None:
    """Run a module as `python -m NAME` does; of a package its `__main__`."""
    try:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = find_spec(f"{name}.__main__")
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise  # an import in a package
        spec = None
    code = spec.loader.get_code(spec.name) if spec is not None and isinstance(spec.loader, InspectLoader) else None
    if spec is None or code is None:
        place = {"name": name, "folder": os.getcwd()}
        sys.exit(_("sigmoid-core: there is no module {name} that can run, in {folder} or installed", **place))
    sys.argv[0] = spec.origin or name
    _execute(
        code,
        __file__=spec.origin,
        __cached__=spec.cached,
        __loader__=spec.loader,
        __package__=spec.parent,
        __spec__=spec,
    )


def _execute(code: CodeType, **attributes: object) -> None:
    """Run code in a new module `__main__`, to which its classes belong when they are pickled."""
    main = ModuleType("__main__")
    vars(main).update(attributes, __builtins__=builtins)
    sys.modules["__main__"] = main
    exec(code, vars(main))


def _watched(program: Callable[[], object], make: Callable[..., Watch], files: _Files, fail_on: Sequence[str]) -> int:
    """Run the program; afterwards Python ends as it would without a watch."""
    process = os.getpid()
    speaker = _Speaker(sys.stderr or io.StringIO()) if launched()[0] == 0 else None
    watching = make(speaker.finding if speaker else lambda *_: None)
    try:
        program()
    except BaseException as error:
        if os.getpid() != process:  # forked by the script
            raise
        if isinstance(error, SystemExit):
            failed = _conclude(watching, speaker, files, fail_on)
            if failed and error.code in (None, 0):
                return 1
            raise
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        _conclude(watching, speaker, files, fail_on, error)
        sys.excepthook = lambda *_: None  # it has been shown
        raise
    return int(_conclude(watching, speaker, files, fail_on))


def _conclude(
    watching: Watch,
    speaker: "_Speaker | None",
    files: _Files,
    fail_on: Sequence[str],
    error: BaseException | None = None,
) -> bool:
    """Say the verdict, write the files, and return whether `--fail-on` fails."""
    watching.remove(error)
    verdicts = watching.verdicts()
    failed = any(fails(v.diagnosis.findings, fail_on) for v in verdicts if v.diagnosis is not None)
    if speaker is not None:
        speaker.verdicts(verdicts, watching.problems)
        try:
            speaker.say(*(printable(_("written: {path}", path=path)) for path in files.write(verdicts)))
        except OSError as error:
            what = {"path": printable(str(error.filename)), "reason": error.strerror}
            speaker.say(_("sigmoid-core: cannot write {path}: {reason}", **what))
            failed = True
    return failed


class _Speaker:
    """Prints to the standard error that the script began with, and never raises."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, *lines: str) -> None:
        """Print lines."""
        with contextlib.suppress(OSError, ValueError):  # closed, or not read any more
            for line in lines:
                print(writable(line, self._stream), file=self._stream)
            self._stream.flush()

    def finding(self, name: str, step: int, finding: Finding) -> None:
        """Print a finding as it appears."""
        columns = width(self._stream)
        head = wrapped(_("sigmoid-core: {name}, step {step:,}", name=name, step=step), columns)
        self.say(*head, *finding_lines(finding, columns))

    def verdicts(self, verdicts: Sequence[Verdict], problems: Sequence[str] | dict[str, None]) -> None:
        """Print the results, and what could not be watched."""
        columns = width(self._stream)
        if not verdicts:
            self.say(_("sigmoid-core: no model trained in this process: nothing with parameters ran with gradients"))
        for verdict in verdicts:
            by = _("moved by no optimizer")
            if verdict.optimizers:
                by = _("trained by {optimizers}", optimizers=_(" and ").join(verdict.optimizers))
            self.say("", *wrapped(_("sigmoid-core: {name}, {by}", name=verdict.name, by=by), columns), "")
            if verdict.diagnosis is None:
                ran = _("it ran beside other models")
                if verdict.optimizers:
                    ran = _("no gradient came back to it before a step")
                self.say(_("nothing was measured: {reason}", reason=ran))
                continue
            self.say(*to_text(verdict.diagnosis, columns).splitlines(), "")
            for line in _past(verdict):
                self.say(*wrapped(line, columns, "", "  "))
        for problem in problems:
            self.say(*wrapped(_("not watched: {problem}", problem=problem), columns, "", "  "))


def _past(verdict: Verdict) -> list[str]:
    """Findings that are gone."""
    return [
        _(
            "earlier: {rule} {severity}, {name}, at step {step:,}, and not in the last measurement",
            rule=finding.rule,
            severity=_(finding.severity.value),
            name=_(finding.name),
            step=step,
        )
        for step, finding in verdict.past
    ]
