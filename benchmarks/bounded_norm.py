"""Bounded norms: tanh(alpha x) with an alpha that is set from data and follows it, against norms and against nothing.

A language model of characters (width 64, 4 heads, context 64, batch 16, 300 steps; the rate is constant for half of
them and then falls to 0; gradients clipped at 1). A training that is not finite stops and has the loss inf. All methods
have the same weights at the start. "scaled": branches are multiplied by 1 / sqrt(2 blocks). "q/k": a place on queries
and keys, too. Ours: convert(norms=True), calibrate, Equalizer, all at their defaults. DyT (arXiv 2503.10622) and Derf
(arXiv 2512.10938) with the start of alpha that their papers give, 0.5, and DyT with others; the embeddings have the
size 1, which is what their scale is for. The text is a file (--text) or sources of Python's standard library.
"""

import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import sigmoidcore as sc
from _character_model import CharacterModel, Place, Text
from _report import Report, arguments
from sigmoidcore.nn import BoundedNorm

WIDTH, BATCH = 64, 16


class DynamicTanh(nn.Module):
    """tanh(alpha x) weight + bias, or erf(alpha x + shift) weight + bias; everything is trained."""

    def __init__(self, features: int, alpha: float, erf: bool = False) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), alpha))
        self.shift = nn.Parameter(torch.zeros(1)) if erf else None
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        z = self.alpha * x
        y = torch.tanh(z) if self.shift is None else torch.erf(z + self.shift)
        return y * self.weight + self.bias


def nothing(features: int) -> nn.Module:
    return nn.Identity()


def dyt(alpha: float, erf: bool = False) -> Place:
    return lambda features: DynamicTanh(features, alpha, erf)


@dataclass(frozen=True)
class Method:
    """What stands in the place of a norm, and on queries and keys; whether branches are scaled; whether it is ours."""

    norm: Place
    query_norm: Place = nothing
    scaled: bool = True
    ours: bool = False


METHODS = {
    "layer norm": Method(nn.LayerNorm, scaled=False),
    "layer norm scaled": Method(nn.LayerNorm),
    "layer norm scaled q/k norm": Method(nn.LayerNorm, nn.RMSNorm),
    "rms norm": Method(nn.RMSNorm, scaled=False),
    "rms norm scaled": Method(nn.RMSNorm),
    "rms norm scaled q/k norm": Method(nn.RMSNorm, nn.RMSNorm),
    "dyt 0.5 scaled": Method(dyt(0.5)),
    "dyt 1 scaled": Method(dyt(1.0)),
    "dyt 2 scaled": Method(dyt(2.0)),
    "derf 0.5 scaled": Method(dyt(0.5, erf=True)),
    "none scaled": Method(nothing),
    "none scaled q/k norm": Method(nothing, nn.RMSNorm),
    "none scaled q/k ours": Method(nothing, nn.RMSNorm, ours=True),
    "ours": Method(nn.LayerNorm, scaled=False, ours=True),
    "ours scaled": Method(nn.LayerNorm, ours=True),
    "ours scaled q/k ours": Method(nn.LayerNorm, nn.RMSNorm, ours=True),
}


