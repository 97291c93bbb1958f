"""What `unstuck train.py` costs: the time of a whole training under it over that without.

The scripts of `watch.py`, with options for 200 to 1,500 steps, and those of `modern_scripts/` (the Trainer of
Transformers, LoRA of PEFT, diffusion; MAML, SAC, DDPG, an actor with a critic, of thousands of tiny steps) run by
`_step_clock.py` with and without it, in turn.
The clock starts with the first step and stops with the last, so imports, data and the construction of the
model are not in it; the measurements of the first steps are. All runs of a script compute the same, so a step counts
with the shortest time that it took in any of them: what else the machine does can only make it longer. `overhead`
compares the sums of these wall times, `processor` of processor times, `runs` whole runs; `later` leaves out the first
two steps, in which models are searched. The goal, 1.03, is for steps of 5 ms and more (`step_ms`); it is 1.15 for tiny
ones, start not counted.

    python benchmarks/watch_overhead.py --programs PROGRAMS --threads 1
"""

import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from _report import Report, arguments
from watch import PROGRAMS, Fault, Program, run

RUNS, START = 4, 2
WITHOUT = Fault("none", "", "", "", ())
STEPS = {"trainer": 200, "lora": 200, "diffusion": 200, "maml": 1500, "sac": 2000, "ddpg": 4000, "actor_critic": 20_000}
MODERN = tuple(
    Program(name, "modern_scripts", f"{name}.py", "30", WITHOUT, longer=str(steps)) for name, steps in STEPS.items()
)


def timed(program: Program, checkouts: Path, *, watched: bool) -> Tensor:
    """Wall and processor time of each step of a long training, [steps, 2], in seconds."""
    times = Path(tempfile.gettempdir()) / "program-times.json"
    times.unlink(missing_ok=True)
    clock = (str(Path(__file__).with_name("_step_clock.py")), str(times))
    outcome = run(program, checkouts, program.longer, watched=watched, clock=clock)
    assert outcome.code == 0, f"{program.name}: {outcome.error[-2000:]}"
    return torch.tensor(json.loads(times.read_text()), dtype=torch.float64).diff(dim=0)


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--programs", type=Path, required=True, metavar="FOLDER", help="folder with the checkouts")
    options = parser.parse_args(argv)
    runs = 1 if options.quick else RUNS
    report = Report("watch_overhead", options, key=("program",), seeds=[], settings={"runs": runs})
    for program in (*PROGRAMS, *MODERN):
        checkouts = Path(__file__).parent if program in MODERN else options.programs.resolve()
        if not program.longer or not report.wants(program=program.name):
            continue
        found: dict[bool, list[Tensor]] = {False: [], True: []}
        for i in range(runs):
            for watched in (False, True) if i % 2 == 0 else (True, False):
                found[watched].append(timed(program, checkouts, watched=watched))
        plain, under = (torch.stack(found[watched]) for watched in (False, True))  # [runs, steps, 2]
        wall, processor = (under.amin(0).sum(0) / plain.amin(0).sum(0)).tolist()
        later = under[:, START:].amin(0).sum(0) / plain[:, START:].amin(0).sum(0)
        report.add(
            program=program.name,
            overhead=wall,
            processor=processor,
            later=later[0].item(),
            step_ms=1000 * plain[:, :, 0].amin(0).mean().item(),
            steps=plain.shape[1],
            runs=(under[:, :, 0].sum(1) / plain[:, :, 0].sum(1)).tolist(),
        )
    report.finish()


if __name__ == "__main__":
    main()
