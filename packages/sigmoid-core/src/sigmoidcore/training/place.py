"""Where a training runs: device and processes, by PyTorch's own DistributedDataParallel.

Every process reads the same batches and computes its share of each. `torchrun` starts them.
"""

import atexit
import gc
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

from sigmoidcore.training.data import InputError
from unstuck._torch.launcher import launched
from sigmoidcore.language import _
from unstuck.language.errors import LostError

T = TypeVar("T")
_own_group: list[bool] = []
"""Not empty while a process group exists that this module has made."""


class Place:
    """Device and processes of a training; making one joins the launched processes.

    Args:
        device: "cpu", "cuda" or "mps", or a torch.device.

    Attributes:
        device: of the network.
        rank: of this process, from 0.
        count: number of processes.

    Raises:
        InputError: the processes cannot meet.

    Example:
        >>> place = Place()
        >>> str(place.device), place.count, place.share(100)
        ('cpu', 1, slice(0, 100, None))
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.rank, self.count = join_group()
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.count > 1:
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)

    @property
    def words(self) -> str:
        """Device and processes, for the user; nothing for one process on the CPU."""
        if self.count > 1:
            return _("on {device} with {count} processes", device=self.device, count=self.count)
        return _("on {device}", device=self.device) if self.device.type != "cpu" else ""

    # --- the training step -------------------------------------------------------------------------------------------

    def wrap(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, with the state of the first process; returns the module to call in training."""
        if self.count > 1:
            model.load_state_dict(of_first({name: value.cpu() for name, value in model.state_dict().items()}))
        model.to(self.device)
        if self.count == 1:
            return model
        # Every process computes the same slopes: buffers need no broadcast at every step.
        with together(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # 2.6 has only this
            return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def backward(self, loss: Tensor) -> None:
        """Backward pass of a loss that is this process's part of the sum."""
        loss = loss * self.count if self.count > 1 else loss  # DistributedDataParallel takes the mean
        loss.backward()  # type: ignore[no-untyped-call]

    # --- what processes exchange -------------------------------------------------------------------------------------

    def share(self, samples: int) -> slice:
        """This process's rows of a batch, possibly none; the sizes of two shares differ by at most 1."""
        return slice(samples * self.rank // self.count, samples * (self.rank + 1) // self.count)

    def total(self, values: Tensor) -> Tensor:
        """Sum of a tensor over the processes."""
        if self.count > 1:
            values = values.clone()
            with together():
                distributed.all_reduce(values)
        return values

    def gathered(self, rows: Tensor, samples: int) -> Tensor:
        """Rows of all processes, [samples, ...], from each one's `share`."""
        if self.count == 1:
            return rows
        share = self.share(samples)
        every = rows.new_zeros(samples, *rows.shape[1:])
        every[share] = rows[: share.stop - share.start]
        return self.total(every)

    def leave(self) -> None:
        """End the group: every process continues alone. A process group that the user has made stays."""
        leave_group()
        self.rank, self.count = 0, 1


def join_group() -> tuple[int, int]:
    """Join the launched processes; rank and number of processes."""
    rank, count = launched()
    if count == 1 or distributed.is_initialized():
        return rank, count
    # A process group ends its threads when the last reference to it is dropped; a process that exits while one of these
    # threads runs may abort. This module, which DDP imports, keeps a reference for ever (in defaults of its functions)
    # to the group that exists at its first import: import it before there is one.
    from torch.distributed.nn import functional  # noqa: F401

    with InputError.replacing(
        "the {count} processes cannot connect ({error}): start them with torchrun, or unset RANK and WORLD_SIZE",
        RuntimeError,
        ValueError,
        count=count,
    ):
        distributed.init_process_group(None if torch.cuda.is_available() else "gloo")
    _own_group.append(True)
    atexit.register(_leave_at_exit)
    return rank, count


def leave_group() -> None:
    """End the process group that this module has made, and wait until its threads have ended.

    A thread that frees a tensor needs Python; if the interpreter is about to end, PyTorch aborts ("terminate called
    without an active exception").
    """
    if _own_group:
        _own_group.clear()
        atexit.unregister(_leave_at_exit)
        if distributed.is_initialized():
            distributed.destroy_process_group()
        gc.collect()  # wrapped models are reference cycles that hold the group; freeing the last one joins its threads


def _leave_at_exit() -> None:
    """`leave` for a group that is in use until the process exits: variables may still refer to it."""
    leave_group()
    time.sleep(0.1)  # its threads get the interpreter, and free their tensors


def of_first(value: T) -> T:
    """The value of the first process, on every process."""
    if join_group()[1] == 1:
        return value
    values = [value]
    with together():
        distributed.broadcast_object_list(values, 0, device=torch.device("cpu"))
    return values[0]


def by_first(make: Callable[[], T]) -> T:
    """What `make` returns on the first process; if it raises there, the others raise LostError."""
    values = [make()] if join_group()[0] == 0 else []
    return of_first(values)[0]


@contextmanager
def together() -> Iterator[None]:
    """Context of a collective operation."""
    try:
        yield
    except RuntimeError as error:
        signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "process group")
        lost = isinstance(error, distributed.DistError) or any(sign in str(error) for sign in signs)
        if launched()[1] == 1 or not lost or isinstance(error, LostError):
            raise
        raise LostError("another process of this training has ended, so this one cannot continue") from error


def place_of(device: str = "auto") -> Place:
    """The place for a training; under `torchrun`, together with the other processes.

    Args:
        device: "auto" (the first available of CUDA, MPS and CPU), "cpu", "cuda" or "mps".

    Raises:
        InputError: this machine has no such device.

    Example:
        >>> place_of("cpu").device
        device(type='cpu')
    """
    count = launched()[1]
    mps = torch.backends.mps.is_available()
    if device == "mps" and mps and count > 1:
        raise InputError("several processes cannot share Apple's GPU: use the device cpu, or one process")
    available = {"cuda": torch.cuda.is_available(), "mps": mps and count == 1, "cpu": True}
    if device == "auto":
        device = next(name for name, found in available.items() if found)
    if not available.get(device, False):
        raise InputError(
            "there is no device {device} here, or this PyTorch is built without it: use auto or cpu", device=device
        )
    return Place(device)
