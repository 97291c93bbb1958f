"""What `sigmoid-core watch` costs: the time of a whole training under it over that without.

The scripts of `watch.py`, with options for 200 to 1,500 steps, run by `_step_clock.py` with and without `watch`,
in pairs. The clock starts with the first step and stops with the last, so imports, data and the construction of the
model are not in it; the measurements of the first steps are. `overhead` compares wall times, `processor` processor
times; each is the median of the pairs. Run it on a machine that does nothing else. The goal, 1.03, is for steps of 5 ms
and more (`step_ms`).

    python benchmarks/watch_overhead.py --programs PROGRAMS --threads 1
"""

import json
import statistics
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
        walls, processors, steps = [], [], []
        for i in range(pairs):
            order = (False, True) if i % 2 == 0 else (True, False)
            found = {watched: timed(program, options.programs.resolve(), watched=watched) for watched in order}
            walls.append(found[True]["wall"] / found[False]["wall"])
            processors.append(found[True]["processor"] / found[False]["processor"])
            steps.append(1000 * found[False]["wall"] / found[False]["steps"])
        report.add(
            program=program.name,
            overhead=statistics.median(walls),
            processor=statistics.median(processors),
            step_ms=statistics.median(steps),
            steps=found[False]["steps"],
            overheads=walls,
            processors=processors,
        )
    report.finish()


if __name__ == "__main__":
    main()
