"""What trials say about programs of real people that did not learn: is the accepted cause proved?

The programs are those of `diagnosis_failures.py`, of the half that rules are developed on. Each is trained under an
`unstuck.Monitor(trials=True)`, in both variants. Of the broken one, two questions are asked.

    proved    a finding that names the accepted cause is proved by its trial
    shown     it came from a recorded step that was run again, or is a fact of arithmetic
    tried     it was tried, and not proved
    no trial  there is no edit for it, or the step cannot run again
    unnamed   no error or warning names the cause

and, with all rules off: at which place is an edit that proves the accepted cause, if all edits of the table are tried
and sorted by `Edit.rank` (`place`, None: nowhere)? `WITHOUT_RULES` has the edits for causes without a rule. Of the
repaired variant: is an error or a warning proved (`accused`)? `--quick` takes every fifth program; `--half held-out`
only tries the edits on the other half.
"""

import time
import warnings
from collections import Counter

import torch

import unstuck
from _report import Report, Row, arguments, table
from diagnosis_failures import MEASUREMENTS
from real_failures import PROGRAMS, RULES, Program
from unstuck.findings import Severity
from unstuck.trials import Recording
from unstuck.trials.edits import edits
from unstuck.trials.recording import NotTriedError
from unstuck.trials.verdict import ARITHMETIC, Tries, tried

SECONDS = 120.0
"""For the trials of a program: results do not depend on how busy the machine is."""
WITHOUT_RULES = {"positions missing": "with positions"}
"""How the edits of causes that no rule names begin."""


def recorded(program: Program, repaired: bool) -> tuple[unstuck.Diagnosis, Recording]:
    """Train a program; its findings without trials, and what trials need."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        training = program.training(repaired)
        every = max(1, program.steps // MEASUREMENTS)
        with unstuck.Monitor(training.model, every=every, trials=True) as monitor:
            training.run(program.steps)
        return monitor.diagnosis(seconds=0), monitor.recording


def place_without_rules(recording: Recording, program: Program) -> tuple[int | None, list[str]]:
    """The place of the first edit that proves an accepted cause, and the first three edits."""
    right = {rule for cause in program.causes for rule in RULES[cause]}
    own = tuple(WITHOUT_RULES[cause] for cause in program.causes if cause in WITHOUT_RULES)
    try:
        tries = Tries(recording, SECONDS)
    except NotTriedError as error:
        return None, [str(error)]
    found = []
    for edit in edits(recording):
        result = tries.run(edit)
        if result is not None and result[1].proved:
            fits = any(rule in edit.proves for rule in right) or edit.words.startswith(own)
            found.append((edit.rank(result[0]), edit.words, fits))
    found.sort(key=lambda result: result[0])
    return next((i + 1 for i, result in enumerate(found) if result[2]), None), [
        words for _left, words, _right in found[:3]
    ]


def outcome(findings: list[unstuck.Finding], right: set[str]) -> str:
    """What the trials say about the accepted cause."""
    named = [finding for finding in findings if finding.rule in right]
    if not named:
        return "unnamed"
    trials = [finding.trial for finding in named if finding.trial is not None]
    if any(trial.proved for trial in trials):
        return "proved"
    if any(finding.shown or finding.rule in ARITHMETIC for finding in named):
        return "shown"
    return "tried" if trials else "no trial"


def summary(rows: list[Row]) -> list[Row]:
    """One line."""
    broken = [row for row in rows if row["variant"] == "broken"]
    places = [row["place"] for row in broken]
    repaired = [row for row in rows if row["variant"] == "repaired"]
    return [
        {
            "programs": len(broken),
            **Counter(row["outcome"] for row in broken),
            "first edit": places.count(1),
            "first three": sum(place in (1, 2, 3) for place in places),
            "repaired": len(repaired),
            "accused": sum(row["outcome"] == "proved" for row in repaired),
        }
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--half", choices=("development", "held-out"), default="development", help="see above")
    options = parser.parse_args()
    options.threads = options.threads or 1
    torch.set_flush_denormal(True)
    held_out = options.half == "held-out"
    name = "trials_held_out" if held_out else "trials"
    report = Report(name, options, key=("program", "variant"), seeds=[0], settings={"half": options.half})
    programs = [program for program in PROGRAMS if program.half == options.half.replace("-", " ")]
    for program in programs[::5] if options.quick else programs:
        right = {rule for cause in program.causes for rule in RULES[cause]}
        for variant in ("broken",) if held_out else ("broken", "repaired"):
            if not report.wants(program=program.name, variant=variant):
                continue
            started = time.perf_counter()
            diagnosis, recording = recorded(program, repaired=variant == "repaired")
            findings, trials = tried(() if held_out else diagnosis.findings, recording, SECONDS)
            loud = [finding for finding in findings if finding.severity is not Severity.NOTE]
            row: Row = {"place": None, "edits": []}
            if variant == "broken":
                row["place"], row["edits"] = place_without_rules(recording, program)
                result = "" if held_out else outcome(loud, right)
            else:
                result = "proved" if any(f.trial is not None and f.trial.proved for f in loud) else "silent"
            report.add(
                program=program.name,
                variant=variant,
                outcome=result,
                left=round(trials.left, 3),
                missing=trials.missing,
                said=[[f.rule, f.severity.value, None if f.trial is None else f.trial.proved] for f in findings],
                seconds=round(time.perf_counter() - started, 2),
                **row,
            )
    report.finish()
    print(f"\n{table(summary(report.rows))}")


if __name__ == "__main__":
    main()
