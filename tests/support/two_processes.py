"""Two processes that call Python, as `torchrun` would start them: one pair for all functions of a test module."""

import importlib
import inspect
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

RANKS = 2
ROWS = 30
"""Samples of a rank in a step."""
Function = Callable[[int], Any]


class TwoProcesses:
    """The functions that both processes call with their rank; a decorator for them.

    A test module has one, named `on_ranks`; the fixture `ranks` returns the results of a function, by rank.
    """

    def __init__(self) -> None:
        self.functions: list[Function] = []

    def __call__(self, function: Function) -> Function:
        self.functions.append(function)
        return function

    def results(self, module: str, folder: Path) -> Callable[[Function], list[Any]]:
        """Start the processes, and call every function in both."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        mp.spawn(_process, args=(module, folder, port), nprocs=RANKS)
        loaded = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]
        return lambda function: [results[function.__name__] for results in loaded]


def _process(rank: int, module: str, folder: Path, port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    functions = importlib.import_module(module).on_ranks.functions
    torch.save({function.__name__: function(rank) for function in functions}, folder / f"{rank}.pt")
    dist.destroy_process_group()
    os._exit(0)  # a thread of the group may still free a tensor, which would abort the exit of the interpreter


def rows_of(rank: int | None) -> slice:
    """The rows of a rank in the joined batch; None: all of them, for one process."""
    return slice(None) if rank is None else slice(rank * ROWS, (rank + 1) * ROWS)


def joined_batch(step: int) -> tuple[Tensor, Tensor]:
    """Samples and classes of a step; those of the second rank have another size and mean."""
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(RANKS * ROWS, 8, generator=generator)
    x[ROWS:] = x[ROWS:] * 1.5 + 0.3
    return x, torch.randint(0, 3, (RANKS * ROWS,), generator=generator)


def data_parallel(model: nn.Module, **options: Any) -> nn.Module:
    """DDP without broadcasting buffers, which would hide different slopes on the ranks."""
    new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    return DistributedDataParallel(model, **{"forward_sync_buffers" if new else "broadcast_buffers": False}, **options)


def sharded(model: nn.Module) -> nn.Module:
    """FSDP2 with every Linear in its own group."""
    for layer in list(model.modules()):
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    return fully_shard(model)  # type: ignore[no-any-return]


def full(parameter: Tensor) -> Tensor:
    """A copy of the whole of a parameter that may be sharded."""
    return (parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter).detach().clone()
