"""Norms, bounded norms and none in a language model of characters."""

from collections.abc import Iterator
from statistics import mean, stdev

from result_tables.figures import Row, bold, one, rows
from result_tables.registry import Cells, sentences, table

RATES = (0.003, 0.01, 0.03)
NAMES = {
    "layer norm": "LayerNorm",
    "layer norm scaled": "LayerNorm, scaled branches",
    "layer norm scaled q/k norm": "LayerNorm, scaled branches, RMSNorm on queries and keys",
    "rms norm scaled q/k norm": "RMSNorm, scaled branches, RMSNorm on queries and keys",
    "dyt 0.5 scaled": "DyT, alpha starts at 0.5, scaled branches",
    "dyt 1 scaled": "DyT, alpha starts at 1, scaled branches",
    "dyt 2 scaled": "DyT, alpha starts at 2, scaled branches",
    "derf 0.5 scaled": "Derf, alpha starts at 0.5, scaled branches",
    "none scaled": "nothing, scaled branches",
    "none scaled q/k norm": "nothing, scaled branches, RMSNorm on queries and keys",
    "none scaled q/k ours": "nothing, scaled branches, **ours on queries and keys**",
    "ours": "**ours**",
    "ours scaled": "**ours, scaled branches**",
    "ours scaled q/k ours": "**ours, scaled branches, ours on queries and keys**",
}


@table
def bounded_norm() -> Cells:
    """Validation loss by rate, the best of a column in bold; and the share of saturated units at the best rate."""
    for blocks in sorted({row["blocks"] for row in rows("bounded_norm")}):
        found = {
            (row["method"], row["rate"]): row
            for row in rows("bounded_norm")
            if row["blocks"] == blocks and row["optimizer"] == "adamw"
        }
        loss = {key: float(row["loss"]) for key, row in found.items()}
        for method, name in NAMES.items():
            known = {rate: loss[method, rate] for rate in RATES if (method, rate) in loss}
            if not known:
                continue
            cells = []
            for rate in RATES:
                column = [value for (_, other), value in loss.items() if other == rate]
                text = f"{known[rate]:.3f}" if rate in known else "-"
                cells.append(bold(text, rate in known and known[rate] == min(column)))
            best = found[method, min(known, key=lambda rate: known[rate])]
            share = "-" if best["saturated"] is None else f"{100 * best['saturated']:.1f} %"
            yield str(blocks), name, *cells, share


STARTS = {
    **NAMES,
    "bhyt scaled": "BHyT: tanh(0.2 x / rms(x)) at the start",
    "none fixup": "nothing, Fixup",
    "none rezero": "nothing, ReZero",
}
START_RATES = (0.01, 0.03)


@table
def bounded_norm_starts() -> Cells:
    """Validation loss by rate, the best of a column in bold."""
    found = {(row["method"], row["rate"]): float(row["loss"]) for row in starts()}
    for method, name in STARTS.items():
        cells = []
        for rate in START_RATES:
            best = min(value for (_, other), value in found.items() if other == rate)
            known = found.get((method, rate))
            cells.append("-" if known is None else bold(f"{known:.3f}", known == best))
        if set(cells) != {"-"}:
            yield name.replace(", scaled branches", ""), *cells


def starts() -> list[Row]:
    """Trainings of 300 steps with 6 blocks."""
    return [row for row in rows("bounded_norm_starts") if row["blocks"] == 6]


def start(method: str, rate: float) -> str:
    """The loss of one of them."""
    (loss,) = (float(row["loss"]) for row in starts() if (row["method"], row["rate"]) == (method, rate))
    return f"{loss:.2f}"


@table
def bounded_norm_seeds() -> Cells:
    """Mean validation loss over the seeds and its standard error, the lowest of a column in bold."""
    places = sorted({(row["blocks"], row["rate"]) for row in seeds()})
    for method, name in STARTS.items():
        cells = []
        for count, rate in places:
            means = {m: mean(losses(m, count, rate)) for m in STARTS if losses(m, count, rate)}
            text = "-"
            if method in means:
                found = losses(method, count, rate)
                text = f"{means[method]:.3f} ± {stdev(found) / len(found) ** 0.5:.3f}"
            cells.append(bold(text, means.get(method) == min(means.values(), default=None)))
        if set(cells) != {"-"}:
            yield name, *cells


