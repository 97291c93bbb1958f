"""Scripts in processes of their own: in two of `torchrun`, or in one that is killed."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
CLEAN_EXIT = str(Path(__file__).with_name("clean_exit"))


def launched(*arguments: str, folder: Path, launcher: list[str] = TWO) -> subprocess.CompletedProcess[str]:
    """What is left of a script, or of `-m` and a module, that ran in both processes."""
    paths = filter(None, [CLEAN_EXIT, os.environ.get("PYTHONPATH")])
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [*launcher, *arguments],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


def example(
    name: str, *arguments: str, folder: Path, kill: int = 0, launcher: list[str] = TWO
) -> subprocess.CompletedProcess[str]:
    """An example; its last process is killed at step `kill`, or `folder/RANK.pt` has the `Outcome` of each."""
    script = Path(__file__).parents[2] / "examples" / f"{name}.py"
    options = [__file__, str(kill), str(folder), str(script), *arguments, "--folder", str(folder)]
    return launched(*options, folder=folder, launcher=launcher)


def outcome_of(model: torch.nn.Module, equalizer: Any, monitor: Any) -> dict[str, Any]:
    """What a training ended with: weights, and what the Equalizer and the Monitor recorded."""
    return {
        "weights": {name: tensor.detach().clone() for name, tensor in model.state_dict().items()},
        "samples": [vars(sample) for sample in equalizer.history],
        "measured": [measurement.step for measurement in monitor.measurements],
    }


def _main(kill: int, folder: Path, script: str, *arguments: str) -> None:
    rank, ranks, steps = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)), []

    def count(*step: Any) -> None:
        steps.append(step)
        if len(steps) == kill and rank == ranks - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    register_optimizer_step_post_hook(count)
    torch.save(outcome_of(*runpy.run_path(script)["main"](arguments)), folder / f"{rank}.pt")


if __name__ == "__main__":
    _main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
