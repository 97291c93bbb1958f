"""The loop of the benchmarks is a plain loop of PyTorch."""

import pytest
import torch
from torch import nn

import sigmoidcore as sc
from training import DivergedError, Split, digits, train


def halves(samples: int = 70) -> Split:
    x = torch.randn(samples, 6)
    y = (x.sum(1) > 0).long()
    return Split("halves", x, y, x, y, classes=2)


@pytest.mark.parametrize("equalize", [True, False])
def test_a_training_is_that_of_a_loop_by_hand(equalize: bool) -> None:
    split = halves()
    model, other = (sc.MLP(6, 8, 4, 2) for _ in range(2))
    other.load_state_dict(model.state_dict())
    result = train(model, split, epochs=3, batch_size=20, seed=5, lr=0.1, weight_decay=0.1, equalize=equalize)

    optimizer = torch.optim.AdamW(sc.depth_scaled_lr(other, 0.1), weight_decay=0.1, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / 12)))
    equalizer = sc.Equalizer(other, optimizer) if equalize else None
    generator = torch.Generator().manual_seed(5)
    losses = []
    for _ in range(3):
        for rows in torch.randperm(70, generator=generator).split(20):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(other(split.train_x[rows]), split.train_y[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item() * len(rows))
    for mine, by_hand in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, by_hand)
    assert result.losses == pytest.approx([sum(losses[i : i + 4]) / 70 for i in (0, 4, 8)], rel=1e-5)
    right = (other(split.test_x).argmax(1) == split.test_y).float().mean().item()
    assert result.accuracies[-1] == pytest.approx(100 * right)
    assert len(result.history) == (len(equalizer.history) if equalizer else 0)


def test_a_loss_that_is_not_finite_ends_the_training_with_the_epochs_before() -> None:
    model = nn.Linear(6, 2)

    def spoil(step: int) -> None:
        if step == 5:
            nn.init.constant_(model.weight, float("inf"))

    with pytest.raises(DivergedError, match="not finite at step 6: use a smaller lr") as error:
        train(model, halves(), epochs=3, batch_size=20, equalize=False, on_step=spoil)
    assert len(error.value.result.accuracies) == 1


def test_the_digits_are_scaled_by_all_training_pixels_and_their_classes_are_split_evenly() -> None:
    split = digits()
    assert (split.train_x.shape, split.test_x.shape) == ((1400, 64), (397, 64))
    assert split.train_x.mean().item() == pytest.approx(0, abs=1e-6)
    assert split.train_x.std().item() == pytest.approx(1, abs=1e-3)
    assert (split.test_y.bincount() - 39.7).abs().max() < 2
