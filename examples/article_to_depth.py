"""From the article's six points to a network of a hundred layers: the walk of a student.

    python examples/article_to_depth.py --folder runs/article

It fits the article's points in NumPy, trains a network of a hundred layers of sigmoids with and without Sigmoid Core,
and draws both. docs/article.md explains it. Data: scikit-learn's digits (extras `plots` and `sklearn`).
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import sigmoidcore as sc
from sigmoidcore.article import POINTS_X, POINTS_Y, fit
from sigmoidcore.plots.figures import article_fit, gradient_profiles
from sigmoidcore.plots.style import save_figure


def train(model, optimizer, inputs, targets, epochs):
    steps = epochs * len(inputs) // 100
    fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, 2 * (1 - step / steps)))
    with sc.Equalizer(model, optimizer):
        for _ in range(epochs):
            for batch in torch.randperm(len(inputs)).split(100):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
                optimizer.step()
                fall.step()


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, default=Path("runs/article"))
    options.add_argument("--depth", type=int, default=100)
    options.add_argument("--epochs", type=int, default=10)
    options = options.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_flush_denormal(True)  # gradients that have vanished are denormal numbers, which are slow

    fitted = fit(POINTS_X, POINTS_Y)
    print(f"the article's points: {fitted}")
    save_figure(article_fit(fitted), options.folder / "fit.png")

    digits = load_digits()
    torch.manual_seed(0)
    order = torch.randperm(len(digits.target))
    x, y = torch.tensor(digits.data / 8 - 1, dtype=torch.float32)[order], torch.tensor(digits.target)[order]
    profiles, accuracies = {}, {}
    for name in ("plain sigmoids", "Sigmoid Core"):
        torch.manual_seed(0)
        if name == "Sigmoid Core":
            model = sc.MLP(64, 64, options.depth, 10)
            sc.prepare(model, x[:1400])
            optimizer = torch.optim.Adam(sc.depth_scaled_lr(model), fused=True)
        else:
            model = sc.MLP(64, 64, options.depth, 10, activation=lambda width: nn.Sigmoid())
            sc.convert(model)  # computes the same; only so that `gradient_profile` finds its sigmoids
            optimizer = torch.optim.Adam(model.parameters(), fused=True)
        profiles[name] = sc.gradient_profile(model, x[1400:])
        train(model, optimizer, x[:1400], y[:1400], options.epochs)
        with torch.no_grad():
            accuracies[name] = 100 * float((model(x[1400:]).argmax(1) == y[1400:]).double().mean())
        print(f"{name}: spread {profiles[name].spread:.3g} before training, then {accuracies[name]:.1f} %")
    save_figure(gradient_profiles(profiles), options.folder / "profiles.png")
    return fitted, profiles, accuracies


if __name__ == "__main__":
    main()
