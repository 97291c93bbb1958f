"""Faults: runs that are killed, stopped, fill the disk, are damaged or shared, and go on; their ends are compared.

A run of `sigmoid-core train` (digits, 3 layers of 8 sigmoids, 3 epochs, a checkpoint after every step) is disturbed and
then goes on with `--resume`. A trial is lost if the final weights, or the epochs in metrics.jsonl, are not those of a
run that nothing happened to, bit for bit, or if what is promised for the fault does not hold. Moments are drawn evenly
over the length of a run, places evenly over a file. Runs are forks of this process, which has had one already: they do
not wait for imports.

kill -9: `in_writes` counts the kills at which a checkpoint was half written. kill -9, overwriting: on a folder that
holds another run, which `--overwrite` is replacing. SIGTERM, Ctrl-C: the checkpoint of the very step that the message
names must be there; `saved` counts these messages. Ctrl-C twice: the second one, up to 0.05 s later, stops at once, in
the middle of a write too. disk full: a limit on the size of files (RLIMIT_FSIZE), or a tmpfs (where one can be mounted:
Linux, root) that is too small; `said` counts one line and exit code 1. cut off, bit flipped: a file of the last
checkpoint, config.toml or metrics.jsonl of a run that was stopped; `said` counts the resumes that named the damage.
weights: model.safetensors of a finished run, which `diagnose` must refuse. two processes: a second one on the folder of
a first; it has to be refused, and the first to finish. two at once: both begin together, and just one may win. not
finite: a weight becomes nan or infinite after a step; the message must name step, place and remedy, and every weight
that was kept be finite.
"""

import contextlib
import io
import json
import math
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from matplotlib.figure import Figure
from safetensors import safe_open
from safetensors.torch import load_file

from _report import Report, arguments
from sigmoidcore.cli import main as command
from sigmoidcore.training.runs.folder import read_metrics

TRAIN = ["train", "--depth", "3", "--width", "8", "--epochs", "3", "--every", "4", "--save-every", "1"]
STEPS = 42
STOPPED = 8
"""Runs that were stopped, of which copies are damaged."""
FORK = multiprocessing.get_context("fork")

Trial = Callable[[random.Random], tuple[bool, bool]]
"""Whether nothing is lost, and whether what is counted beside it happened."""


def quietly(arguments: list[str], said: Path, before: Callable[[], None]) -> None:
    """Run the command in a child; what it says of errors goes into a file, its exit code is the child's."""
    errors = io.StringIO()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        Figure.savefig = lambda *arguments, **options: None  # drawing takes longer than the run
        before()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            code = command(arguments)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:  # before the command
        code = 130
    with contextlib.suppress(OSError):
        said.write_text(errors.getvalue())
    raise SystemExit(code)


def started(arguments: list[str], said: Path, before: Callable[[], None] = lambda: None) -> BaseProcess:
    said.unlink(missing_ok=True)
    process = FORK.Process(target=quietly, args=(arguments, said, before))
    process.start()
    return process


def finished(arguments: list[str], said: Path, before: Callable[[], None] = lambda: None) -> int | None:
    process = started(arguments, said, before)
    process.join()
    return process.exitcode


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], list[tuple[float, float]]]:
    rows = read_metrics(folder / "metrics.jsonl")
    return load_file(folder / "model.safetensors"), [(r["loss"], r["accuracy"]) for r in rows if r["kind"] == "epoch"]


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


