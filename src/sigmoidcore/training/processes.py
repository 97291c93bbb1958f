"""The processes that train one network together: `torchrun` or `accelerate launch` starts them, here they talk.

Each of them reads the same batches in the same order and takes its share of every one. What a process cannot know by
itself, it asks the others: `total` and `gathered` for numbers, `of_first` for what the first one decides, `outcome` for
what any of them may fail in.
"""

import atexit
import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")
_made_here: list[bool] = []
"""Not empty while there is a process group that `Processes` has made."""


class LostError(RuntimeError):
    """Another process of the training has ended; the message is one line."""


class ElsewhereError(RuntimeError):
    """What `outcome` raises where another process failed; the message is that one's, and says which one it was."""


def launched() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are, as the launcher says; (0, 1) without one."""
    try:
        return int(os.environ.get("RANK", "0")), max(1, int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError:
        return 0, 1


class Processes:
    """The processes of one training; made in each of them, it joins those that the launcher started.

    With one process nothing is exchanged, and what is given comes back as it is.

    Raises:
        ValueError: the processes do not meet.

    Attributes:
        rank: of this one, from 0.
        count: of all.

    Example:
        >>> processes = Processes()
        >>> processes.count, processes.share(100)
        (1, slice(0, 100, None))
    """

    def __init__(self) -> None:
        self.rank, self.count = launched()
        if self.count > 1 and not distributed.is_initialized():
            # A process group ends its threads when nothing refers to it any more, and a process that ends with such a
            # thread may abort. This module refers for ever, in defaults of its functions, to the group that there is
            # when it is first imported; DDP and FSDP import it.
            from torch.distributed.nn import functional  # noqa: F401

            try:
                distributed.init_process_group(None if torch.cuda.is_available() else "gloo")
                _made_here.append(True)
                atexit.register(_end)
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"the {self.count} processes cannot meet ({error}): start them with torchrun, or unset RANK and "
                    "WORLD_SIZE"
                ) from error

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes files and speaks to the user."""
        return self.rank == 0

    def share(self, samples: int) -> slice:
        """The rows of a batch that are this process's; there may be none, and shares differ by at most 1."""
        return slice(samples * self.rank // self.count, samples * (self.rank + 1) // self.count)

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes of a tensor, which all have in the same shape and dtype."""
        if self.count > 1:
            values = values.clone()
            with self.together():
                distributed.all_reduce(values)
        return values

    def gathered(self, mine: Tensor, samples: int) -> Tensor:
        """Rows of all processes, [samples, ...], from each one's `share`, in their order."""
        if self.count == 1:
            return mine
        rows = self.share(samples)
        whole = mine.new_zeros(samples, *mine.shape[1:])
        whole[rows] = mine[: rows.stop - rows.start]
        return self.total(whole)

    def of_first(self, value: T) -> T:
        """What the first process has, on all."""
        if self.count == 1:
            return value
        held = [value]
        with self.together():
            distributed.broadcast_object_list(held, 0, device=torch.device("cpu"))
        return held[0]

    def by_first(self, make: Callable[[], T]) -> T:
        """What `make` returns on the first process, which alone calls it, on all.

        Raises:
            Exception: what it raised, on the first process.
            ElsewhereError: the same, on the others.
        """
        if self.count == 1:
            return make()
        made: list[T] = []
        error: Exception | None = None
        if self.is_first:
            try:
                made.append(make())
            except Exception as problem:
                error = problem
        made, words = self.of_first((made, str(error)))
        if error is not None:
            raise error
        if not made:
            raise ElsewhereError(words)
        return made[0]

    def first_said(self, value: T | None) -> T | None:
        """The value of the first process that has one, on all."""
        if self.count == 1:
            return value
        values: list[T | None] = [None] * self.count
        with self.together():
            distributed.all_gather_object(values, value)
        return next((found for found in values if found is not None), None)

    def outcome(self, make: Callable[[], T]) -> T:
        """What `make` returns on this process, if it raises on none.

        Raises:
            Exception: what it raised here.
            ElsewhereError: it raised on another process only.
        """
        if self.count == 1:
            return make()
        error: Exception | None = None
        try:
            made = make()
        except Exception as problem:
            error = problem
        words = None if error is None else f"{error} (on process {self.rank + 1} of {self.count})"
        said = self.first_said(words)
        if error is not None:
            raise error
        if said is not None:
            raise ElsewhereError(said)
        return made

    @torch.no_grad()
    def same(self, model: nn.Module) -> None:
        """Give a model the weights and buffers that it has on the first process."""
        if self.count == 1:
            return
        tensors = [t for t in model.state_dict().values() if isinstance(t, Tensor) and t.numel()]
        flat = torch.cat([t.flatten().view(torch.uint8) for t in tensors])
        with self.together():
            distributed.broadcast(flat, 0)
        for tensor, part in zip(tensors, torch.split(flat, [t.nbytes for t in tensors]), strict=True):
            tensor.copy_(part.clone().view(tensor.dtype).view_as(tensor))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around what all processes do together.

        Raises:
            LostError: another one has ended meanwhile.
        """
        try:
            yield
        except RuntimeError as error:
            if not self._is_of_another(error):
                raise
            raise LostError("another process of this training has ended, and the rest cannot go on") from error

    def _is_of_another(self, error: RuntimeError) -> bool:
        """Whether an error means that another process is gone."""
        words = str(error)
        signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "process group")
        said = not isinstance(error, LostError) and any(sign in words for sign in signs)
        return self.count > 1 and (said or isinstance(error, distributed.DistError))

    def leave(self) -> None:
        """Say goodbye to the others: each goes on by itself. A process group that is not of `Processes` stays."""
        part()
        self.rank, self.count = 0, 1


def part() -> None:
    """Let go of the process group, if `Processes` has made it, and wait until its threads have ended.

    One that drops a tensor needs Python for it; if Python is about to end, PyTorch aborts: "terminate called without an
    active exception".
    """
    if _made_here:
        _made_here.clear()
        atexit.unregister(_end)
        if distributed.is_initialized():
            distributed.destroy_process_group()
        gc.collect()  # wrapped models are in cycles and refer to the group; the last one who does waits for its threads


def _end() -> None:
    """`part` from a group that the process has kept to its end; its variables may refer to it still."""
    part()
    time.sleep(0.1)  # its threads have Python, and drop what they have to drop
