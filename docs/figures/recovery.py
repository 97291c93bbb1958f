"""Draw recovery.png and write recovery.json: the recovery of a network with a saturated layer.

10 layers x 64 on digits, prepared. Then all neurons of the fifth layer are saturated, by offset (z + 14) or by scale
(z x 200). Five seeds each, with an Equalizer that samples every tenth step and without one. It takes half a minute.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sigmoidcore import MLP, prepare
from sigmoidcore.gain import mean_relative_slope
from sigmoidcore.plots.style import INK, PALETTE, new_figure, style_axes

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from training import accuracy, digits, train

LAYER, SEEDS, EPOCHS, BATCH, FLOOR = 4, 5, 10, 100, 0.05
DRIVES = {"offset": 14.0, "scale": 200.0}
SPLIT = digits()


@torch.no_grad()
def drive(model: MLP, how: str) -> None:
    """Move all z of the layer away from 0, or widen them."""
    linear, core = model[2 * LAYER], model[2 * LAYER + 1]
    if how == "offset":
        linear.bias += DRIVES[how] / core.slope
    else:
        for tensor in (linear.weight, linear.bias, core.shift):
            tensor *= DRIVES[how]


@torch.no_grad()
def saturated(model: MLP) -> float:
    """Percentage of the layer's neurons whose mean relative slope over the training set is below the floor."""
    core, x = model[2 * LAYER + 1], model[: 2 * LAYER + 1](SPLIT.train_x)
    return 100 * float((mean_relative_slope(core.slope * (x - core.shift)) < FLOOR).float().mean())


def measure(how: str, equalize: bool, seed: int) -> dict[str, list[float]]:
    """Accuracy and share before training and after each epoch."""
    torch.manual_seed(seed)
    model = MLP(64, 64, 10, 10)
    prepare(model, SPLIT.train_x[:500])
    drive(model, how)
    with torch.no_grad():
        shares, first = [saturated(model)], accuracy(model(SPLIT.test_x), SPLIT.test_y)
    steps = -(-len(SPLIT.train_x) // BATCH)
    result = train(
        model,
        SPLIT,
        epochs=EPOCHS,
        batch_size=BATCH,
        seed=seed,
        equalize=equalize,
        every=10,
        on_step=lambda step: None if step % steps else shares.append(saturated(model)),
    )
    return {
        "accuracy": [round(v, 2) for v in [first, *result.accuracies]],
        "saturated": [round(v, 2) for v in shares],
    }


def draw(runs: dict[str, dict[str, list[dict[str, list[float]]]]]) -> Figure:
    """A panel for each way of saturation: medians over the seeds, and in a lighter shade their range."""
    figure = new_figure(9.0, 4.4)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (how, cases) in zip(panels, runs.items(), strict=True):
        for results, colour, marker in zip(cases.values(), ("blue", "vermilion"), "so", strict=True):
            for kind, line in (("accuracy", "-"), ("saturated", "--")):
                values = np.array([r[kind] for r in results])
                epochs, middle = np.arange(values.shape[1]), np.median(values, axis=0)
                axes.fill_between(epochs, values.min(0), values.max(0), color=PALETTE[colour], alpha=0.15, linewidth=0)
                axes.plot(epochs, middle, line, color=PALETTE[colour], linewidth=2, marker=marker, markersize=4)
        what = f"z + {DRIVES[how]:g}" if how == "offset" else f"z × {DRIVES[how]:g}"
        label = "percent" if axes is panels[0] else ""
        style_axes(axes, f"Saturated by {how} ({what})", "epoch (0: before training)", label)
        axes.set_ylim(-3, 103)
        axes.set_xticks(range(0, EPOCHS + 1, 2))
    handles = [
        Line2D([], [], color=PALETTE[colour], linestyle=line, marker=marker, markersize=4, linewidth=2, label=label)
        for colour, marker, case in (("blue", "s", "with Equalizer"), ("vermilion", "o", "without"))
        for line, label in (("-", f"test accuracy, {case}"), ("--", f"neurons saturated in the driven layer, {case}"))
    ]
    legend = figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=2,
        fontsize=9,
        frameon=False,
        labelcolor=INK,
        handlelength=3,
        alignment="left",
    )
    legend.set_title("Lines: medians of 5 seeds; shades: their range", prop={"size": 9})
    return figure


torch.set_num_threads(1)
runs = {
    how: {
        case: [measure(how, case == "with Equalizer", seed) for seed in range(SEEDS)]
        for case in ("with Equalizer", "without")
    }
    for how in DRIVES
}
path = Path(__file__).with_suffix(".png")
draw(runs).savefig(path, dpi=200)
facts = {"layer": LAYER + 1, "layers": 10, "width": 64, "every": 10, "floor": FLOOR, "drives": DRIVES, "seeds": SEEDS}
path.with_suffix(".json").write_text(json.dumps({**facts, "runs": runs}, indent=1) + "\n", encoding="utf-8")
for how, cases in runs.items():
    for case, results in cases.items():
        ends = {kind: [r[kind][-1] for r in results] for kind in ("accuracy", "saturated")}
        print(f"{how}, {case}: " + "; ".join(f"{k} {np.median(v):.1f} {sorted(v)}" for k, v in ends.items()))