def seeds() -> list[Row]:
    """Trainings of 300 steps with three seeds."""
    return [row for row in rows("bounded_norm_seeds") if row["blocks"] > 6]


def losses(method: str, blocks: int, rate: float) -> list[float]:
    """Of all seeds."""
    place = (method, blocks, rate)
    return [float(row["loss"]) for row in seeds() if (row["method"], row["blocks"], row["rate"]) == place]


@table
def bounded_norm_others() -> Cells:
    """Validation loss of other trainings, one seed: longer, wider, Muon, images; the lowest of a row in bold."""
    found = {
        (row["task"], row["width"], row["steps"], row["optimizer"], row["rate"], row["method"]): float(row["loss"])
        for row in (*rows("bounded_norm_others"), *rows("bounded_norm_longer"))
        if row["blocks"] == 12
    }
    for task, width, steps, optimizer, rate in sorted(dict.fromkeys(key[:5] for key in found), key=_place):
        others = ("layer norm scaled q/k norm", "none scaled q/k norm")
        line = [found[task, width, steps, optimizer, rate, method] for method in others]
        cells = (bold(f"{value:.3f}", value == min(line)) for value in line)
        yield TASKS[task], str(width), f"{steps:,}", OPTIMIZERS[optimizer], f"{rate:g}", *cells


def _place(training: tuple[str, int, int, str, float]) -> tuple[bool, bool, int, int, float]:
    """Characters before images, AdamW before Muon, then by width, steps and rate."""
    task, width, steps, optimizer, rate = training
    return task != "text", optimizer != "adamw", width, steps, rate


TASKS = {"text": "characters", "images": "CIFAR-10"}
OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon"}


def loss(method: str, blocks: int = 12, rate: float = 0.01) -> str:
    return f"{float(one('bounded_norm', blocks=blocks, method=method, optimizer='adamw', rate=rate)['loss']):.2f}"


@sentences("docs/transformers_without_normalisation.md")
def bounded_norms() -> Iterator[str]:
    """At the rate 0.01."""
    plain, scaled, both = (loss(f"layer norm{more}") for more in ("", " scaled", " scaled q/k norm"))
    yield f"LayerNorm goes from {plain} to {scaled} with scaled branches, and to {both} with a norm on queries and keys"
    ours, with_keys = loss("ours scaled"), loss("ours scaled q/k ours")
    yield f"{ours} against {scaled}, and {with_keys} against {both} with a place on queries and keys"
    yield f"DyT: {loss('dyt 0.5 scaled')} with alpha started at 0.5"
    none, peer = (loss(f"none scaled q/k {what}") for what in ("ours", "norm"))
    yield f"{none} with ours on queries and keys, {peer} with RMSNorm there, {loss('none scaled')} with nothing at all"
    deep = (loss(f"none scaled q/k {what}", 36) for what in ("ours", "norm"))
    norm, place = (loss(name, 36) for name in ("layer norm scaled q/k norm", "ours scaled q/k ours"))
    yield f"With 36 blocks: {' and '.join(deep)}, LayerNorm {norm}"
    yield f"With 36 blocks it is behind: {place} against {norm}"
    fast = (loss(f"none scaled q/k {what}", rate=0.03) for what in ("ours", "norm"))
    norms = (loss(name, rate=0.03) for name in ("layer norm scaled q/k norm", "ours scaled q/k ours"))
    yield f"{' and '.join(fast)} without, {' and '.join(norms)} with"
    peer, norm = "none scaled q/k norm", "layer norm scaled q/k norm"

    def rise(method: str) -> str:
        return f"from {mean(losses(method, 12, 0.01)):.3f} to {mean(losses(method, 12, 0.03)):.3f}"

    yield f"RMSNorm's goes {rise(peer)}, LayerNorm's {rise(norm)}"
    yield f"BHyT {start('bhyt scaled', 0.01)}; Fixup {start('none fixup', 0.01)}; ReZero {start('none rezero', 0.01)}"
