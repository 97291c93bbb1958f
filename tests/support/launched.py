"""A script in two processes of `torchrun`."""

import os
import subprocess
import sys
from pathlib import Path

LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
CLEAN_EXIT = str(Path(__file__).with_name("clean_exit"))


def launched(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What is left of a script, or of `-m` and a module, that ran in both processes."""
    paths = filter(None, [CLEAN_EXIT, os.environ.get("PYTHONPATH")])
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [*LAUNCHER, *arguments],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
