"""Where a training runs: device, precision and processes.

One process in full precision needs PyTorch alone; the library accelerate does several processes (DDP) and mixed
precision. Its wrappers take time at every step, which a small network feels (benchmarks/two_processes.py), so one
process in full precision does without them.

Every process reads the same batches and computes its share of each. `torchrun` or `accelerate launch` starts them.
"""

import atexit
import contextlib
import gc
import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

T = TypeVar("T")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("no", "bf16", "fp16")
_own_group: list[bool] = []
"""Not empty while a process group exists that this module has made."""


class LostError(RuntimeError):
    """Another process of the training has ended; the message is one line."""


def launched() -> tuple[int, int]:
    """The rank of this process and the number of processes, from the launcher's variables; (0, 1) without one."""
    try:
        return int(os.environ.get("RANK", "0")), max(1, int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError:
        return 0, 1


class Place:
    """Device, precision and processes of a training; making one joins the launched processes.

    Args:
        device: "cpu", "cuda" or "mps", or a torch.device.
        precision: "no", "bf16" or "fp16".
        wrap: use accelerate; None: if there are several processes, or mixed precision.

    Attributes:
        device: of the network.
        rank: of this process, from 0.
        count: number of processes.
        scaler: the gradient scaler of fp16, or None.

    Raises:
        ValueError: the processes cannot meet.

    Example:
        >>> place = Place()
        >>> str(place.device), place.count, place.share(100)
        ('cpu', 1, slice(0, 100, None))
    """

    def __init__(self, device: torch.device | str = "cpu", precision: str = "no", *, wrap: bool | None = None) -> None:
        self.rank, self.count = join()
        self.device = torch.device(device)
        self.precision = precision
        self.scaler: torch.amp.GradScaler | None = None
        self._accelerator: Any = None
        if wrap or (wrap is None and (self.count > 1 or precision != "no")):
            self._accelerator = _accelerator(self.device.type, precision)
            self.device, self.scaler = self._accelerator.device, self._accelerator.scaler

    @property
    def words(self) -> str:
        """Device, precision and processes, for the user; nothing for one process in full precision on the CPU."""
        words = [] if self.precision == "no" else [f"in {self.precision}"]
        words += [f"with {self.count} processes"] if self.count > 1 else []
        if not words and self.device.type == "cpu":
            return ""
        device = "cpu" if self.device.type == "cpu" else str(self.device)  # accelerate numbers the CPU, too
        return " ".join(["on", device, *words])

    # --- the training step -------------------------------------------------------------------------------------------

    def wrap(self, model: nn.Module) -> nn.Module:
        """Move a model to the device, with the state of the first process; returns the module to call in training."""
        if self.count > 1:
            model.load_state_dict(of_first({name: value.cpu() for name, value in model.state_dict().items()}))
        model.to(self.device)
        if self._accelerator is None:
            return model
        with together(), warnings.catch_warnings():  # accelerate passes on a deprecated argument
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            wrapped: nn.Module = self._accelerator.prepare_model(model)
        return wrapped

    def unwrap(self, model: nn.Module) -> None:
        """Let the model compute in full precision again."""
        if self._accelerator is not None:
            self._accelerator.unwrap_model(model, keep_fp32_wrapper=False)
            self._accelerator.free_memory()

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the optimizer of `step`."""
        self._optimizer = optimizer
        if self._accelerator is not None:
            self._optimizer = self._accelerator.prepare_optimizer(optimizer, device_placement=False)

    def accumulating(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Context for one part of a batch: the gradients are exchanged with the last part only."""
        return contextlib.nullcontext() if last or self.count == 1 else self._accelerator.no_sync(wrapped)

    def backward(self, loss: Tensor) -> None:
        """Backward pass of a loss that is this process's part of the sum."""
        if self._accelerator is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._accelerator.backward(loss * self.count if self.count > 1 else loss)  # DDP takes the mean

    def step(self, model: nn.Module, clip: float | None = None) -> None:
        """Step of the optimizer; the norm of the gradient is at most `clip`."""
        if clip is not None:
            clip_norm = self._accelerator.clip_grad_norm_ if self._accelerator else nn.utils.clip_grad_norm_
            clip_norm(model.parameters(), clip)
        self._optimizer.step()

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
        leave()
        self.rank, self.count = 0, 1


def join() -> tuple[int, int]:
    """Join the launched processes; rank and number of processes."""
    rank, count = launched()
    if count == 1 or distributed.is_initialized():
        return rank, count
    # A process group ends its threads when the last reference to it is dropped; a process that exits while one of these
    # threads runs may abort. This module, which DDP imports, keeps a reference for ever (in defaults of its functions)
    # to the group that exists at its first import: import it before there is one.
    from torch.distributed.nn import functional  # noqa: F401

    try:
        distributed.init_process_group(None if torch.cuda.is_available() else "gloo")
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"the {count} processes cannot connect ({error}): start them with torchrun, or unset RANK and WORLD_SIZE"
        ) from error
    _own_group.append(True)
    atexit.register(_leave_at_exit)
    return rank, count


