"""The programs of real people that did not learn, diagnosed by other tools (`_diagnosers.py`), as `diagnosis_failures`.

A tool sees the training of a program, broken and repaired. A finding is right if it may stand for a rule of ours that
names the cause (`real_failures/rules.py`). "first", "named", "another", "silent" and "accused" are those of
`diagnosis_failures.py`. torch-audit and SageMaker's rules need the usual loop: programs with another one have no
outcome, and nor have those that a tool falls over. TrainCheck, which infers its rules from healthy runs of the same
code, is asked by `failures_traincheck.py`. Both halves are asked, for no rule of theirs was written with either.

    pip install torch-audit torchmortem
"""

import time

import torch

from _diagnosers import PEERS, Said, tried
from _report import Report, arguments
from real_failures import PROGRAMS, RULES, Program


def outcome(program: Program, said: list[Said]) -> str:
    """What a tool says of the broken program."""
    right = {rule for cause in program.causes for rule in RULES[cause]}
    named = [bool(finding.rules & right) for finding in said]
    return "silent" if not named else "first" if named[0] else "named" if any(named) else "another"


def main() -> None:
    options = arguments(__doc__).parse_args()
    options.threads = options.threads or 1
    torch.set_flush_denormal(True)
    report = Report("failures_peers", options, key=("tool", "half", "program", "variant"), seeds=[0], settings={})
    for program in PROGRAMS[::5] if options.quick else PROGRAMS:
        for tool, ask in PEERS.items():
            for variant in ("broken", "repaired"):
                place = {"tool": tool, "half": program.half, "program": program.name, "variant": variant}
                if not report.wants(**place):
                    continue
                started = time.perf_counter()
                training = program.training(variant == "repaired")
                said, error = tried(lambda: ask(training, program.steps))  # noqa: B023 - called at once
                found = outcome(program, said) if variant == "broken" else "accused" if said else "silent"
                report.add(
                    **place,
                    outcome=None if error else found,
                    error=error,
                    rules=[finding.rule for finding in said],
                    seconds=round(time.perf_counter() - started, 2),
                )
    report.finish()


if __name__ == "__main__":
    main()
