"""Hostile inputs: badly scaled features, constant features, a batch of one, zeros, huge weights, saturated neurons.

Digits, width 64, depth 50, batch 100, 10 epochs, 3 seeds. Every case is prepared (or calibrated) and trained; a number
that is not finite anywhere (slopes, shifts, weights, losses, profile) fails the benchmark. Accuracy is expected where
the data allow it; a batch of one and zeros carry no classes.
"""

import dataclasses
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn

import sigmoidcore as sc
from _report import Report, arguments
from sigmoidcore.training import Split, digits, train

DEPTH = 50


def scaled(split: Split, change: Callable[[Tensor], Tensor]) -> Split:
    return dataclasses.replace(split, train_x=change(split.train_x), test_x=change(split.test_x))


def constant(x: Tensor) -> Tensor:
    return torch.cat([x[:, :-4], torch.tensor([0.0, 1.0, -1e3, 1e6]).expand(len(x), 4)], dim=1)


SPLITS: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda x: x,
    "all features x 1e-6": lambda x: x * 1e-6,
    "all features x 1e6": lambda x: x * 1e6,
    "features x 1e-6 to x 1e6": lambda x: x * torch.logspace(-6, 6, x.shape[1]),
    "4 constant features": constant,
    "all inputs 0": torch.zeros_like,
}


def prepared(split: Split, rows: int = 256) -> nn.Module:
    model = sc.MLP(split.train_x.shape[1], 64, DEPTH, 10)
    sc.prepare(model, split.train_x[:rows], targets=split.train_y[:rows], loss_fn=nn.functional.cross_entropy)
    return model


def saturated(split: Split, how: str) -> nn.Module:
    """Half of the neurons of every fifth layer driven into saturation after `prepare`."""
    model = prepared(split)
    with torch.no_grad():
        for linear in [m for m in model if isinstance(m, nn.Linear)][4:-1:5]:
            if how == "offset":
                linear.bias[::2] += 5.0
            else:
                linear.weight[::2] *= 300.0
    return model


def huge_weights(split: Split) -> nn.Module:
    model = prepared(split)
    with torch.no_grad():
        for linear in [m for m in model if isinstance(m, nn.Linear)][:-1]:
            linear.weight *= 1e3
    x, y = split.train_x[:256], split.train_y[:256]
    sc.calibrate(model, x, targets=y, loss_fn=nn.functional.cross_entropy, saturation=0.5)
    return model


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_flush_denormal(True)
    report = Report(
        "hostile_inputs",
        options,
        key=("case",),
        seeds=[0] if options.quick else [0, 1, 2],
        settings={"width": 64, "depth": DEPTH, "batch": 100, "epochs": 10},
    )
    split = digits()
    cases: dict[str, tuple[Split, Callable[[Split], nn.Module]]] = {
        name: (scaled(split, change), prepared) for name, change in SPLITS.items()
    }
    cases["prepared with a batch of 1"] = (split, lambda s: prepared(s, rows=1))
    cases["weights x 1e3, calibrated"] = (split, huge_weights)
    cases["half the neurons saturated by offset"] = (split, lambda s: saturated(s, "offset"))
    cases["half the neurons saturated by scale"] = (split, lambda s: saturated(s, "scale"))
    for case, (data, make) in cases.items():
        if not report.wants(case=case):
            continue
        found, finite = [], True
        for seed in report.seeds:
            torch.manual_seed(seed)
            model = make(data)
            result = train(model, data, epochs=2 if options.quick else 10, seed=seed)
            found.append(round(result.accuracies[-1], 2))
            numbers = [*model.parameters(), *model.buffers(), torch.tensor(result.losses)]
            numbers.append(sc.gradient_profile(model, data.test_x, data.test_y, nn.functional.cross_entropy).sizes)
            finite = finite and all(bool(torch.isfinite(t).all()) for t in numbers)
        report.add(case=case, accuracy=statistics.median(found), accuracies=found, finite=finite)
    report.finish()


if __name__ == "__main__":
    main()
