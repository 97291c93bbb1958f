"""What the command says about the models of a script. It imports PyTorch, as the script has by then."""

import time
from argparse import Namespace
from collections.abc import Hashable, Iterator, Sequence
from typing import TextIO

from unstuck.findings import Finding
from unstuck.language import _
from unstuck.language.errors import InputError, check_file
from unstuck.language.terminal import printable, say, width, wrapped
from unstuck.report.text import finding_lines, title, to_text
from unstuck.watch import Verdict, Watch, kind_of

SHARE, TRIALS = 0.1, (2.0, 10.0)
"""Trials take this share of the time of the script, and so many seconds at least and at most."""


class Commentary:
    """Watches the models of this process, prints findings as they appear, and the verdicts at the end.

    Without a stream, another process prints and writes.

    Args:
        stream: where to print.
        options: of the command line.

    Attributes:
        models: how many there were; known after `conclude`.
    """

    def __init__(self, stream: TextIO | None, options: Namespace) -> None:
        self._stream = stream
        self._options = options
        self.models = 0
        self._said: dict[tuple[str, str], str] = {}  # the first model of a class with a rule
        self._started = time.monotonic()
        self._watch = Watch(
            self._finding, options.every, trials=options.trials, trace_nonfinite=options.trace_nonfinite
        )

    def conclude(self, error: BaseException | None = None, *, trials: bool = True) -> bool:
        """Say the verdicts, write the files, and return whether `--fail-on` fails."""
        self._watch.remove(error)
        verdicts = self._verdicts() if trials else self._watch.verdicts()
        self.models = len(verdicts)
        failed = any(v.diagnosis.fails(self._options.fail_on) for v in verdicts if v.diagnosis is not None)
        if self._stream is None:
            return failed
        columns = width(self._stream)
        groups: dict[Hashable, list[Verdict]] = {}
        for verdict in verdicts:
            groups.setdefault(_result(verdict), []).append(verdict)
        for first, *others in groups.values():
            say(self._stream, *_lines(first, columns))
            if others:
                same = _("the same result: {names}", names=_(", ").join(verdict.name for verdict in others))
                if first.over and first.diagnosis is not None:
                    same += _("; if they are meant to be one model, make it before the loop")
                say(self._stream, *wrapped(same, columns, "", "  "))
        for problem in self._watch.problems:
            say(self._stream, *wrapped(_("not watched: {problem}", problem=problem), columns, "", "  "))
        return not self._write(verdicts) or failed

    def _verdicts(self) -> list[Verdict]:
        """The verdicts, with trials if there is time; Ctrl-C ends these."""
        without = self._watch.verdicts()
        seconds = min(max(TRIALS[0], SHARE * (time.monotonic() - self._started)), TRIALS[1])
        if self._stream is None or not self._watch.has_steps or not seconds:
            return without
        most = f"{seconds:.0f}"
        say(self._stream, _("unstuck: trials on copies of the weights, {most} s at most; Ctrl-C skips them", most=most))
        try:
            return self._watch.verdicts(seconds)
        except KeyboardInterrupt:
            return without

    def _finding(self, name: str, step: int, finding: Finding) -> None:
        columns = width(self._stream)
        head = _("unstuck: {name}, step {step:,}", name=name, step=step)
        other = self._said.setdefault((kind_of(name), finding.rule), name)
        if other != name:
            again = _("{head}: {finding}, as in {other}", head=head, finding=title(finding), other=other)
            say(self._stream, *wrapped(again, columns, "", "  "))
        else:
            say(self._stream, *wrapped(head, columns), *finding_lines(finding, columns))

    def _write(self, verdicts: Sequence[Verdict]) -> bool:
        """Write the worst diagnosis, and those of other models beside it; returns whether that succeeded."""
        measured = [(v.name, v.diagnosis) for v in verdicts if v.diagnosis is not None]
        measured.sort(key=lambda pair: [pair[1].fails([what]) for what in ("error", "warning")], reverse=True)
        try:
            for i, (name, diagnosis) in enumerate(measured):
                for path, write in ((self._options.html, diagnosis.to_html), (self._options.json, diagnosis.to_json)):
                    if path is not None:
                        path = path.with_stem(f"{path.stem}-{name.replace(' ', '-')}") if i else path
                        with InputError.replacing("cannot write {path}: {error}", OSError, path=path):
                            check_file(path)
                            write(path)
                        say(self._stream, printable(_("written: {path}", path=path)))
        except InputError as error:
            say(self._stream, printable(f"unstuck: {error}"))
            return False
        return True


def _lines(verdict: Verdict, columns: int) -> Iterator[str]:
    """The result for one model."""
    by = _("moved by no optimizer")
    if verdict.optimizers:
        by = _("trained by {optimizers}", optimizers=_(" and ").join(verdict.optimizers))
    yield from ("", *wrapped(_("unstuck: {name}, {by}", name=verdict.name, by=by), columns), "")
    if verdict.diagnosis is None:
        ran = _("no gradient of a backward() came back through its layers before a step")
        if verdict.unmoved:
            ran = _(
                "gradients reach it, but no optimizer that made a step has its parameters: give them to one, or freeze "
                "the model"
            )
        elif verdict.beside:
            ran = _("it ran beside other models")
        yield from wrapped(_("nothing was measured: {reason}", reason=ran), columns, "", "  ")
        return
    yield from (*to_text(verdict.diagnosis, columns).splitlines(), "")
    for line in _past(verdict):
        yield from wrapped(line, columns, "", "  ")


def _result(verdict: Verdict) -> Hashable:
    """What two models of a class must share, so that the result of one is enough to read."""
    found = verdict.diagnosis.findings if verdict.diagnosis is not None else None
    rules = None if found is None else frozenset((finding.rule, finding.severity) for finding in found)
    past = frozenset(finding.rule for _step, finding in verdict.past)
    weights = verdict.diagnosis.measurement.weights if verdict.diagnosis is not None else ()
    shapes = tuple((weight.name, weight.shape) for weight in weights)
    return kind_of(verdict.name), shapes, verdict.optimizers, verdict.beside, verdict.unmoved, rules, past


def _past(verdict: Verdict) -> list[str]:
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
