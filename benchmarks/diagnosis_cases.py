"""Broken and healthy networks, diagnosed by `unstuck` and by its peers: who finds what, and who cries wolf.

The catalogue is in `catalogue/`: MLPs, convolutional, residual and recurrent networks, transformers, networks with
numbers that are not finite or have few bits, and trainings; of 2 to 1,000 layers. Every broken one has one cause,
injected by construction; `catalogue/case.py` says what counts as the right rule and the right layer. `_diagnosers.py`
says how each tool is asked, which of its findings count, and for which of our rules each may stand.

Of `unstuck` the right layer must be the first name of the right finding. A peer has found it if any finding of the
right kind names it anywhere, and a finding of a peer may stand for several kinds.

    pip install torch-audit torchmortem

A tool that is not installed has rows that say so, and no summary. `--quick` takes every third case, none that is slow,
and shortens the training that the peers see. One thread, unless `--threads` says otherwise: the networks are narrow.
"""

import sys
import time

import torch

from _diagnosers import STEPS, TOOLS, asked, grade
from _report import Report, Row, arguments, table
from catalogue import BROKEN, HEALTHY


def summary(rows: list[Row]) -> list[Row]:
    """One line a tool."""
    lines = []
    for tool in dict.fromkeys(row["tool"] for row in rows):
        mine = [row for row in rows if row["tool"] == tool]
        if any(row["error"] == "not installed" for row in mine):
            lines.append({"tool": tool, "broken": "not installed"})
            continue
        broken, healthy = ([row for row in mine if (row["rule"] is not None) is b] for b in (True, False))
        lines.append(
            {
                "tool": tool,
                "broken": len(broken),
                "called broken": sum(row["called_broken"] for row in broken),
                "right rule": sum(row["right_rule"] for row in broken),
                "and right layer": sum(row["right_layer"] for row in broken),
                "healthy": len(healthy),
                "false alarms": sum(row["called_broken"] for row in healthy),
                "errors": sum(row["error"] is not None for row in mine),
            }
        )
    return lines


def main() -> None:
    options = arguments(__doc__).parse_args()
    options.threads = options.threads or 1
    torch.set_flush_denormal(True)  # vanished gradients are denormal numbers, and those are slow
    steps = 12 if options.quick else STEPS
    report = Report(
        "diagnosis_cases",
        options,
        key=("tool", "family", "case"),
        seeds=[0],
        settings={"steps": steps},
    )
    for catalogue in (BROKEN, HEALTHY):
        for family, cases in catalogue.items():
            for case in [c for c in cases if not c.slow][::3] if options.quick else cases:
                for tool in TOOLS:
                    if not report.wants(tool=tool, family=family, case=case.name):
                        continue
                    started = time.perf_counter()
                    said, error = asked(tool, case, steps)
                    report.add(
                        tool=tool,
                        family=family,
                        case=case.name,
                        rule=case.rules[0] if case.broken else None,
                        **grade(case, said, strict=tool == "unstuck"),
                        error=error,
                        seconds=round(time.perf_counter() - started, 2),
                        said=[[s.rule, *s.layers[:5]] for s in said],
                        layers=list(case.layers),
                    )
    report.finish()
    print(f"\n{table(summary(report.rows))}")
    mistaken = [
        row
        for row in report.rows
        if row["tool"] == "unstuck"
        and (row["error"] or not (row["right_layer"] if row["rule"] else not row["called_broken"]))
    ]
    for row in mistaken:
        wanted, said = [row["rule"], *row["layers"][:3]], row["error"] or row["said"]
        print(f"unstuck: {row['case']}: wants {wanted}, said {said}", file=sys.stderr)


if __name__ == "__main__":
    main()
