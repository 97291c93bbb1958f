"""Train every program, broken and repaired, over two seeds, and say whether the mistake matters.

`python -m modern_failures_strangers.check [words of the names or of the subjects]`
"""

import sys
import time
from collections import Counter

from modern_failures_strangers.collection import PROGRAMS
from modern_failures_strangers.healthy import TRAININGS
from modern_failures_strangers.program import Healthy, Program

SEEDS = (0, 1)
MOST_OF_A_KIND = 3


def check_program(program: Program) -> bool:
    """Print a line, and say whether the margin holds in each seed."""
    margins, seconds = [], []
    for seed in SEEDS:
        begin = time.process_time()
        broken, repaired = program.score(False, seed), program.score(True, seed)
        seconds.append((time.process_time() - begin) / 2)
        margins.append((broken, repaired, program.holds(broken, repaired)))
    passed = all(holds for *_, holds in margins)
    scores = "  ".join(f"{broken:7.3f} {repaired:7.3f}" for broken, repaired, _ in margins)
    print(f"{'ok  ' if passed else 'FAIL'} {scores}  {program.margin:5.2f} {max(seconds):4.1f}s  {program.name}")
    return passed


def check_healthy(training: Healthy) -> bool:
    """Print a line, and say whether the score grows enough in each seed."""
    begin = time.process_time()
    pairs = [training.scores(seed) for seed in SEEDS]
    seconds = (time.process_time() - begin) / len(SEEDS)
    passed = all(after - before >= training.gain for before, after in pairs)
    scores = "  ".join(f"{before:7.3f} {after:7.3f}" for before, after in pairs)
    print(f"{'ok  ' if passed else 'FAIL'} {scores}  {training.gain:5.2f} {seconds:4.1f}s  {training.name}")
    return passed


def main() -> int:
    words = sys.argv[1:]

    def wanted(entry: Program | Healthy) -> bool:
        return not words or any(word in f"{entry.name} {entry.make.__module__}" for word in words)

    print("     broken repaired (seed 0, seed 1)  margin  time")
    failed = [program.name for program in PROGRAMS if wanted(program) and not check_program(program)]
    print("     before   after  (seed 0, seed 1)    gain  time")
    failed += [training.name for training in TRAININGS if wanted(training) and not check_healthy(training)]
    kinds = Counter(program.cause for program in PROGRAMS)
    names = Counter(entry.name for entry in [*PROGRAMS, *TRAININGS])
    failed += [f"too many of a kind: {kind}" for kind, number in kinds.items() if number > MOST_OF_A_KIND]
    failed += [f"name not unique: {name}" for name, number in names.items() if number > 1]
    print(f"{len(PROGRAMS)} programs of {len(kinds)} kinds, {sum(bool(p.source) for p in PROGRAMS)} with a thread;")
    print(f"{len(TRAININGS)} healthy trainings; failed: {failed or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
