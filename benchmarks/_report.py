"""What every benchmark script shares: its options, its result file and its table.

A script declares what it measures, asks before each row whether to measure it, and adds the row::

    options = arguments(__doc__).parse_args()
    report = Report("depth", options, key=("method", "depth"), seeds=[0, 1, 2], settings={"width": 64})
    for depth in (10, 100):
        if report.wants(method="core", depth=depth):
            report.add(method="core", depth=depth, accuracy=train(depth))
    report.finish()

The file is written after every row, so an interrupted benchmark keeps what it has.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SOURCES = ROOT / "packages" / "unstuck" / "src", ROOT / "packages" / "sigmoid-core" / "src"
"""For scripts of others: the code of this checkout."""
PACKAGES = {"numpy": "numpy", "sklearn": "scikit-learn", "unstuck": "unstuck", "sigmoidcore": "sigmoid-core"}

Row = dict[str, Any]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; a script may add its own before it parses."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short run that shows that the script works")
    parser.add_argument("--threads", type=int, metavar="N", help="threads that PyTorch uses (default: its own choice)")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME=VALUE[,VALUE]",
        help="measure only rows whose key has one of these values; may be given several times, and all must hold",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write (default: benchmarks/results/)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the rows that the file has, if they are of this commit and these settings",
    )
    parser.add_argument(
        "--join",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="take the rows of another file, too, under the same condition: several processes can share the work",
    )
    return parser


class Report:
    """Collects the rows of one benchmark in a JSON file.

    Args:
        name: Name of the benchmark; the file is ``benchmarks/results/NAME.json``. A run with ``--quick`` writes
            ``NAME.quick.json`` and one with ``--only`` ``NAME.partial.json``, so neither replaces a full result.
        options: What `arguments` parsed. ``--threads`` takes effect here.
        key: Names of the columns that tell one row from another.
        seeds: The seeds of the run.
        settings: Everything else that a reader needs to repeat it. A resumed run must have the same.

    Raises:
        ValueError: ``--only`` names something that is not in the key.
    """

    def __init__(
        self,
        name: str,
        options: argparse.Namespace,
        *,
        key: Sequence[str],
        seeds: Sequence[int],
        settings: Mapping[str, Any],
    ) -> None:
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.key = tuple(key)
        self.seeds = list(seeds)
        self.only = _parsed_filters(options.only, self.key)
        self.path = options.output or RESULTS / f"{name}{_suffix(options)}.json"
        self.content: dict[str, Any] = {
            "benchmark": name,
            "command": _command(),
            "git": git_state(),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
            "threads": torch.get_num_threads(),
            "seeds": list(seeds),
            "settings": plain({"quick": options.quick, **settings}),
            "rows": [],
            "seconds": 0.0,
        }
        self.seconds_before = 0.0
        self.started = time.perf_counter()
        if options.resume and self.path.exists():
            self._take_rows(self.path)
        for path in options.join:
            self._take_rows(path)

    @property
    def rows(self) -> list[Row]:
        """The rows so far, as they stand in the file."""
        rows: list[Row] = self.content["rows"]
        return rows

    def wants(self, **key: Any) -> bool:
        """Whether the row with this key is still to be measured."""
        wanted = self._key_of(key)
        selected = all(str(wanted[self.key.index(name)]) in values for name, values in self.only.items())
        return selected and all(self._key_of(row) != wanted for row in self.rows)

    def add(self, **row: Any) -> None:
        """Appends a row and writes the file. NumPy and torch scalars and arrays are welcome."""
        added = plain(row)
        identity = self._key_of(added)
        self.rows[:] = [old for old in self.rows if self._key_of(old) != identity]
        self.rows.append(added)
        self._write()
        print("  ".join(f"{name}={_cell(value)}" for name, value in added.items() if _is_scalar(value)), flush=True)

    def finish(self) -> None:
        """Writes the file a last time, prints the table and says where the file is."""
        self._write()
        print(f"\n{table(self.rows)}\n\n{self.content['seconds']:.0f} s, written to {_relative(self.path)}")

    def _key_of(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        missing = [name for name in self.key if name not in row]
        if missing:
            raise ValueError(f"the key of a row is {self.key}, but {missing} is missing in {dict(row)}")
        return tuple(plain(row[name]) for name in self.key)

    def _take_rows(self, path: Path) -> None:
        before = json.loads(path.read_text())
        state = self.content["git"]
        if state["commit"] is None or state["dirty"] or before["git"]["dirty"]:
            reason = "uncommitted code cannot be told apart"
        else:
            differing = [name for name in ("git", "seeds", "settings", "threads") if before[name] != self.content[name]]
            reason = f"{' and '.join(differing)} differ" if differing else ""
        if reason:
            print(f"not resumed, all rows of {path.name} are measured again: {reason}", file=sys.stderr)
            return
        self.rows.extend(row for row in before["rows"] if self._key_of(row) not in map(self._key_of, self.rows))
        self.seconds_before += before["seconds"]

    def _write(self) -> None:
        self.content["seconds"] = round(self.seconds_before + time.perf_counter() - self.started, 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text(json.dumps(self.content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        os.replace(temporary, self.path)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as aligned plain text. Lists, such as the values of every seed, are left to the file."""
    columns = list(dict.fromkeys(name for row in rows for name, value in row.items() if _is_scalar(value)))
    cells = [[_cell(row[name]) if name in row else "" for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in [columns, *cells]) for i in range(len(columns))]
    numeric = [all(not isinstance(row.get(name), str | bool) for row in rows) for name in columns]

    def aligned(line: Sequence[str]) -> str:
        padded = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(line, widths, numeric, strict=True))
        return "  ".join(padded).rstrip()

    return "\n".join([aligned(columns), "  ".join("-" * width for width in widths), *map(aligned, cells)])


