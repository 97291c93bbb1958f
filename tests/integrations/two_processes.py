"""Two processes that call Python, as `torchrun` would start them: one pair for all functions of a test module."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

RANKS = 2
Work = Callable[..., Any]


class Works:
    """The functions of a module that both processes call; a decorator."""

    def __init__(self) -> None:
        self._works: list[Work] = []

    def __call__(self, work: Work) -> Work:
        self._works.append(work)
        return work

    def results(self, folder: Path, *given: Any) -> Callable[[Work], list[Any]]:
        """Call all of them with `given`; what one of them returned on each rank."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mp.spawn(_worker, args=(self._works, given, folder, port), nprocs=RANKS, join=True)
        found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]
        return lambda work: [of_rank[work.__name__] for of_rank in found]


def _worker(rank: int, works: list[Work], given: tuple[Any, ...], folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    torch.save({work.__name__: work(*given) for work in works}, folder / f"{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # a thread of the group that still drops a tensor would abort a process that ends as others do
