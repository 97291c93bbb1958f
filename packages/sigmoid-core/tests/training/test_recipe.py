"""What a recipe decides."""

import pytest
import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore.training import Recipe, Split, Training
from sigmoidcore.training.recipe import balanced


def split(samples=64):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(samples, 8, generator=generator)
    y = (x[:, 0] > 1).long()
    return Split("made up", x, y, x[:20], y[:20], 2)


def trained(recipe):
    torch.manual_seed(0)
    model = sc.MLP(8, 12, 3, 2).double()
    data = split()
    data = Split("made up", data.train_x.double(), data.train_y, data.test_x.double(), data.test_y, 2)
    Training(model, data, recipe).run()
    return model


def test_the_gradient_is_clipped_to_the_size_that_is_asked_for(monkeypatch):
    sizes = []
    step = torch.optim.AdamW.step

    def spy(optimizer, *arguments):
        gradients = [p.grad.flatten() for group in optimizer.param_groups for p in group["params"]]
        sizes.append(float(torch.cat(gradients).norm()))
        return step(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    trained(Recipe(epochs=1, batch_size=16, equalize=False, clip=1e-3))
    assert sizes == pytest.approx([1e-3] * 4, rel=1e-3)


def test_class_weights_are_those_of_the_loss():
    data = split()
    weights = balanced(data.train_y.bincount().tolist())
    counts = torch.bincount(data.train_y)
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1)
    assert float(weights[1] / weights[0]) == pytest.approx(float(counts[0] / counts[1]))
    losses = []
    torch.manual_seed(0)
    model = sc.MLP(8, 12, 3, 2)
    expected = nn.functional.cross_entropy(model(data.train_x), data.train_y, weight=weights)
    recipe = Recipe(epochs=1, batch_size=64, class_weights=weights)
    Training(model, data, recipe).run(lambda progress: losses.append(float(progress.loss)))
    assert losses == [pytest.approx(expected.item(), rel=1e-5)]


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"patience": 0}, {"clip": 0.0}, {"weight_decay": -1.0}],
)
def test_a_number_out_of_range_is_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**wrong)