class Trials:
    """Runs in a temporary folder, and the one that nothing happened to."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.said, self.other = place / "said", place / "said-by-the-other"
        self.folder = place / "run"
        self.warm_up(place / "first")
        self.seconds = math.inf
        for name in ("second", "third", "whole"):
            begun = time.perf_counter()
            assert finished([*TRAIN, "--output", str(place / name)], self.said) == 0
            self.seconds = min(self.seconds, time.perf_counter() - begun)
        self.whole = outcome(place / "whole")
        assert all(self.same(place / name) for name in ("first", "second", "third"))
        assert finished([*TRAIN, "--seed", "1", "--output", str(place / "other")], self.said) == 0
        rng = random.Random("stopped")
        self.stopped = [self._stopped_copy(number, rng) for number in range(STOPPED)]

    @staticmethod
    def warm_up(folder: Path) -> None:
        """Have all in this process that a run imports, so that its forks have it."""
        with contextlib.redirect_stdout(io.StringIO()):
            assert command([*TRAIN, "--output", str(folder)]) == 0
            assert command(["train", "--resume", str(folder)]) == 0
            assert command(["diagnose", str(folder), "--fail-on", "never"]) == 0

    def _stopped_copy(self, number: int, rng: random.Random) -> Path:
        folder = self.place / f"stopped-{number}"
        process = started([*TRAIN, "--output", str(folder)], self.said)
        least = rng.randrange(3, STEPS - 3)
        while process.is_alive() and not any(folder.glob(f"checkpoints/step-*{least:03}.safetensors")):
            time.sleep(0.0005)
        process.terminate()
        process.join()
        assert process.exitcode == 143, text_of(self.said)
        return folder

    def fresh(self, *more: str) -> list[str]:
        shutil.rmtree(self.folder, ignore_errors=True)
        return [*TRAIN, "--output", str(self.folder), *more]

    def copied(self, other: Path) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(other, self.folder)

    def same(self, folder: Path) -> bool:
        weights, epochs = outcome(folder)
        return epochs == self.whole[1] and all(torch.equal(weights[n], v) for n, v in self.whole[0].items())

    def goes_on(self, folder: Path | None = None) -> bool:
        """Whether the run goes on to the very end of the other one."""
        folder = folder or self.folder
        arguments = ["train", "--resume", str(folder)]
        if not (folder / "config.toml").exists() and not (folder / "checkpoints").exists():
            arguments = [*TRAIN, "--output", str(folder)]  # it was stopped before it had begun
        return finished(arguments, self.said) == 0 and self.same(folder)

    def a_while(self, rng: random.Random, process: BaseProcess, share: float = 1.0) -> None:
        process.join(rng.uniform(0, share * self.seconds))

    # --- signals -----------------------------------------------------------------------------------------------------

    def kill(self, rng: random.Random) -> tuple[bool, bool]:
        process = started(self.fresh(), self.said)
        self.a_while(rng, process)
        process.kill()
        process.join()
        half = any((self.folder / "checkpoints").glob("*.part"))
        return self.goes_on(), half

    def overwrite(self, rng: random.Random) -> tuple[bool, bool]:
        self.copied(self.place / "other")
        arguments = [*TRAIN, "--output", str(self.folder), "--overwrite"]
        process = started(arguments, self.said)
        self.a_while(rng, process, 0.5)
        process.kill()
        process.join()
        begun = not (self.folder / "model.safetensors").exists()
        return finished(arguments, self.said) == 0 and self.same(self.folder), begun

    def stop(self, rng: random.Random, number: signal.Signals, times: int = 1) -> tuple[bool, bool]:
        process = started(self.fresh(), self.said)
        self.a_while(rng, process)
        for _ in range(times):
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)
            process.join(rng.uniform(0, 0.05) if times > 1 else None)
        process.join()
        told = re.search(r"interrupted after step ([\d,]+) of", text_of(self.said))
        held = process.exitcode in (0, 128 + number, -number)
        if told and times == 1:
            held &= (self.folder / "checkpoints" / f"step-{int(told[1].replace(',', '')):09}.safetensors").exists()
        return self.goes_on() and held, told is not None

    # --- a full disk -------------------------------------------------------------------------------------------------

    def limit(self, rng: random.Random) -> tuple[bool, bool]:
        largest = max(path.stat().st_size for path in self.place.glob("whole/checkpoints/*"))
        most = rng.randrange(600, largest)
        code = finished(self.fresh(), self.said, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
        return self.full(code, self.folder)

    def fill(self, rng: random.Random) -> tuple[bool, bool]:
        largest = sum(path.stat().st_size for path in self.place.glob("whole/**/*"))
        with small_disk(self.place / "disk", rng.randrange(16, largest // 1024)) as disk:
            code = finished([*TRAIN, "--output", str(disk / "run")], self.said)
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            return self.full(code, disk / "run")

    def full(self, code: int | None, folder: Path) -> tuple[bool, bool]:
        said = text_of(self.said)
        held = code == 0 or (code in (1, 2) and said.count("\n") == 1)
        return self.goes_on(folder) and held, code == 1

    # --- damage ------------------------------------------------------------------------------------------------------

    def damage(self, rng: random.Random, spoil: Callable[[bytes, random.Random], bytes]) -> tuple[bool, bool]:
        self.copied(rng.choice(self.stopped))
        last = max((self.folder / "checkpoints").iterdir())
        path = rng.choice([last, *map(self.folder.joinpath, ("config.toml", "metrics.jsonl"))])
        data = path.read_bytes()
        if path.name == "metrics.jsonl":  # lines behind those of the checkpoint are not read again
            with safe_open(last, "pt") as file:
                data = data[: json.loads(file.metadata()["values"])["metrics"]["bytes"]]
        path.write_bytes(spoil(data, rng))
        same = self.goes_on()
        said = text_of(self.said)
        named = str(path) in said
        return same and named, named and ("damaged" in said or "has changed" in said)

    def damage_weights(self, rng: random.Random, spoil: Callable[[bytes, random.Random], bytes]) -> tuple[bool, bool]:
        self.copied(self.place / "whole")
        path = self.folder / "model.safetensors"
        path.write_bytes(spoil(path.read_bytes(), rng))
        refused = finished(["diagnose", str(self.folder), "--fail-on", "never"], self.said) == 2
        refused &= text_of(self.said).count("\n") == 1
        return self.goes_on() and refused, refused

    # --- two processes -----------------------------------------------------------------------------------------------

    def share(self, rng: random.Random) -> tuple[bool, bool]:
        first = started(self.fresh(), self.said)
        while not (self.folder / "checkpoints").exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, self.seconds / 4))
        other = rng.choice([["train", "--resume"], [*TRAIN, "--overwrite", "--output"]])
        code = finished([*other, str(self.folder)], self.other)
        alone = not first.is_alive()  # the first had finished, and the second did nothing wrong
        first.join()
        return first.exitcode == 0 and (alone or code == 2) and self.goes_on(), code == 2

    def race(self, rng: random.Random) -> tuple[bool, bool]:
        first = started(self.fresh(), self.said)
        time.sleep(rng.uniform(0, 0.02))
        second = started([*TRAIN, "--output", str(self.folder)], self.other)
        first.join()
        second.join()
        won = sorted(code or 0 for code in (first.exitcode, second.exitcode)) == [0, 2]
        return won and self.same(self.folder), won

    # --- a number that is not finite ---------------------------------------------------------------------------------

    def poison(self, rng: random.Random) -> tuple[bool, bool]:
        step, value, seed = rng.randrange(1, STEPS), rng.choice([math.nan, math.inf, -math.inf]), rng.random()
        code = finished(self.fresh(), self.said, lambda: spoil_a_weight(step, value, random.Random(seed)))
        said = text_of(self.said)
        named = said.count("\n") == 1 and all(
            re.search(words, said)
            for words in (rf"step ({step}|{step + 1})\b", r"\d\.(weight|bias)", "use a smaller lr")
        )
        kept = all(
            bool(torch.isfinite(weight).all())
            for path in self.folder.rglob("*.safetensors")
            for name, weight in load_file(path).items()
            if not name.startswith("optimizer.")
        )
        return code == 1 and named and kept and self.goes_on(), named


def spoil_a_weight(after: int, value: float, rng: random.Random) -> None:
    """Let a weight become a value after so many steps of the optimizer."""
    original = torch.optim.AdamW.step
    steps = iter(range(1, STEPS + 1))

    @torch.no_grad()
    def step(optimizer: torch.optim.AdamW, closure: None = None) -> None:
        original(optimizer, closure)
        if next(steps) == after:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            weights = rng.choice(parameters).view(-1)
            weights[rng.randrange(len(weights))] = value

    torch.optim.AdamW.step = step


@contextmanager
def small_disk(place: Path, kibibytes: int) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(place)], check=True, capture_output=True
    )
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def can_mount(place: Path) -> bool:
    try:
        with small_disk(place / "disk", 16):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip(data: bytes, rng: random.Random) -> bytes:
    while True:
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        if flipped.split() != data.split():  # JSON and TOML mean the same with other white space
            return bytes(flipped)


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    trials, kills = (3, 3) if options.quick else (20, 50)
    settings = {"command": " ".join(TRAIN), "steps": STEPS, "stopped_runs": STOPPED}
    report = Report("faults", options, key=("fault",), seeds=[0], settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        runs = Trials(place)
        faults: dict[str, tuple[Trial, str]] = {
            "kill -9": (runs.kill, "in_writes"),
            "kill -9, overwriting": (runs.overwrite, "old_run_gone"),
            "SIGTERM": (lambda rng: runs.stop(rng, signal.SIGTERM), "saved"),
            "Ctrl-C": (lambda rng: runs.stop(rng, signal.SIGINT), "saved"),
            "Ctrl-C twice": (lambda rng: runs.stop(rng, signal.SIGINT, times=2), "saved"),
            "disk full, limit": (runs.limit, "said"),
            "disk full, tmpfs": (runs.fill, "said"),
            "cut off": (lambda rng: runs.damage(rng, cut), "said"),
            "bit flipped": (lambda rng: runs.damage(rng, flip), "said"),
            "weights cut off": (lambda rng: runs.damage_weights(rng, cut), "refused"),
            "weights bit flipped": (lambda rng: runs.damage_weights(rng, flip), "refused"),
            "two processes": (runs.share, "refused"),
            "two at once": (runs.race, "one_won"),
            "not finite": (runs.poison, "named"),
        }
        for fault, (trial, noted) in faults.items():
            if not report.wants(fault=fault):
                continue
            if fault == "disk full, tmpfs" and not can_mount(place):
                print("no tmpfs can be mounted here: left out")
                continue
            rng = random.Random(fault)
            results = [trial(rng) for _ in range(kills if fault.startswith("kill") else trials)]
            lost = sum(not kept for kept, _ in results)
            report.add(fault=fault, trials=len(results), lost=lost, noted=f"{noted} {sum(note for _, note in results)}")
    report.finish()


if __name__ == "__main__":
    main()