def leave() -> None:
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
    leave()
    time.sleep(0.1)  # its threads get the interpreter, and free their tensors


def of_first(value: T) -> T:
    """The value of the first process, on every process."""
    if join()[1] == 1:
        return value
    values = [value]
    with together():
        distributed.broadcast_object_list(values, 0, device=torch.device("cpu"))
    return values[0]


def by_first(make: Callable[[], T]) -> T:
    """What `make` returns on the first process, the only one that calls it.

    If it raises there, the first process ends, and the others raise LostError.
    """
    if join()[1] == 1:
        return make()
    values = [make()] if launched()[0] == 0 else [None]
    return of_first(values)[0]  # type: ignore[return-value]


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


def place_of(device: str = "auto", precision: str = "no") -> Place:
    """The place for a training; under `torchrun` and `accelerate launch`, together with the other processes.

    Args:
        device: "auto" (the first available of CUDA, MPS and CPU), "cpu", "cuda" or "mps".
        precision: precision of matrix products: "no" (float32), "bf16" or "fp16"; weights and slopes stay float32.

    Raises:
        ValueError: this machine has no such device, or the precision needs another one.
        ModuleNotFoundError: accelerate is needed and not installed (extra `accelerate`).

    Example:
        >>> place_of("cpu").device
        device(type='cpu')
    """
    if device not in DEVICES or precision not in PRECISIONS:
        raise ValueError(
            f"device must be one of {', '.join(DEVICES)} and precision one of {', '.join(PRECISIONS)}, got {device!r} "
            f"and {precision!r}"
        )
    count = launched()[1]
    device = _available(device, count)
    if precision == "fp16" and device == "cpu":
        raise ValueError("fp16 needs a GPU, and the device is the CPU: use bf16")
    _check_launcher(precision, count)
    if (count > 1 or precision != "no") and importlib.util.find_spec("accelerate") is None:
        what = f"{count} processes need" if count > 1 else f"precision {precision} needs"
        raise ModuleNotFoundError(
            f'{what} accelerate, which is not installed: pip install "sigmoid-core[accelerate]"', name="accelerate"
        )
    return Place(device, precision)


def _accelerator(device: str, precision: str) -> Any:
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)  # forget the settings of an earlier training in this process
    # Every rank computes the same slopes: buffers need no broadcast at every step.
    parallel = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(cpu=device == "cpu", mixed_precision=precision, kwargs_handlers=[parallel])


def _available(device: str, count: int) -> str:
    """The device that is meant; ValueError if this machine does not have it."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "mps" and available["mps"] and count > 1:
        raise ValueError("several processes cannot share Apple's GPU: use the device cpu, or one process")
    if device != "auto":
        if not available[device]:
            raise ValueError(f"there is no device {device} here, or this PyTorch is built without it: use auto or cpu")
        return device
    if _set_by_accelerate("CPU"):
        return "cpu"
    available["mps"] &= count == 1
    return next(name for name, found in available.items() if found)


def _set_by_accelerate(name: str) -> bool:
    """Whether the configuration of accelerate uses something, such as the CPU."""
    return os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() in ("1", "true", "yes")


def _check_launcher(precision: str, count: int) -> None:
    """Refuse settings of `accelerate launch` that a run would ignore, with ValueError."""
    configured = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    cpu = _set_by_accelerate("CPU")
    if count == 1 and cpu and "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ:
        raise ValueError(
            "accelerate launch --cpu starts one process, whatever --num_processes says: use --multi_gpu instead of "
            "--cpu, with --device cpu for the run, or torchrun"
        )
    if configured not in ("no", precision):
        raise ValueError(
            f"accelerate is configured for the precision {configured}, and the run for {precision}: use the same"
        )
    for name, what in (("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")):
        if _set_by_accelerate(name):
            raise ValueError(f"accelerate is configured for {what}, which a run does not support: choose MULTI_GPU")
