"""Is each broken program clearly worse than its repair? Scores of both after the same steps, and the time they take.

python benchmarks/modern_failures/check.py            all, for seeds 0 and 1; writes scores.md beside this file
python benchmarks/modern_failures/check.py shifted    only those whose name or file has this word
"""

import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from modern_failures import PROGRAMS, Program

SEEDS = (0, 1)
HEAD = f"| program | steps | margin | {' | '.join(f'broken, repaired ({seed})' for seed in SEEDS)} | seconds |"


def line(program: Program) -> tuple[str, bool]:
    """A line of the table, and whether the margin holds for all seeds."""
    started = time.process_time()
    scores = [program.compare(seed) for seed in SEEDS]
    seconds = (time.process_time() - started) / 2 / len(SEEDS)
    cells = [program.name, program.steps, program.margin]
    cells += [f"{broken:.3f}, {repaired:.3f}" for broken, repaired in scores]
    holds = all(repaired - broken >= program.margin for broken, repaired in scores)
    return f"| {' | '.join(map(str, cells))} | {seconds:.1f} |", holds


def main(words: list[str]) -> None:
    torch.set_num_threads(1)
    lines, failed = [], []
    for program in PROGRAMS:
        if words and not any(word in program.name or word in program.make.__module__ for word in words):
            continue
        text, holds = line(program)
        print(text if holds else f"{text} FAILS", flush=True)
        lines.append(text)
        failed += [] if holds else [program.name]
    if not words:
        about = "Scores after the same steps, by seed, and processor time of one training. Written by `check.py`."
        table = "\n".join([HEAD, "|---" * (4 + len(SEEDS)) + "|", *lines])
        Path(__file__).with_name("scores.md").write_text(f"# Scores of modern failures\n\n{about}\n\n{table}\n")
    sys.exit(f"{len(failed)} without their margin: {failed}" if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
