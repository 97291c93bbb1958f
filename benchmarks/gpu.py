"""On a GPU: a step of Sigmoid Core over the same network of sigmoids, and over ReLU + LayerNorm; what following costs.

`make gpu` (20 minutes). Three sizes; eager, compiled and, on a GPU, CUDA graphs; float32, and autocast to float16 with
a GradScaler and to bfloat16. The compared steps take turns (`speed.Clock`); a figure is the median of the ratios of
the rounds. Memory: the most that a step of each network had allocated. **Followed**: 200 steps with the Equalizer, and
with a Monitor, at their default cadence, over the same steps alone. **Processes**: a step with DistributedDataParallel
over NCCL, if there are two GPUs. On a CPU (`--device cpu --quick`) the same code runs in a test.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn

import sigmoidcore as sc
import unstuck
from _report import Report, arguments
from speed import Action, Clock, Size, milliseconds, ratio

SIZES = (100, 256, 4096), (30, 1024, 4096), (12, 4096, 4096)
INPUTS, CLASSES = 64, 10
PRECISIONS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
MODES = {"eager": None, "compiled": "default", "CUDA graphs": "reduce-overhead"}
FOLLOWED, PAIRS = 200, 3
DISTRIBUTED = """
import os, sys, time, torch
from torch import nn
import sigmoidcore as sc
torch.distributed.init_process_group("nccl")
rank = torch.distributed.get_rank()
torch.cuda.set_device(rank)
depth, width, batch, steps = map(int, sys.argv[1:])
model = sc.MLP(64, width, depth, 10).cuda()
x, y = torch.randn(batch, 64).cuda(), torch.randint(10, (batch,)).cuda()
sc.prepare(model, x)
parallel = nn.parallel.DistributedDataParallel(model, device_ids=[rank])
optimizer = torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)
with sc.Equalizer(model, optimizer):
    for step in range(steps):
        if step == steps // 2:
            torch.cuda.synchronize()
            began = time.perf_counter()
        optimizer.zero_grad()
        nn.functional.cross_entropy(parallel(x), y).backward()
        optimizer.step()
torch.cuda.synchronize()
if rank == 0:
    print(1000 * (time.perf_counter() - began) / (steps - steps // 2))
torch.distributed.destroy_process_group()
"""


def networks(size: Size, device: torch.device) -> dict[str, nn.Module]:
    """The networks that are compared: of cores, of plain sigmoids, and of ReLU + LayerNorm."""
    depth, width, _ = size
    torch.manual_seed(0)
    widths = [INPUTS] + [width] * depth
    normalised = [
        layer
        for fan_in, fan_out in pairwise(widths)
        for layer in (nn.Linear(fan_in, fan_out), nn.LayerNorm(fan_out), nn.ReLU())
    ]
    found = {
        "core": sc.MLP(INPUTS, width, depth, CLASSES),
        "sigmoid": nn.Sequential(*sc.MLP(INPUTS, width, depth, CLASSES, activation=lambda _: nn.Sigmoid()).children()),
        "relu + layernorm": nn.Sequential(*normalised, nn.Linear(width, CLASSES)),
    }
    return {name: model.to(device) for name, model in found.items()}


def batch_of(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.randn(size[2], INPUTS, device=device), torch.randint(CLASSES, (size[2],), device=device)


def step(model: nn.Module, x: Tensor, y: Tensor, precision: torch.dtype | None, mode: str | None) -> Action:
    """A whole training step, compiled or not."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    run = model if mode is None else torch.compile(model, mode=mode)
    scaler = torch.amp.GradScaler(x.device.type, enabled=precision == torch.float16)
    cast = nullcontext() if precision is None else torch.autocast(x.device.type, precision)

    def action() -> None:
        optimizer.zero_grad()
        with cast:
            loss = nn.functional.cross_entropy(run(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return action


def compared(clock: Clock, size: Size, precision: str, mode: str) -> dict[str, float]:
    """Milliseconds of a step of each network, the ratios, and on a GPU the most memory."""
    x, y = batch_of(size, clock.device)
    models = networks(size, clock.device)
    actions = {name: step(model, x, y, PRECISIONS[precision], MODES[mode]) for name, model in models.items()}
    taken = clock.compared(actions)
    found = {f"{name} ms": milliseconds(times) for name, times in taken.items()}
    found |= {f"core over {other}": ratio(taken, "core", other) for other in models if other != "core"}
    if clock.device.type == "cuda":
        for name, action in actions.items():
            torch.cuda.reset_peak_memory_stats()
            action()
            found[f"{name} MiB"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return found


def followed(device: torch.device, size: Size, follower: str, steps: int) -> float:
    """Seconds of a training of cores with a follower, or alone."""
    x, y = batch_of(size, device)
    model = networks(size, device)["core"]
    sc.prepare(model, x)
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)
    with ExitStack() as stack:
        began = time.perf_counter()
        if follower == "equalizer":
            stack.enter_context(sc.Equalizer(model, optimizer))
        elif follower == "monitor":
            stack.enter_context(unstuck.Monitor(model))
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began


def overhead(device: torch.device, size: Size, follower: str, steps: int, pairs: int) -> dict[str, float]:
    """The time of a followed training over that of the same one alone: the median of some pairs, after a first one."""
    ratios = sorted(
        followed(device, size, follower, steps) / followed(device, size, "nobody", steps) for _ in range(pairs + 1)
    )
    return {"ratio": round(ratios[len(ratios) // 2], 3), "lowest": round(ratios[0], 3), "highest": round(ratios[-1], 3)}


def distributed(size: Size, steps: int) -> dict[str, float]:
    """Milliseconds of a step in two processes with NCCL and the Equalizer."""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
        script.write(DISTRIBUTED)
        script.flush()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script.name]
        command += [str(number) for number in (*size, steps)]
        return {
            "core ms": float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        }


def main() -> None:
    """Measure, on a GPU unless the options say otherwise."""
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="where the networks run")
    options = parser.parse_args()
    device, quick = torch.device(options.device), options.quick
    on_gpu = device.type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU; --device cpu --quick shows that the script works")
    clock = Clock(device, 0.2 if quick else 15.0)
    sizes = ((3, 16, 32),) if quick else SIZES
    steps, pairs = (6, 1) if quick else (FOLLOWED, PAIRS)
    card = torch.cuda.get_device_name() if on_gpu else "CPU"
    settings = {"device": card, "inputs": INPUTS, "seconds": clock.seconds, "steps": steps}
    report = Report("gpu", options, key=("figure", "size"), seeds=[0], settings=settings)

    def row(figure: str, size: Size, measured: Callable[[], Mapping[str, float]]) -> None:
        shown = " x ".join(map(str, size))
        if report.wants(figure=figure, size=shown):
            report.add(figure=figure, size=shown, **measured())

    for size in sizes:
        for follower in ("equalizer", "monitor"):
            row(follower, size, lambda size=size, who=follower: overhead(device, size, who, steps, pairs))  # type: ignore[misc]
        for mode in MODES if on_gpu else ("eager", "compiled"):
            for precision in PRECISIONS:
                row(
                    f"{mode}, {precision}", size,
                    lambda size=size, mode=mode, precision=precision: compared(clock, size, precision, mode),  # type: ignore[misc]
                )  # fmt: skip
    if on_gpu and torch.cuda.device_count() > 1:
        row("two processes, NCCL", sizes[1], lambda: distributed(sizes[1], FOLLOWED))
    report.finish()


if __name__ == "__main__":
    main()
