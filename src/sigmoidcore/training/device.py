"""Where a training runs: on which device, in which precision, and in how many processes.

`Place` is one process in full precision and needs PyTorch alone. Everything else is `Accelerated`: the library
`accelerate` wraps the network for several processes (DDP), and casts and scales for mixed precision. One process in
full precision stays plain because accelerate's wrappers take their time at every step, which a small network feels
(benchmarks/two_processes.py), and give nothing there.
"""

import contextlib
import importlib.util
import os
import warnings
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from sigmoidcore.training.processes import Processes

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("no", "bf16", "fp16")
LARGE = 4096
"""Weights of a layer that are gathered for it alone, where they are spread over the processes."""


class Place:
    """One process on one device, in full precision.

    Args:
        device: where the network is.
        processes: that train together.

    Attributes:
        device: where the network is.
        processes: that train together.
        scaler: of the gradient, where the precision needs one.
        sharded: whether the weights are spread over the processes, and not copied to each.

    Example:
        >>> place = Place()
        >>> str(place.device), place.processes.count
        ('cpu', 1)
    """

    scaler: torch.amp.GradScaler | None = None
    sharded = False

    def __init__(self, device: torch.device | str = "cpu", processes: Processes | None = None) -> None:
        self.device = torch.device(device)
        self.processes = processes or Processes()

    @property
    def words(self) -> str:
        """Where it is, for a line; nothing for the CPU in one process."""
        return "" if self.device.type == "cpu" else f"on {self.device}"

    def take(self, model: nn.Module) -> None:
        """Move a model to the device, the same on all processes."""
        model.to(self.device)
        self.processes.same(model)

    def wrapped(self, model: nn.Module) -> nn.Module:
        """What is called in the place of the model while it trains."""
        return model

    def unwrap(self, model: nn.Module) -> None:
        """Undo to the model itself what `wrapped` has done to it."""

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let `step` be that of this optimizer."""
        self._optimizer = optimizer

    def accumulating(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Around the passes of a part of a batch: gradients are exchanged with the last one."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """The gradient of a loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def clip(self, model: nn.Module, largest: float) -> None:
        """Shorten the gradient of all parameters together to a size."""
        nn.utils.clip_grad_norm_(model.parameters(), largest)

    def step(self) -> None:
        """Step the optimizer."""
        self._optimizer.step()


