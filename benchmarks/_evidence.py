"""Run again, on this commit, every benchmark that the READMEs and the landing pages quote: `make evidence`.

Results go to benchmarks/results/evidence/, so that the committed ones stay. An interrupted run goes on where it was. At
the end: which tables and sentences of these pages would be others with the new results. About ten hours on one core;
`--list` prints the commands. What needs data or programs that are not in the repository is named, and left out.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

from result_tables import figures  # noqa: E402

import results  # noqa: E402

EVIDENCE = figures.RESULTS / "evidence"
PAGES = ("README*.md", "packages/*/README.md", "docs/index*.md")
SCRIPTS = {
    "cifar": "cifar.py --data {data}",
    "convnet": "convnet.py",
    "convnet_sigmoid_core": "convnet.py --only 'method=sigmoid core'",
    "depth": "depth.py",
    "diagnosis_failures_held_out": "diagnosis_failures.py --half held-out",
    "diagnosis_modern_fifth": "diagnosis_modern.py --half fifth",
    "diagnosis_modern_sixth": "diagnosis_modern.py --half sixth",
    "diagnosis_modern_fourth": "diagnosis_modern.py --half fourth",
    "diagnosis_modern_second": "diagnosis_modern.py --half second",
    "diagnosis_modern_strangers_mended": "diagnosis_modern.py --half strangers",
    "diagnosis_modern_third": "diagnosis_modern.py --half third",
    "diagnosis_modern_third_mended": "diagnosis_modern.py --half third",
    "diagnosis_scripts": "diagnosis_scripts.py",
    "equalizer_settings": "equalizer_settings.py",
    "failures_peers": "failures_peers.py",
    "failures_traincheck": "failures_traincheck.py",
    "learning_rate": "learning_rate.py",
    "peers": "compare_peers.py",
    "peers_1000": "compare_peers.py --only depth=1000",
    "physics": "compare_physics.py --only seed=0 --only depth=4,8",
    "physics_16": "compare_physics.py --only seed=0 --only depth=16",
    "physics_inverse": "compare_physics.py --only seed=0 --only problem=poisson_inverse --only depth=4,16",
    "physics_more": "compare_physics.py --only problem=kdv,burgers_2d,heat_scales,poisson_3d --only seed=0",
    "physics_seeds": "compare_physics.py --only depth=8 --only method=tanh,piratenet",
    "physics_seeds_sigmoid_core": "compare_physics.py --only depth=8 --only method=sigmoid-core",
    "physics_soap": "compare_physics.py --soap --only optimizer=soap --only depth=8 "
    "--only method=tanh,piratenet,sigmoid-core",
    "physics_steps": "physics_steps.py --threads 1",
    "physics_sigmoid_core": "compare_physics.py --only seed=0 --only method=sigmoid-core",
    "watch_overhead_modern": "watch_overhead.py --programs {checkouts} --only program=trainer,lora,diffusion,maml,sac,"
    "ddpg,actor_critic",
    "watch_repositories": "watch_repositories.py --checkouts {checkouts} --images {images}",
}
"""The script and the options that make each quoted file; braces stand for what is not in the repository."""


class Chosen:
    """The folder of results: each file is the new one if it is there. It notes which files are read."""

    def __init__(self, folder: Path, newer: Path) -> None:
        self.folder, self.newer = folder, newer
        self.read: set[str] = set()

    def __truediv__(self, name: str) -> Path:
        self.read.add(Path(name).stem)
        return self.newer / name if (self.newer / name).exists() else self.folder / name


def pages() -> Iterator[tuple[str, str]]:
    """Name and text of each page."""
    for path in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def differences(folder: Path, newer: Path) -> tuple[list[str], set[str]]:
    """What the pages would say with the newer results, and the files that they quote."""
    chosen, before = Chosen(folder, newer), figures.RESULTS
    figures.RESULTS = chosen  # type: ignore[assignment]
    figures.rows.cache_clear()
    found: list[str] = []
    try:
        for name, text in pages():
            old, new = text.splitlines(), results.written(text).splitlines()
            found += [f"{name}: {a}\n{' ' * len(name)}  {b}" for a, b in zip(old, new, strict=True) if a != b]
            found += [f"{name}: would say: {sentence}" for sentence in results.missing(name, text)]
    finally:
        figures.RESULTS = before
        figures.rows.cache_clear()
    return found, chosen.read


def main() -> None:
    """Run the quoted benchmarks and print the differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the commands only")
    for name in ("data", "checkouts", "images"):
        parser.add_argument(f"--{name}", metavar="PATH", help="what is not in the repository; see the scripts")
    options = parser.parse_args()
    _, quoted = differences(figures.RESULTS, EVIDENCE)
    for name in sorted(quoted):
        words = [word.format_map(vars(options)) for word in shlex.split(SCRIPTS[name])]
        command = [f"benchmarks/{words[0]}", *words[1:], "--threads", "1", "--resume"]
        command += ["--output", (EVIDENCE / f"{name}.json").relative_to(ROOT).as_posix()]
        print(f"\n== python {shlex.join(command)}", flush=True)
        if "None" in words:
            print(f"left out: give what it needs ({SCRIPTS[name]})")
        elif not options.list and subprocess.run([sys.executable, *command], cwd=ROOT).returncode:
            print(f"{name}: failed; the committed figures are kept")
    if not options.list:
        found, _ = differences(figures.RESULTS, EVIDENCE)
        print("\n".join(["", *(found or ["Every figure of these pages is as committed."])]))


if __name__ == "__main__":
    main()