def plain(value: Any) -> Any:
    """What JSON can hold: scalars and arrays of NumPy and torch become Python's; nan and infinities become text."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value


def git_state() -> dict[str, Any]:
    """The commit, and whether the code of the packages or of the benchmarks differs from it."""
    commit = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    # Results are excluded: else the first benchmark of a series would make the second one dirty.
    paths = ("packages/*/src/*", "packages/*/pyproject.toml", "benchmarks", ":(exclude)benchmarks/results")
    changes = _output("git", "-C", str(ROOT), "status", "--porcelain", "--", *paths)
    return {"commit": commit or None, "dirty": changes != ""}


def machine() -> dict[str, Any]:
    """The processor, cores, memory in GiB and system that the numbers were measured on; a GPU if there is one."""
    facts: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "ram_gib": _memory_gib(),
        "os": f"{platform.system()} {platform.release()}",
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def versions() -> dict[str, str | None]:
    """The versions of Python and of the packages that the numbers depend on; None for one that is not installed."""
    # The installed metadata of torch does not tell a CPU build from a CUDA build; the module does.
    found: dict[str, str | None] = {"python": platform.python_version(), "torch": torch.__version__}
    for name, distribution in PACKAGES.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _suffix(options: argparse.Namespace) -> str:
    if options.quick:
        return ".quick"
    return ".partial" if options.only else ""


def _parsed_filters(texts: Sequence[str], key: Sequence[str]) -> dict[str, set[str]]:
    filters: dict[str, set[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals or name not in key:
            raise ValueError(f"--only {text!r}: write NAME=VALUE, with a NAME from {', '.join(key)}")
        filters.setdefault(name, set()).update(values.split(","))
    return filters


def _command() -> str:
    """The command as a reader would type it in the root of the repository: no path of this machine."""
    words = [_relative(Path(word)) if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", _relative(Path(sys.argv[0]).resolve()), *words])


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def _output(*command: str) -> str | None:
    """What the command prints, stripped; None if it fails or is not installed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)
