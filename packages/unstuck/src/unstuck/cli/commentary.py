"""What the command says about the models of a script. It imports PyTorch, as the script has by then."""

import time
from argparse import Namespace
from collections.abc import Hashable, Iterator
from typing import TextIO

from unstuck.findings import Finding
from unstuck.language import _
from unstuck.language.errors import InputError, check_file
from unstuck.language.terminal import printable, say, width, wrapped
from unstuck.report.text import finding_lines, title, to_text
from unstuck.watch import Verdict, Watch, kind_of

SHARE, TRIALS = 0.1, (5.0, 10.0)
"""Trials take this share of the time of the script, and so many seconds at least and at most."""


class Commentary:
    """Watches the models of this process, prints findings as they appear, and the verdicts at the end.

    Without a stream, another process prints and writes.

    Args:
        stream: where to print.
        options: of the command line.

    Attributes:
        silent: neither a model nor a problem was named; known after `conclude`.
    """

    def __init__(self, stream: TextIO | None, options: Namespace) -> None:
        self._stream = stream
        self._options = options
        self.silent = True
        self._said: dict[tuple[str, str], str] = {}  # the first model of a class with a rule
        self._started = time.monotonic()
        self._watch = Watch(self._finding, options.every, trace_nonfinite=options.trace_nonfinite)

    def conclude(self, *, trials: bool = True) -> bool:
        """Say the verdicts, write the files, and return whether `--fail-on` fails."""
        self._watch.remove()
        verdicts = self._verdicts() if trials and self._options.trials else self._watch.verdicts()
        self.silent = not verdicts and not self._watch.problems
        failed = any(v.diagnosis.fails(self._options.fail_on) for v in verdicts if v.diagnosis is not None)
        if self._stream is None:
            return failed
        groups: dict[Hashable, list[Verdict]] = {}
        for verdict in verdicts:
            groups.setdefault(_result(verdict), []).append(verdict)
        for first, *others in groups.values():
            say(self._stream, *_lines(first, width(self._stream)))
            if others:
                self._say(_("the same result: {names}", names=_(", ").join(verdict.name for verdict in others)))
        for problem in self._watch.problems:
            self._say(_("not watched: {problem}", problem=problem))
        try:
            self._write(verdicts)
        except InputError as error:
            say(self._stream, printable(f"unstuck: {error}"))
            return True
        return failed

    def _say(self, text: str) -> None:
        say(self._stream, *wrapped(text, width(self._stream), "", "  "))

    def _verdicts(self) -> list[Verdict]:
        """The verdicts, with trials if there is time; Ctrl-C ends these."""
        without = self._watch.verdicts()
        seconds = min(max(TRIALS[0], SHARE * (time.monotonic() - self._started)), TRIALS[1])
        if self._stream is None or not self._watch.has_steps or not seconds:
            return without
        self._say(_("unstuck: trials on copies of the weights, {s:.0f} s at most; Ctrl-C now skips them", s=seconds))
        try:
            return self._watch.verdicts(seconds)
        except KeyboardInterrupt:
            return without

    def _finding(self, name: str, step: int, finding: Finding) -> None:
        head = _("unstuck: {name}, step {step:,}", name=name, step=step)
        other = self._said.setdefault((kind_of(name), finding.rule), name)
        if other != name:
            self._say(_("{head}: {finding}, as in {other}", head=head, finding=title(finding), other=other))
        else:
            self._say(head)
            say(self._stream, *finding_lines(finding, width(self._stream)))

    def _write(self, verdicts: list[Verdict]) -> None:
        """Write the worst diagnosis, and those of other models beside it."""
        measured = [(v.name, v.diagnosis) for v in verdicts if v.diagnosis is not None]
        measured.sort(key=lambda pair: [pair[1].fails([what]) for what in ("error", "warning")], reverse=True)
        for i, (name, diagnosis) in enumerate(measured):
            for path, write in ((self._options.html, diagnosis.to_html), (self._options.json, diagnosis.to_json)):
                if path is not None:
                    path = path.with_stem(f"{path.stem}-{name.replace(' ', '-')}") if i else path
                    with InputError.replacing("cannot write {path}: {error}", OSError, path=path):
                        check_file(path)
                        write(path)
                    say(self._stream, printable(_("written: {path}", path=path)))


def _lines(verdict: Verdict, columns: int) -> Iterator[str]:
    """The result for one model."""
    by = _("moved by no optimizer")
    if verdict.optimizers:
        by = _("trained by {optimizers}", optimizers=_(" and ").join(verdict.optimizers))
    yield from ("", *wrapped(_("unstuck: {name}, {by}", name=verdict.name, by=by), columns), "")
    if verdict.diagnosis is None:
        yield from wrapped(_("nothing was measured: {reason}", reason=verdict.missing), columns, "", "  ")
        return
    yield from (*to_text(verdict.diagnosis, columns).splitlines(), "")
    for step, finding in verdict.past:
        severity, name = _(finding.severity.value), _(finding.name)
        values = {"rule": finding.rule, "severity": severity, "name": name, "step": step}
        past = _("earlier: {rule} {severity}, {name}, at step {step:,}, and not in the last measurement", **values)
        yield from wrapped(past, columns, "", "  ")


def _result(verdict: Verdict) -> Hashable:
    """What two models of a class must share, so that the result of one is enough to read."""
    past = frozenset(finding.rule for _step, finding in verdict.past)
    shared = kind_of(verdict.name), verdict.optimizers, verdict.missing, past
    if verdict.diagnosis is None:
        return shared
    rules = frozenset((finding.rule, finding.severity) for finding in verdict.diagnosis.findings)
    return *shared, rules, tuple((weight.name, weight.shape) for weight in verdict.diagnosis.measurement.weights)
