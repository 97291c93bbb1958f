"""What `sigmoid-core watch` costs: the time of a whole training under it over that without.

The scripts of `watch.py`, with options for 200 to 1,500 steps, run by `_step_clock.py` with and without `watch`,
in turn. The clock starts with the first step and stops with the last, so imports, data and the construction of the
model are not in it; the measurements of the first steps are. `overhead` compares the shortest wall times, `processor`
the shortest processor times: what else the machine does can only make a run longer. `overheads` are the ratios of
neighbouring runs. The goal, 1.03, is for steps of 5 ms and more (`step_ms`).

    python benchmarks/watch_overhead.py --programs PROGRAMS --threads 1
"""

import json
import tempfile
from pathlib import Path

from _report import Report, arguments
from watch import PROGRAMS, Program, run

PAIRS = 5


def timed(program: Program, checkouts: Path, *, watched: bool) -> dict[str, float]:
    """Steps, wall time and processor time of a long training."""
    times = Path(tempfile.gettempdir()) / "program-times.json"
    times.unlink(missing_ok=True)
    clock = (str(Path(__file__).with_name("_step_clock.py")), str(times))
    outcome = run(program, checkouts, program.longer, watched=watched, clock=clock)
    assert outcome.code == 0, f"{program.name}: {outcome.error[-2000:]}"
    measured: dict[str, float] = json.loads(times.read_text())
    return measured


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--programs", type=Path, required=True, metavar="FOLDER", help="folder with the checkouts")
    options = parser.parse_args(argv)
    pairs = 1 if options.quick else PAIRS
    report = Report("watch_overhead", options, key=("program",), seeds=[], settings={"pairs": pairs})
    for program in PROGRAMS:
        if not program.longer or not report.wants(program=program.name):
            continue
        runs: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for i in range(pairs):
            for watched in (False, True) if i % 2 == 0 else (True, False):
                runs[watched].append(timed(program, options.programs.resolve(), watched=watched))
        shortest = {(w, clock): min(run[clock] for run in runs[w]) for w in runs for clock in ("wall", "processor")}
        steps = runs[False][0]["steps"]
        report.add(
            program=program.name,
            overhead=shortest[True, "wall"] / shortest[False, "wall"],
            processor=shortest[True, "processor"] / shortest[False, "processor"],
            step_ms=1000 * shortest[False, "wall"] / steps,
            steps=steps,
            overheads=[under["wall"] / plain["wall"] for plain, under in zip(runs[False], runs[True], strict=True)],
        )
    report.finish()


if __name__ == "__main__":
    main()
