"""The variables by which `torchrun` tells a process its place; PyTorch reads them only when a group is made."""

import os


def launched() -> tuple[int, int]:
    """The rank of this process and the number of processes, from the launcher's variables; (0, 1) without one."""
    try:
        return int(os.environ.get("RANK", "0")), max(1, int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError:
        return 0, 1
