"""Trainings of today that did not learn: does `unstuck` name the cause at the end, as `unstuck train.py` does?

`modern_failures/` is the half that rules are developed on; `modern_failures_strangers/` was written by people who did
not read the rules, and has healthy trainings that do unusual things on purpose; so were `modern_failures_second/`,
`..._third/`, `..._fourth/`, `..._fifth/` and `..._sixth/`, each after rules had been mended for those before. Each
program is trained under a `Monitor` that records steps, broken and repaired, and the diagnosis of its training is
judged as in `diagnosis_failures`: *first*, *named*, *note*, *another*, *silent*; a repaired or healthy one is *accused*
if it has an error or a warning.
The tables of the packages say which rules name which cause; they were written from the words for the causes alone.
Nothing is tried again (`--trials` does, for up to ten seconds a program, and counts proofs).
"""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any

import torch

import modern_failures
import modern_failures_strangers.collection
import modern_failures_strangers.healthy
import modern_failures_strangers.rules
import unstuck
from _report import Report, Row, arguments, table
from diagnosis_failures import outcome
from modern_failures import PROGRAMS
from unstuck.findings import Finding, Severity
from unstuck.trials import verdict

MEASUREMENTS = 20
"""Of each training, at least."""


def _by_strangers(package: str) -> tuple[list[Any], Any, list[Any]]:
    """Programs, rules and healthy trainings of a collection."""
    collection, rules = import_module(f"{package}.collection"), import_module(f"{package}.rules")
    return collection.PROGRAMS, rules.RULES, collection.HEALTHY


STRANGERS: dict[str, tuple[list[Any], Any, list[Any]]] = {
    "strangers": (
        modern_failures_strangers.collection.PROGRAMS,
        modern_failures_strangers.rules.RULES,
        modern_failures_strangers.healthy.TRAININGS,
    ),
    **{name: _by_strangers(f"modern_failures_{name}") for name in ("second", "third", "fourth", "fifth", "sixth")},
}
"""Programs, rules and healthy trainings of the halves by strangers."""
Cases = Iterator[tuple[str, str, Callable[[], Any], int, set[str]]]
"""Name, variant, what builds the training, its steps, the rules that name the cause."""


def programs(half: str) -> Cases:
    """All trainings of a half."""
    if half == "development":
        found = [(p, {r for cause in p.causes for r in modern_failures.RULES.get(cause, ())}) for p in PROGRAMS]
    else:
        collection, rules, _ = STRANGERS[half]
        found = [(p, set(rules.get(p.cause, ()))) for p in collection]
    for program, right in found:
        for variant, repaired in (("broken", False), ("repaired", True)):
            yield program.name, variant, partial(program.make, repaired), program.steps, right
    for healthy in () if half == "development" else STRANGERS[half][2]:
        yield healthy.name, "healthy", healthy.make, healthy.steps, set()


def diagnosed(make: Callable[[], Any], steps: int, seconds: float) -> tuple[tuple[Finding, ...], str]:
    """The findings at the end of a training, and the error that it ended with."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        training = make()
        try:
            with unstuck.Monitor(training.model, every=max(1, steps // MEASUREMENTS), trials=True) as monitor:
                training.run(steps)
            return monitor.diagnosis(seconds=seconds).findings, ""
        except Exception as error:  # a diagnosis that falls over is a result
            return (), f"{type(error).__name__}: {error}".splitlines()[0][:160]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--half", choices=("development", *STRANGERS), default="development", help="see above")
    parser.add_argument("--trials", action="store_true", help="train the recorded steps again, with edits")
    options = parser.parse_args()
    options.threads = options.threads or 1
    torch.set_flush_denormal(True)
    name = "diagnosis_modern" + ("" if options.half == "development" else f"_{options.half}")
    settings = {"half": options.half, "trials": options.trials}
    report = Report(name, options, key=("program", "variant"), seeds=[0], settings=settings)
    for number, (program, variant, make, steps, right) in enumerate(programs(options.half)):
        if (options.quick and number % 10 > 1) or not report.wants(program=program, variant=variant):
            continue
        started = time.perf_counter()
        findings, error = diagnosed(make, steps, verdict.SECONDS if options.trials else 0.0)
        said = [(finding.rule, finding.severity) for finding in findings]
        loud = any(severity is not Severity.NOTE for _rule, severity in said)
        report.add(
            program=program,
            variant=variant,
            outcome=outcome(right, said) if variant == "broken" else "accused" if loud else "silent",
            proved=any(f.trial is not None and f.trial.proved for f in findings if f.rule in right),
            shown=any(f.shown or f.rule in verdict.ARITHMETIC for f in findings if f.rule in right),
            rules=sorted(right),
            said=[[rule, severity.value] for rule, severity in said],
            error=error,
            seconds=round(time.perf_counter() - started, 2),
        )
    report.finish()
    counts = Counter((row["variant"], row["outcome"]) for row in report.rows)
    summary: list[Row] = [{"variant": v, "outcome": o, "programs": n} for (v, o), n in sorted(counts.items())]
    print(f"\n{table(summary)}")


if __name__ == "__main__":
    main()