class Accelerated(Place):
    """Several processes, or mixed precision, by the library accelerate.

    Args:
        device: "cpu", "cuda" or "mps".
        precision: "no", "bf16" or "fp16".
        processes: that train together.
    """

    def __init__(self, device: str, precision: str, processes: Processes) -> None:
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState
        from accelerate.utils import GradientAccumulationPlugin

        AcceleratorState._reset_state(True)  # what another training in this process asked for
        # Slopes are the same on all ranks by themselves: buffers need no broadcast at every step.
        parallel = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        self._accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision=precision,
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[parallel],
        )
        super().__init__(self._accelerator.device, processes)
        self.scaler = self._accelerator.scaler
        self._precision = precision

    @property
    def words(self) -> str:
        """Where it is, for a line."""
        words = [self.device.type if self.device.type == "cpu" else str(self.device)]
        words += [] if self._precision == "no" else [f"in {self._precision}"]
        words += [f"with {self.processes.count} processes"] if self.processes.count > 1 else []
        words += ["that share the weights"] if self.sharded else []
        return " ".join(["on", *words])

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model in DistributedDataParallel, or casting its inputs, or both."""
        with self.processes.together(), warnings.catch_warnings():  # about an argument that accelerate passes on
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            wrapped: nn.Module = self._accelerator.prepare_model(model)
        return wrapped

    def unwrap(self, model: nn.Module) -> None:
        """Let the model compute in full precision again."""
        self._accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        self._accelerator.free_memory()

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let `step` scale where the precision needs it."""
        self._optimizer = optimizer
        self._prepared = self._accelerator.prepare_optimizer(optimizer, device_placement=False)

    def accumulating(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """Without an exchange of gradients, but for the last part."""
        return contextlib.nullcontext() if last else self._accelerator.no_sync(wrapped)

    def backward(self, loss: Tensor) -> None:
        """The gradient of a loss, scaled where the precision needs it."""
        self._accelerator.backward(loss)

    def clip(self, model: nn.Module, largest: float) -> None:
        """Shorten the unscaled gradient."""
        self._accelerator.clip_grad_norm_(model.parameters(), largest)

    def step(self) -> None:
        """Step the optimizer, or skip the step where a scaled gradient is not finite."""
        self._prepared.step()


class Sharded(Accelerated):
    """Several processes over which the weights are spread, with their gradients and what AdamW remembers (FSDP2)."""

    sharded = True

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model itself: large layers gather their weights when they run, all others with the model."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self._accelerator.prepare_model(model, evaluation_mode=True)  # for the precision
        with self.processes.together():
            mesh = init_device_mesh(self.device.type, (self.processes.count,))
            # From here only `torch.compile` would take the process group, and PyTorch's caches keep the mesh for ever:
            # the group would never end (`processes.part`).
            getattr(mesh, "_pg_registry", {}).clear()
            for module in model.modules():
                if sum(p.numel() for p in module.parameters(recurse=False)) >= LARGE and module is not model:
                    fully_shard(module, mesh=mesh)
            fully_shard(model, mesh=mesh)
        return model

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let `step` be that of this optimizer."""
        Place.attach(self, optimizer)

    def accumulating(self, wrapped: nn.Module, last: bool) -> AbstractContextManager[Any]:
        """With an exchange for every part: without it, whole gradients would be kept."""
        return contextlib.nullcontext()

    def clip(self, model: nn.Module, largest: float) -> None:
        """Shorten the gradient of all parameters together to a size."""
        Place.clip(self, model, largest)

    def step(self) -> None:
        """Step the optimizer."""
        Place.step(self)


def place_of(device: str = "auto", precision: str = "no", shard: bool = False) -> Place:
    """The place for a training; under `torchrun` and `accelerate launch`, together with the other processes.

    Args:
        device: "auto" (the first there is of CUDA, MPS and CPU), "cpu", "cuda" or "mps".
        precision: "no" (float32), "bf16" or "fp16", of matrix products; weights and slopes stay float32.
        shard: spread the weights over the processes instead of copying them.

    Raises:
        ValueError: this machine has no such device, or the precision needs another one.
        ModuleNotFoundError: accelerate is needed and not installed (extra `accelerate`).

    Example:
        >>> place_of("cpu").device
        device(type='cpu')
    """
    if device not in DEVICES or precision not in PRECISIONS:
        raise ValueError(
            f"device is one of {', '.join(DEVICES)} and precision one of {', '.join(PRECISIONS)}, got {device!r} and "
            f"{precision!r}"
        )
    processes = Processes()
    found = _found(device, processes.count)
    if precision == "fp16" and found == "cpu":
        raise ValueError("fp16 needs a GPU, and the device is the CPU: take bf16")
    _check_launcher(precision, processes.count)
    if shard and (processes.count == 1 or precision == "fp16"):
        why = "of one process: start several with torchrun" if processes.count == 1 else "with fp16: take bf16"
        raise ValueError(f"--shard spreads the weights over processes, which it cannot {why}")
    if processes.count == 1 and precision == "no":
        return Place(found, processes)
    if not _has_accelerate():
        what = f"{processes.count} processes need" if processes.count > 1 else f"precision {precision} needs"
        raise ModuleNotFoundError(
            f'{what} accelerate, which is not installed: pip install "sigmoid-core[accelerate]"', name="accelerate"
        )
    return (Sharded if shard else Accelerated)(found, precision, processes)


def _has_accelerate() -> bool:
    return importlib.util.find_spec("accelerate") is not None


def _found(device: str, processes: int) -> str:
    """The device that is meant."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "mps" and there["mps"] and processes > 1:
        raise ValueError("several processes cannot share Apple's GPU: take the device cpu, or one process")
    if device != "auto":
        if not there[device]:
            raise ValueError(f"there is no device {device} here, or this PyTorch is built without it: take auto or cpu")
        return device
    if _wants_cpu() or processes > 1:
        there["mps"] = False
    if _wants_cpu():
        there["cuda"] = False
    return next(name for name, is_there in there.items() if is_there)


def _wants_cpu() -> bool:
    """Whether accelerate is configured for the processor."""
    return os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")


def _check_launcher(precision: str, processes: int) -> None:
    """Refuse what `accelerate launch` was configured for and would not be done."""
    if processes == 1 and _wants_cpu() and "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ:
        raise ValueError(
            "accelerate launch --cpu starts one process, whatever --num_processes says, or several by MPI, which a run "
            "does not use: give it --multi_gpu instead of --cpu, and --device cpu to the run, or use torchrun"
        )
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", precision):
        raise ValueError(
            f"accelerate is configured for the precision {asked}, and the run for {precision}: give both the same"
        )
    for name, what in (("FSDP", "FSDP"), ("DEEPSPEED", "DeepSpeed"), ("MEGATRON_LM", "Megatron-LM")):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise ValueError(
                f"accelerate is configured for {what}, which a run does not take from there: choose MULTI_GPU in it, "
                "and --shard here"
            )
