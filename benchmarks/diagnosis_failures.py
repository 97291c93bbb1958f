"""Programs of real people that did not learn, diagnosed as a user would: is the accepted cause named?

The programs are in `real_failures/`. Each is diagnosed three times: `unstuck.diagnose` on the first batch,
`unstuck.Monitor` during the training, and `unstuck.diagnose` on the first batch after the training. The findings of the
three reports, in this order, are what a user reads. `real_failures/rules.py` says which rules name which cause.

    first     the first error or warning names the cause
    named     another error or warning names it
    note      only a note names it, and there is no error or warning
    another   there are errors or warnings, and none names the cause
    silent    there is neither

The repaired variant is diagnosed in the same way, and is *accused* if it has an error or a warning.

The half `development` is the default: rules are written on it. The half `held-out` is diagnosed once per release, with
all rules frozen, and its score is reported as it comes out. `--quick` takes every fifth program.
"""

import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

import unstuck
from _report import Report, Row, arguments, table
from real_failures import PROGRAMS, RULES, Program
from unstuck.findings import Severity

MEASUREMENTS = 20
"""Of each training, at least."""
OUTCOMES = ("first", "named", "note", "another", "silent")


@dataclass(frozen=True)
class Said:
    """One finding: the report that has it, its rule and its severity."""

    report: str
    rule: str
    severity: Severity


def diagnosed(program: Program, repaired: bool) -> tuple[list[Said], list[str]]:
    """What the three reports say, and the errors that they ended with."""
    said: list[Said] = []
    errors: list[str] = []

    def ask(report: str, diagnose: Callable[[], unstuck.Diagnosis]) -> None:
        try:
            diagnosis = diagnose()
        except Exception as error:  # a diagnosis that falls over is a result
            errors.append(f"{report}: {type(error).__name__}: {error}".splitlines()[0][:160])
        else:
            said.extend(Said(report, finding.rule, finding.severity) for finding in diagnosis.findings)
            errors.extend(f"{report}: {note}" for note in diagnosis.measurement.notes if "please report" in note)

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        training = program.training(repaired)
        inputs, targets = training.batch(0)

        def on_batch() -> unstuck.Diagnosis:
            return unstuck.diagnose(training.model, (inputs,), targets, training.loss)

        ask("before", on_batch)
        training = program.training(repaired)  # again: its loss may count its calls
        with unstuck.Monitor(training.model, every=max(1, program.steps // MEASUREMENTS), trials=True) as monitor:
            training.run(program.steps)
        ask("training", partial(monitor.diagnosis, 0.0))  # recorded, as under the command, and not tried
        ask("after", on_batch)
    return said, errors


def outcome(right: set[str], said: list[tuple[str, Severity]]) -> str:
    """One of `OUTCOMES`, from the rules that name the cause and those that spoke."""
    loud = [rule for rule, severity in said if severity is not Severity.NOTE]
    if loud:
        return "first" if loud[0] in right else "named" if right.intersection(loud) else "another"
    return "note" if right.intersection(rule for rule, _severity in said) else "silent"


def summary(rows: list[Row]) -> list[Row]:
    """One line: how many programs have each outcome, and how many repaired ones are accused."""
    broken = Counter(row["outcome"] for row in rows if row["variant"] == "broken")
    repaired = [row for row in rows if row["variant"] == "repaired"]
    return [
        {
            "programs": broken.total(),
            **{name: broken[name] for name in OUTCOMES},
            "repaired": len(repaired),
            "accused": sum(row["outcome"] == "accused" for row in repaired),
            "errors": sum(bool(row["errors"]) for row in rows),
        }
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--half", choices=("development", "held-out"), default="development", help="see above")
    options = parser.parse_args()
    options.threads = options.threads or 1
    torch.set_flush_denormal(True)
    half = options.half.replace("-", " ")
    if half == "held out":
        print("The held-out half may be run once per release, after the rules are frozen. Report its score as it is.")
    name = "diagnosis_failures" if half == "development" else "diagnosis_failures_held_out"
    report = Report(name, options, key=("program", "variant"), seeds=[0], settings={"half": half})
    programs = [program for program in PROGRAMS if program.half == half]
    for program in programs[::5] if options.quick else programs:
        for variant in ("broken", "repaired"):
            if not report.wants(program=program.name, variant=variant):
                continue
            started = time.perf_counter()
            said, errors = diagnosed(program, repaired=variant == "repaired")
            loud = any(finding.severity is not Severity.NOTE for finding in said)
            right = {rule for cause in program.causes for rule in RULES[cause]}
            spoken = [(finding.rule, finding.severity) for finding in said]
            report.add(
                program=program.name,
                variant=variant,
                outcome=outcome(right, spoken) if variant == "broken" else "accused" if loud else "silent",
                seconds=round(time.perf_counter() - started, 2),
                causes=list(program.causes),
                said=[[finding.report, finding.rule, finding.severity.value] for finding in said],
                errors=errors,
            )
    report.finish()
    print(f"\n{table(summary(report.rows))}")
    for row in report.rows:
        if row["outcome"] not in ("first", "named") and (row["variant"], row["outcome"]) != ("repaired", "silent"):
            loud = [f"{where}:{rule}" for where, rule, severity in row["said"] if severity != "note"]
            print(f"{row['outcome']}: {row['program']} {row['causes']}: {loud} {row['errors'] or ''}", file=sys.stderr)


if __name__ == "__main__":
    main()
