"""Speed: networks of cores against plain sigmoids, against their matrix products alone, and against PyTorch's own RNNs.

Everything that is compared runs in one process and takes turns, in random order; a figure is the median of the ratios
of the rounds. On a CPU the time is the processor's where there is one thread, so that what else the machine does
counts little, and the clock's where there are more. On a GPU it is that between two events, after a warm-up.

The floor of a step is the three matrix products of each hidden layer (forward, input gradient, weight gradient) alone,
written into prepared buffers.
"""

import argparse
import copy
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import sigmoidcore as sc
from _report import Report, arguments
from sigmoidcore.estimators import SigmoidCoreClassifier

SIZES = (1000, 64, 100), (100, 256, 256), (30, 1024, 512), (10_000, 64, 100)
SMALL_SIZES = (3, 64, 100), (10, 64, 100), (30, 64, 100)
GPU_SIZES = (1000, 256, 4096), (100, 4096, 4096)
QUICK_SIZES = ((20, 64, 100),)
DEPTHS = (10, 30, 100, 300, 1000, 3000, 10_000)
INPUTS, CLASSES = 64, 10
SECONDS = 40.0
"""Time that is given to one comparison, at least five rounds."""
RNN_STEPS, RNN_UNITS, RNN_BATCH = 784, 128, 64
HIDDEN, EPOCHS, BATCH = ((100,), (64,) * 3, (64,) * 10, (64,) * 30), 20, 200
"""Of estimators."""

Action = Callable[[], object]
Size = tuple[int, int, int]


class Clock:
    """Measures actions that take turns.

    Args:
        device: where they run.
        seconds: for one comparison, about.
    """

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device = device
        self.seconds = seconds

    def compared(self, actions: Mapping[str, Action], least: int = 5) -> dict[str, list[float]]:
        """Seconds of every action in every round, after one round to warm up."""
        started = time.perf_counter()
        for action in actions.values():
            self.took(action)
        once = time.perf_counter() - started
        rounds = max(least, min(200, int(self.seconds / once)))
        order = random.Random(0)
        taken: dict[str, list[float]] = {name: [] for name in actions}
        for _ in range(rounds):
            for name in order.sample(list(actions), len(actions)):
                taken[name].append(self.took(actions[name]))
        return taken

    def took(self, action: Action) -> float:
        """Seconds of one call."""
        if self.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            action()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1000
        now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        started = now()
        action()
        return now() - started


def ratio(taken: Mapping[str, list[float]], name: str, over: str) -> float:
    """Median over the rounds of the ratio of two times."""
    return round(statistics.median(a / b for a, b in zip(taken[name], taken[over], strict=True)), 4)


def milliseconds(values: list[float]) -> float:
    return round(statistics.median(values) * 1e3, 3)