def optimizers(name: str, model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """AdamW for all; or Muon for the matrices of the blocks and AdamW, at a tenth of the rate, for the rest."""
    if name == "adamw":
        return [torch.optim.AdamW(model.parameters(), rate)]
    matrices = [p for n, p in model.named_parameters() if n.startswith("blocks") and p.dim() == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [torch.optim.Muon(matrices, rate), torch.optim.AdamW(others, rate / 10)]


@torch.no_grad()
def validation_loss(model: nn.Module, text: Text) -> float:
    model.eval()
    generator, losses = torch.Generator().manual_seed(1), []
    for _ in range(4):
        x, y = text.batch(text.validation, 64, generator)
        losses.append(float(nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())))
    model.train()
    return statistics.mean(losses)


@torch.no_grad()
def saturated(model: nn.Module, text: Text) -> float | None:
    """The share of the units (features of a place) whose mean relative slope is below 0.05; None without places."""
    found: list[Tensor] = []

    def look(place: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        alpha = place.core.slope / 2 if isinstance(place, BoundedNorm) else place.alpha
        found.append((1 - torch.tanh(alpha * args[0]).square()).flatten(0, -2).mean(0))

    places = [m for m in model.modules() if isinstance(m, BoundedNorm | DynamicTanh)]
    handles = [place.register_forward_hook(look) for place in places]
    model(text.batch(text.validation, 64, torch.Generator().manual_seed(1))[0])
    for handle in handles:
        handle.remove()
    return float((torch.cat(found) < 0.05).float().mean()) if found else None


@dataclass(frozen=True)
class Outcome:
    loss: float
    step_seconds: float
    seconds: float
    saturated: float | None
    changes: int
    stopped: int | None


def train(
    method: Method, text: Text, blocks: int, rate: float, optimizer: str, steps: int, seed: int, width: int
) -> Outcome:
    torch.manual_seed(seed)
    scale = (2 * blocks) ** -0.5 if method.scaled else 1.0
    model = CharacterModel(text.characters, width, blocks, method.norm, method.query_norm, scale)
    generator = torch.Generator().manual_seed(seed)
    if method.ours:
        sc.convert(model, norms=True)
        sc.calibrate(model, text.batch(text.train, 64, generator)[0])
    parts = optimizers(optimizer, model, rate)
    equalizer = sc.Equalizer(model, parts[0]) if method.ours else None
    rates = [group["lr"] for part in parts for group in part.param_groups]
    times, stopped, started = [], None, time.perf_counter()
    for step in range(steps):
        begun = time.perf_counter()
        for group, full in zip((g for part in parts for g in part.param_groups), rates, strict=True):
            group["lr"] = full * min(1, 2 * (1 - step / steps))
        x, y = text.batch(text.train, BATCH, generator)
        loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in parts:
            part.step()
        times.append(time.perf_counter() - begun)
        if not math.isfinite(loss.item()):
            stopped = step
            break
    seconds = time.perf_counter() - started
    changes = sum(sample.norms for sample in equalizer.history) if equalizer else 0
    if equalizer:
        equalizer.remove()
    quick = sorted(times)[len(times) // 10]
    found = validation_loss(model, text)
    return Outcome(
        found if math.isfinite(found) else math.inf, quick, seconds, saturated(model, text), changes, stopped
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--text", type=Path, metavar="FILE", help="a text in UTF-8 (default: sources of Python)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 (default: 3)")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="steps of a training (default: 300)")
    parser.add_argument("--width", type=int, default=WIDTH, metavar="N", help="width of the model (default: 64)")
    options = parser.parse_args()
    torch.set_flush_denormal(True)
    text, steps = Text(options.text), 20 if options.quick else options.steps
    report = Report(
        "bounded_norm",
        options,
        key=("blocks", "method", "optimizer", "rate"),
        seeds=list(range(1 if options.quick else options.seeds)),
        settings={"width": options.width, "batch": BATCH, "steps": steps, "text": text.name},
    )
    rates = [0.01] if options.quick else [0.001, 0.003, 0.01, 0.03, 0.1]
    names = ["adamw"] if options.quick or not hasattr(torch.optim, "Muon") else ["adamw", "muon"]
    for blocks in [2] if options.quick else [12, 6, 36]:
        for name in names:
            for rate in rates:
                for key, method in METHODS.items():
                    if not report.wants(blocks=blocks, method=key, optimizer=name, rate=rate):
                        continue
                    outcomes = [
                        train(method, text, blocks, rate, name, steps, seed, options.width) for seed in report.seeds
                    ]
                    known = [o.saturated for o in outcomes if o.saturated is not None]
                    report.add(
                        blocks=blocks,
                        method=key,
                        optimizer=name,
                        rate=rate,
                        loss=statistics.median(o.loss for o in outcomes),
                        losses=[round(o.loss, 4) for o in outcomes],
                        stopped=sum(o.stopped is not None for o in outcomes),
                        saturated=max(known) if known else None,
                        changes=max(o.changes for o in outcomes),
                        step_seconds=round(statistics.median(o.step_seconds for o in outcomes), 4),
                        seconds=round(statistics.median(o.seconds for o in outcomes), 1),
                    )
    report.finish()


if __name__ == "__main__":
    main()
