"""Draw profiles.svg: the gradient in 100 layers of sigmoids, with and without Sigmoid Core; a quarter of a minute."""

import sys
from pathlib import Path

import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore.plots.figures import gradient_profiles

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from svg import svg

from training import digits, train

torch.set_num_threads(1)
torch.set_flush_denormal(True)
data = digits()
loss = {"targets": data.test_y, "loss_fn": nn.functional.cross_entropy}
profiles = {}
for name in ("Sigmoid Core", "plain sigmoids"):
    torch.manual_seed(0)
    if name == "Sigmoid Core":
        model = sc.MLP(64, 64, 100, 10)
        sc.prepare(model, data.train_x)
    else:
        model = sc.MLP(64, 64, 100, 10, activation=lambda width: nn.Sigmoid())
        sc.convert(model)  # computes the same; only so that `gradient_profile` finds its sigmoids
    profiles[f"{name}, before training"] = sc.gradient_profile(model, data.test_x, **loss)
    accuracy = train(model, data, epochs=10).accuracies[-1]
    profiles[f"{name}, after training"] = sc.gradient_profile(model, data.test_x, **loss)
    print(f"{name}: {accuracy:.1f} %")
Path(__file__).with_suffix(".svg").write_text(svg(gradient_profiles(profiles)), encoding="utf-8")