def networks(size: Size, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
    """A network of cores, the plain one of sigmoids as an `nn.Sequential`, inputs and classes."""
    depth, width, batch = size
    torch.manual_seed(0)
    x, y = torch.randn(batch, INPUTS), torch.randint(0, CLASSES, (batch,))
    cores = sc.MLP(INPUTS, width, depth, CLASSES)
    for core in list(cores)[1::2]:
        core.set_shift(0.1 * torch.randn(width))
    plain = nn.Sequential(*sc.MLP(INPUTS, width, depth, CLASSES, activation=lambda _: nn.Sigmoid()).children())
    return cores.to(device, dtype), plain.to(device, dtype), x.to(device, dtype), y.to(device)


def step(model: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer | None = None) -> Action:
    """Forward and backward, and with an optimizer its step."""

    def action() -> None:
        for parameter in parameters:
            parameter.grad = None
        nn.functional.cross_entropy(model(x).float(), y).backward()
        if optimizer is not None:
            optimizer.step()

    parameters = list(model.parameters())
    return action


def products(size: Size, device: torch.device, dtype: torch.dtype) -> Action:
    """The floor: three matrix products a hidden layer, into prepared buffers."""
    depth, width, batch = size
    weights = [torch.randn(width, width, device=device, dtype=dtype) / math.sqrt(width) for _ in range(depth)]
    outputs = [torch.randn(batch, width, device=device, dtype=dtype) for _ in range(depth + 1)]
    gradients = [torch.empty_like(w) for w in weights]
    pair = [torch.randn(batch, width, device=device, dtype=dtype) for _ in range(2)]

    def action() -> None:
        for layer in range(depth):
            torch.mm(outputs[layer], weights[layer].t(), out=outputs[layer + 1])
        for layer in reversed(range(depth)):
            g, before = pair[layer % 2], pair[1 - layer % 2]
            torch.mm(g.t(), outputs[layer], out=gradients[layer])
            torch.mm(g, weights[layer], out=before)

    return action


class Loop(nn.Module):
    """The layers of a network in a forward that calls torch.tanh, which `convert` rewrites."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        *hidden, self.last = (layer for layer in network.children() if isinstance(layer, nn.Linear))
        self.layers = nn.ModuleList(hidden)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        output: Tensor = self.last(x)
        return output


def converted(clock: Clock, size: Size) -> dict[str, float]:
    """A step of converted networks over that of `MLP`: an nn.Sequential, one of blocks, and a loop in a forward."""
    cores, plain, x, y = networks(size, clock.device, torch.float32)
    layers = list(copy.deepcopy(plain))
    models = {
        "cores": copy.deepcopy(cores),
        "plain": copy.deepcopy(plain),
        "sequential": copy.deepcopy(plain),
        "blocks": nn.Sequential(*(nn.Sequential(*layers[i : i + 2]) for i in range(0, len(layers), 2))),
        "loop": Loop(copy.deepcopy(plain)),
    }
    for name in ("sequential", "blocks", "loop"):
        sc.convert(models[name], centered=True)
    taken = clock.compared({name: step(model, x, y) for name, model in models.items()})
    return {
        **{f"{name}_over_mlp": ratio(taken, name, "cores") for name in ("sequential", "blocks", "loop")},
        "mlp_over_plain": ratio(taken, "cores", "plain"),
        "sequential_over_plain": ratio(taken, "sequential", "plain"),
        "mlp_ms": milliseconds(taken["cores"]),
        "rounds": len(taken["cores"]),
    }


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps for the way back, each storage once, without the parameters."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        output = model(x)
    for tensor in [x, *model.parameters(), *model.buffers()]:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    del output
    return sum(storages.values())


def training_step(clock: Clock, size: Size, dtype: torch.dtype) -> dict[str, float]:
    """Forward and backward over plain; with Adam over the floor; memory over plain; folded inference over plain."""
    cores, plain, x, y = networks(size, clock.device, dtype)
    modules = nn.Sequential(*copy.deepcopy(cores).children())
    trained, other = copy.deepcopy(cores), copy.deepcopy(plain)
    actions = {
        "cores": step(cores, x, y),
        "plain": step(plain, x, y),
        "plain again": step(copy.deepcopy(plain), x, y),
        "modules": step(modules, x, y),
        "floor": products(size, clock.device, dtype),
        "with Adam": step(trained, x, y, torch.optim.Adam(trained.parameters(), lr=1e-6, fused=True)),
        "plain with Adam": step(other, x, y, torch.optim.Adam(other.parameters(), lr=1e-6, fused=True)),
    }
    taken = clock.compared(actions)
    inferring = {"cores": cores, "plain": plain}
    if size[0] <= 1000:
        inferring["folded"] = sc.fold(cores)

    def inference(model: nn.Module) -> Action:
        def action() -> None:
            with torch.no_grad():
                model(x)

        return action

    # Copies, made one after the other: where the weights lie in memory is worth a tenth to a narrow network.
    without = clock.compared({name: inference(copy.deepcopy(model)) for name, model in inferring.items()})
    depth, width, batch = size
    flops = 6 * depth * width * width * batch
    return {
        "cores_over_plain": ratio(taken, "cores", "plain"),
        "plain_over_plain": ratio(taken, "plain again", "plain"),
        "modules_over_plain": ratio(taken, "modules", "plain"),
        "with_adam_over_floor": ratio(taken, "with Adam", "floor"),
        "plain_with_adam_over_floor": ratio(taken, "plain with Adam", "floor"),
        "cores_over_floor": ratio(taken, "cores", "floor"),
        "plain_over_floor": ratio(taken, "plain", "floor"),
        "share_of_product_rate": round(1 / ratio(taken, "cores", "floor"), 4),
        "cores_gigaflops": round(flops / statistics.median(taken["cores"]) / 1e9, 4),
        "saved_over_plain": round(saved_bytes(cores, x) / saved_bytes(plain, x), 4),
        "folded_over_plain": ratio(without, "folded", "plain") if "folded" in without else math.nan,
        "cores_inference_over_plain": ratio(without, "cores", "plain"),
        "plain_ms": milliseconds(taken["plain"]),
        "rounds": len(taken["plain"]),
    }


def preparing(clock: Clock, size: Size) -> dict[str, float]:
    """`prepare` and `calibrate` in training steps with Adam."""
    cores, _, x, y = networks(size, clock.device, torch.float32)
    optimizer = torch.optim.Adam(cores.parameters(), lr=1e-6, fused=True)
    plain = nn.Sequential(*copy.deepcopy(cores).children())
    by_modules = torch.optim.Adam(plain.parameters(), lr=1e-6, fused=True)
    other = copy.deepcopy(cores)
    loss = nn.functional.cross_entropy
    actions = {
        "prepare": lambda: sc.prepare(other, x, targets=y, loss_fn=loss),
        "calibrate": lambda: sc.calibrate(other, x, targets=y, loss_fn=loss),
        "step": step(cores, x, y, optimizer),
        "step of modules": step(plain, x, y, by_modules),
    }
    taken = clock.compared(actions)
    return {
        "prepare_in_steps": ratio(taken, "prepare", "step"),
        "calibrate_in_steps": ratio(taken, "calibrate", "step"),
        "prepare_in_steps_of_modules": ratio(taken, "prepare", "step of modules"),
        "calibrate_in_steps_of_modules": ratio(taken, "calibrate", "step of modules"),
        "step_ms": milliseconds(taken["step"]),
    }


def by_depth(clock: Clock, depths: tuple[int, ...]) -> dict[str, float]:
    """The exponent of the time of a step in the depth: over all depths, and over the last three."""
    actions: dict[str, Action] = {}
    for depth in depths:
        cores, _, x, y = networks((depth, 64, 100), clock.device, torch.float32)
        actions[str(depth)] = step(cores, x, y)
    taken = clock.compared(actions)
    points = [(math.log(d), math.log(statistics.median(taken[str(d)]))) for d in depths]

    def exponent(of: list[tuple[float, float]]) -> float:
        return round(statistics.linear_regression(*zip(*of, strict=True)).slope, 4)

    return {
        "exponent": exponent(points),
        "exponent_deep": exponent(points[-3:]),
        **{f"ms_{depth}": milliseconds(taken[str(depth)]) for depth in depths},
    }


def compiled(clock: Clock, size: Size) -> dict[str, float]:
    """Compiled cores over compiled plain, and the time that compiling takes; `nan` where there is no compiler."""
    cores, plain, x, y = networks(size, clock.device, torch.float32)
    seconds = {}
    actions = {"eager cores": step(cores, x, y)}
    for name, model in {"cores": copy.deepcopy(cores), "plain": plain}.items():
        action = step(torch.compile(model), x, y)
        started = time.perf_counter()
        try:
            action()
        except torch._dynamo.exc.BackendCompilerFailed as error:
            print(f"not compiled: {error}", file=sys.stderr)
            return {"compiled_over_plain": math.nan}
        seconds[name] = round(time.perf_counter() - started, 2)
        actions[name] = action
    taken = clock.compared(actions)
    return {
        "compiled_over_plain": ratio(taken, "cores", "plain"),
        "eager_over_compiled": ratio(taken, "eager cores", "cores"),
        "compile_s": seconds["cores"],
        "compile_plain_s": seconds["plain"],
    }


def recurrent(clock: Clock, steps: int) -> dict[str, float]:
    """A training step of an RNN of cores over `nn.RNN` with tanh and `nn.GRU`."""
    torch.manual_seed(0)
    x = torch.randn(RNN_BATCH, steps, 1, device=clock.device)
    layers: dict[str, nn.Module] = {
        "cores": sc.recurrent.CoreRNN(1, RNN_UNITS, batch_first=True),
        "rnn": nn.RNN(1, RNN_UNITS, batch_first=True),
        "gru": nn.GRU(1, RNN_UNITS, batch_first=True),
    }

    def action(layer: nn.Module) -> Action:
        def run() -> None:
            layer.zero_grad()
            layer(x)[0][:, -1].square().mean().backward()

        return run

    taken = clock.compared({name: action(layer.to(clock.device)) for name, layer in layers.items()})
    return {"over_tanh": ratio(taken, "cores", "rnn"), "over_gru": ratio(taken, "cores", "gru")}


def importing(rounds: int) -> dict[str, float]:
    """Milliseconds that `import sigmoidcore` and its first use take after `import torch`: median over fresh processes.

    Python keeps what it has compiled, as pip does when it installs; the first process, which compiles, is told apart.
    """
    code = (
        "import torch, time; s = time.process_time(); import sigmoidcore as sc; sc.fold; print(time.process_time() - s)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as compiled:
        environment["PYTHONPYCACHEPREFIX"] = compiled
        command = [sys.executable, "-c", code]
        first, *taken = [
            float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
            for _ in range(rounds + 1)
        ]
    return {"import_ms": milliseconds(taken), "first_import_ms": milliseconds([first])}


def watched(size: Size, steps: int, pairs: int) -> dict[str, float]:
    """Trainings with an Equalizer and a Monitor at their default cadences over trainings without, step by step.

    The ratio is that of the sums over all steps, and the median over the pairs.
    """
    ratios = []
    for pair in range(pairs):
        each = [_steps(size, watching=watching, steps=steps) for watching in (pair % 2 == 0, pair % 2 == 1)]
        taken = list(zip(*each, strict=True))
        sums = [sum(column) for column in zip(*taken, strict=True)]
        ratios.append(sums[0] / sums[1] if pair % 2 == 0 else sums[1] / sums[0])
    return {
        "watched_over_not": round(statistics.median(ratios), 4),
        "lowest": round(min(ratios), 4),
        "highest": round(max(ratios), 4),
        "steps": steps,
    }


def _steps(size: Size, *, watching: bool, steps: int) -> Iterator[float]:
    """Train, and yield after every step what it took of the processor."""
    model, _, x, y = networks(size, torch.device("cpu"), torch.float32)
    sc.prepare(model, x, targets=y, loss_fn=nn.functional.cross_entropy)
    optimizer = torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)
    with ExitStack() as stack:
        if watching:
            stack.enter_context(sc.Equalizer(model, optimizer))
            stack.enter_context(sc.Monitor(model))
        for _ in range(steps):
            started = time.process_time()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            yield time.process_time() - started


def estimators(clock: Clock, hidden: tuple[int, ...]) -> dict[str, float]:
    """`fit` of the classifier over that of scikit-learn: digits, the same epochs and batches, one given decay."""
    x, y = load_digits(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    same = {"hidden_layer_sizes": hidden, "max_iter": EPOCHS, "batch_size": BATCH, "random_state": 0}
    ours = SigmoidCoreClassifier(weight_decay=0.4, **same)
    theirs = MLPClassifier(n_iter_no_change=EPOCHS, **same)
    with warnings.catch_warnings(), threadpool_limits(torch.get_num_threads()):
        warnings.simplefilter("ignore", ConvergenceWarning)
        taken = clock.compared({"ours": lambda: ours.fit(x, y), "theirs": lambda: theirs.fit(x, y)})
    return {"over_scikit_learn": ratio(taken, "ours", "theirs"), "seconds": round(statistics.median(taken["ours"]), 3)}


def checkpointed(clock: Clock, depth: int) -> dict[str, float]:
    """Memory that is kept for the way back, and the time of a step, with checkpoints of sqrt(depth) layers each."""
    cores, _, x, y = networks((depth, 64, 100), clock.device, torch.float32)
    assert isinstance(cores, sc.MLP)
    length = 2 * round(math.sqrt(depth))
    parts = [cores[start : start + length] for start in range(0, len(cores), length)]
    in_parts = Checkpointed(parts)
    taken = clock.compared({"in parts": step(in_parts, x, y), "whole": step(cores, x, y)})
    segment = saved_bytes(parts[0], x)
    return {
        "depth": depth,
        "kept_mib": round((saved_bytes(in_parts, x) + segment) / 2**20, 3),
        "kept_whole_mib": round(saved_bytes(cores, x) / 2**20, 3),
        "in_parts_over_whole": ratio(taken, "in parts", "whole"),
    }


class Checkpointed(nn.Module):
    """Parts of a network, each an activation checkpoint."""

    def __init__(self, parts: list[nn.Sequential]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = checkpoint(part, x, use_reentrant=False)
        return x


def parsed() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where the networks run")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no GPU")
    return options


def main() -> None:
    options = parsed()
    torch.set_flush_denormal(True)
    device = torch.device(options.device)
    on_gpu, quick = device.type == "cuda", options.quick
    clock = Clock(device, 0.5 if quick else SECONDS)
    sizes = QUICK_SIZES if quick else GPU_SIZES if on_gpu else SIZES
    dtypes = (torch.float32, torch.bfloat16) if on_gpu else (torch.float32,)
    threads = options.threads or torch.get_num_threads()
    name = f"speed_{options.device}" if on_gpu else f"speed_{threads}"
    settings = {"inputs": INPUTS, "seconds": clock.seconds, "device": options.device}
    report = Report(name, options, key=("figure", "size"), seeds=[0], settings=settings)

    def row(figure: str, size: object, measured: Callable[[], Mapping[str, float]]) -> None:
        if report.wants(figure=figure, size=str(size)):
            report.add(figure=figure, size=str(size), **measured())

    def shown(size: Size) -> str:
        return " x ".join(map(str, size))

    for size in (*sizes, *(() if quick or on_gpu else SMALL_SIZES)):
        for dtype in dtypes:
            kind = f"step {str(dtype).removeprefix('torch.')}"
            row(kind, shown(size), lambda size=size, dtype=dtype: training_step(clock, size, dtype))  # type: ignore[misc]
    for size in QUICK_SIZES if quick else ((100, 64, 100), *sizes[:2]):
        row("converted", shown(size), lambda size=size: converted(clock, size))  # type: ignore[misc]
    for size in sizes[: 1 if quick or on_gpu else 2]:
        row("prepare", shown(size), lambda size=size: preparing(clock, size))  # type: ignore[misc]
    for depth in (2,) if quick else (10, 100):
        row("compile", f"{depth} x 64 x 100", lambda depth=depth: compiled(clock, (depth, 64, 100)))  # type: ignore[misc]
    depths = (5, 10, 20) if quick else DEPTHS
    row("depth", f"{depths[0]} to {depths[-1]}", lambda: by_depth(clock, depths))
    row("recurrent", 64 if quick else RNN_STEPS, lambda: recurrent(clock, 64 if quick else RNN_STEPS))
    row("import", "-", lambda: importing(2 if quick else 9))
    for size in sizes[: 0 if on_gpu else 1 if quick else 2]:
        row("watched", shown(size), lambda size=size: watched(size, *((20, 2) if quick else (200, 3))))  # type: ignore[misc]
    for hidden in HIDDEN[: 0 if on_gpu else 1 if quick else len(HIDDEN)]:
        row("estimators", f"{len(hidden)} x {hidden[0]}", lambda hidden=hidden: estimators(clock, hidden))  # type: ignore[misc]
    for depth in (25,) if quick else (100, 1000, 10_000):
        row("checkpoints", depth, lambda depth=depth: checkpointed(clock, depth))  # type: ignore[misc]
    report.finish()


if __name__ == "__main__":
    main()
