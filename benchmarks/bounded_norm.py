"""Bounded norms: tanh(alpha x) with an alpha that is set from data and follows it, against norms and against nothing.

A language model of characters (context 64, batch 16), or with `--data FILE.npz` a small vision transformer on CIFAR-10
(patches of 4 x 4 pixels, batch 32); 4 heads; the rate is constant for half of the steps and then falls to 0; gradients
clipped at 1. A training that is not finite stops and has the loss inf. All methods have the same weights at the start.
`_norm_methods.py` lists them. "scaled": branches are multiplied by 1 / sqrt(2 blocks). "q/k": a place on queries and
keys, too; "end": one at the end of a branch. Ours: convert(norms=True), calibrate, Equalizer, all at their defaults.
DyT (arXiv 2503.10622) and Derf (arXiv 2512.10938) with the start of alpha that their papers give, 0.5, and DyT with
others; the embeddings have the size 1, which is what their scale is for. BHyT (arXiv 2601.09719) with exact statistics.

`--resume` keeps the rows of a file, so that a long comparison can be measured in parts: more seeds, rates, blocks.
Muon trains the matrices of the blocks and has the rates of AdamW (`match_rms_adamw`), which trains the rest.
"""

import argparse
import itertools
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import sigmoidcore as sc
from _character_model import Text
from _norm_methods import METHODS, BoundedHyperbolicTanh, DynamicTanh, Method
from _report import Report, arguments
from _small_vit import Images
from sigmoidcore.nn import BoundedNorm

OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True)
class Setting:
    """What a training has besides its data and its method."""

    blocks: int
    width: int
    optimizer: str
    rate: float
    steps: int
    seed: int
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    loss: float
    step_seconds: float
    seconds: float
    saturated: float | None
    changes: int
    stopped: int | None


def optimizers(name: str, model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """AdamW for all; or Muon for the matrices of the blocks and AdamW for the rest."""
    if name == "adamw":
        return [torch.optim.AdamW(model.parameters(), rate)]
    matrices = [p for n, p in model.named_parameters() if n.startswith("blocks") and p.dim() == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, rate)]


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor], device: str) -> Tensor:
    x, y = (part.to(device) for part in batch)
    return nn.functional.cross_entropy(model(x).flatten(0, -2), y.flatten())


@torch.no_grad()
def validation_loss(model: nn.Module, data: Text | Images, device: str) -> float:
    model.eval()
    generator = torch.Generator().manual_seed(1)
    losses = [float(loss_of(model, data.batch(64, generator, validate=True), device)) for _ in range(4)]
    model.train()
    return statistics.mean(losses)


@torch.no_grad()
def saturated(model: nn.Module, data: Text | Images, device: str) -> float | None:
    """The share of the units (features of a place) whose mean relative slope is below 0.05; None without places."""
    found: list[Tensor] = []

    def look(place: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        alpha = place.core.slope / 2 if isinstance(place, BoundedNorm) else place.alpha
        z = (alpha(args[0]) if callable(alpha) and not isinstance(alpha, Tensor) else alpha) * args[0]
        found.append((1 - torch.tanh(z).square()).flatten(0, -2).mean(0))

    places = [m for m in model.modules() if isinstance(m, BoundedNorm | DynamicTanh | BoundedHyperbolicTanh)]
    handles = [place.register_forward_hook(look) for place in places]
    model(data.batch(64, torch.Generator().manual_seed(1), validate=True)[0].to(device))
    for handle in handles:
        handle.remove()
    return float((torch.cat(found) < 0.05).float().mean()) if found else None


def train(method: Method, data: Text | Images, setting: Setting) -> Outcome:
    torch.manual_seed(setting.seed)
    device, steps = setting.device, setting.steps
    model = data.model(setting.width, setting.blocks, method.places).to(device)
    generator = torch.Generator().manual_seed(setting.seed)
    if method.ours:
        sc.convert(model, norms=True)
        sc.calibrate(model, data.batch(64, generator)[0].to(device))
    parts = optimizers(setting.optimizer, model, setting.rate)
    equalizer = sc.Equalizer(model, parts[0]) if method.ours else None
    times, stopped, started = [], None, time.perf_counter()
    for step in range(steps):
        begun = time.perf_counter()
        for group in (group for part in parts for group in part.param_groups):
            group["lr"] = setting.rate * min(1, 2 * (1 - step / steps))
        loss = loss_of(model, data.batch(data.batch_size, generator), device)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in parts:
            part.step()
        value = loss.item()
        times.append(time.perf_counter() - begun)
        if not math.isfinite(value):
            stopped = step
            break
    seconds = time.perf_counter() - started
    changes = sum(sample.norms for sample in equalizer.history) if equalizer else 0
    if equalizer:
        equalizer.remove()
    found = validation_loss(model, data, device) if stopped is None else math.inf
    return Outcome(
        loss=round(found, 4) if math.isfinite(found) else math.inf,
        step_seconds=round(sorted(times)[len(times) // 10], 4),
        seconds=round(seconds, 1),
        saturated=saturated(model, data, device),
        changes=changes,
        stopped=stopped,
    )


def parsed() -> argparse.Namespace:
    parser = arguments(__doc__)
    data = parser.add_mutually_exclusive_group()
    data.add_argument("--text", type=Path, metavar="FILE", help="a text in UTF-8 (default: sources of Python)")
    data.add_argument("--data", type=Path, metavar="FILE", help="CIFAR-10 as .npz: train the vision transformer on it")
    parser.add_argument("--blocks", type=int, nargs="+", default=[6, 12, 36], metavar="N", help="(default: 6 12 36)")
    parser.add_argument("--width", type=int, nargs="+", default=[64], metavar="N", help="of the model (default: 64)")
    parser.add_argument("--steps", type=int, nargs="+", default=[300], metavar="N", help="of a training (default: 300)")
    rates = [0.001, 0.003, 0.01, 0.03, 0.1]
    parser.add_argument("--rates", type=float, nargs="+", default=rates, metavar="X", help="(default: 0.001 to 0.1)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    parser.add_argument("--optimizer", nargs="+", choices=OPTIMIZERS, default=["adamw"], help="(default: adamw)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    options = parser.parse_args()
    if "muon" in options.optimizer and not hasattr(torch.optim, "Muon"):
        parser.error(
            f"--optimizer muon needs torch.optim.Muon, which PyTorch has from 2.9 on; this is {torch.__version__}"
        )
    if options.quick:
        options.blocks, options.steps, options.rates, options.seeds = [2], [20], [0.01], 1
    return options


def main() -> None:
    options = parsed()
    torch.set_flush_denormal(True)
    data = Images(options.data) if options.data else Text(options.text)
    key = ("task", "width", "steps", "blocks", "optimizer", "rate", "seed", "method")
    report = Report("bounded_norm", options, key=key, seeds=[], settings={"device": options.device})
    grid = itertools.product(
        options.width,
        options.steps,
        options.blocks,
        options.optimizer,
        options.rates,
        range(options.seeds),
        METHODS,
    )
    for values in grid:
        place = dict(zip(key, (data.task, *values), strict=True))
        if report.wants(**place):
            setting = Setting(device=options.device, **{k: v for k, v in place.items() if k not in ("task", "method")})
            report.add(**place, data=data.name, **vars(train(METHODS[place["method"]], data, setting)))
    report.finish()


if __name__ == "__main__":
    main()
