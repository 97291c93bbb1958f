"""The programs of real people that did not learn, checked by TrainCheck: 40 of them, drawn with seed 0.

TrainCheck (`_traincheck.py`) infers invariants from healthy runs of the same code, and names those that another run
violates. Here the healthy runs are the repaired program with two seeds, which no other tool of `failures_peers.py`
sees. The broken program is checked with a third seed, and so is the repaired one, for false alarms. The invariant that
is violated first, in time, is the first finding; "first", "named", "another", "silent" and "accused" are those of
`diagnosis_failures.py`. `traincheck-without-order` leaves out the invariants about the order of calls, as the tutorial
of TrainCheck advises. A violated invariant is right if it may stand for a rule of ours that names the cause: what it
may stand for was written from the documentation of TrainCheck, before anything was checked.

    pip install traincheck

with a PyTorch for the CPU: TrainCheck 0.2.0 ends with an error on a machine that has PyTorch for CUDA and no GPU.
"""

import random
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from _report import Report, arguments
from _traincheck import ORDER, REFERENCE_SEEDS, STEPS, TrainCheck, TrainCheckError, Violated
from real_failures import PROGRAMS, RULES, Program

SAMPLE = 40
VARIANTS = ("broken", "repaired")
TOOLS = ("traincheck", "traincheck-without-order")


def outcome(program: Program, violated: list[Violated]) -> str:
    """What the invariants say of the broken program."""
    right = {rule for cause in program.causes for rule in RULES[cause]}
    named = [bool(invariant.rules & right) for invariant in violated]
    return "silent" if not named else "first" if named[0] else "named" if any(named) else "another"


def checked(tool: TrainCheck, program: Program, folder: Path) -> dict[str, tuple[list[Violated], str | None]]:
    """Of both variants, the violated invariants and the error that it ended with."""
    try:
        traces = [tool.collect(program, True, seed, folder) for seed in REFERENCE_SEEDS]
        invariants = tool.infer(traces, folder)
    except TrainCheckError as error:
        return dict.fromkeys(VARIANTS, ([], str(error)))
    results: dict[str, tuple[list[Violated], str | None]] = {}
    for variant in VARIANTS:
        try:
            trace = tool.collect(program, variant == "repaired", 0, folder)
            results[variant] = tool.check(trace, invariants, folder), None
        except TrainCheckError as error:
            results[variant] = [], str(error)
    return results


def row(program: Program, variant: str, violated: list[Violated], error: str | None) -> dict[str, Any]:
    """What the file has of one variant, as one of `TOOLS` sees it."""
    said = outcome(program, violated) if variant == "broken" else "accused" if violated else "silent"
    return {
        "outcome": None if error else said,
        "detected": None if error else bool(violated),
        "error": error,
        "violated": len(violated),
        "relations": dict(Counter(invariant.relation for invariant in violated)),
        "said": list(dict.fromkeys(invariant.text for invariant in violated)),
    }


def main() -> None:
    options = arguments(__doc__).parse_args()
    options.threads = options.threads or 1
    torch.set_flush_denormal(True)
    settings = {"steps": STEPS, "reference_seeds": REFERENCE_SEEDS, "sample": SAMPLE}
    report = Report(
        "failures_traincheck", options, key=("tool", "half", "program", "variant"), seeds=[0], settings=settings
    )
    tool = TrainCheck()
    programs = random.Random(0).sample(PROGRAMS, SAMPLE)
    for program in programs[:2] if options.quick else programs:
        places = [
            {"tool": name, "half": program.half, "program": program.name, "variant": variant}
            for variant in VARIANTS
            for name in TOOLS
        ]
        if not any(report.wants(**place) for place in places):
            continue
        started, folder = time.perf_counter(), Path(tempfile.mkdtemp())
        results = checked(tool, program, folder)
        seconds = round(time.perf_counter() - started, 1)
        shutil.rmtree(folder)
        for place in places:
            violated, error = results[place["variant"]]
            kept = [v for v in violated if place["tool"] == TOOLS[0] or v.relation not in ORDER]
            report.add(**place, **row(program, place["variant"], kept, error), seconds=seconds)
    tool.close()
    report.finish()


if __name__ == "__main__":
    main()
