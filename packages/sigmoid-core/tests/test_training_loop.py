"""The training loop: when the rate falls, when training ends, and what a step and an epoch report."""

import pytest
import torch
from torch import nn

import sigmoidcore as sc
from sigmoidcore.training_loop import Schedule, Training, adamw, narrow_layers


def epochs_of(values, epochs=200):
    """The epoch at which the rate begins to fall and the epoch at which training ends, with a patience of 10."""
    schedule, shares = Schedule(epochs, tol=0.5, patience=10), []
    for value in values:
        schedule.after_epoch(value)
        shares.append(schedule.share(1.0))
        if schedule.finished:
            return sum(share == 1 for share in shares) + 1, len(shares)
    raise AssertionError("training did not end")


def improving_until(last):
    return [-min(epoch, last) for epoch in range(1, 201)]


@pytest.mark.parametrize("last", [85, 88, 89, 90, 100])
def test_training_ends_only_without_an_improvement_during_the_fall(last):
    fall = min(last + 11, 100)
    assert epochs_of(improving_until(last)) == (fall, fall + 11)


def test_of_an_odd_number_of_epochs_the_middle_one_does_not_count():
    assert epochs_of(improving_until(92), epochs=199) == (99, 100 + 11)


@pytest.mark.parametrize(("last", "end"), [(101, 112), (150, 161), (195, 200)])
def test_training_continues_while_the_loss_improves(last, end):
    assert epochs_of(improving_until(last)) == (100, end)


def test_the_rate_falls_over_as_many_epochs_as_it_was_at_its_peak():
    assert epochs_of([*improving_until(20)[:31], *range(-21, -100, -1)]) == (31, 62)


def training_of(lr=0.03):
    model = sc.MLP(4, 8, 3, 2)
    inputs, targets = torch.randn(40, 4), torch.randint(2, (40,))
    sc.prepare(model, inputs)
    optimizer = adamw(model, lr, weight_decay=0.1)
    training = Training(model, nn.functional.cross_entropy, optimizer, sc.Equalizer(model, optimizer, every=1))
    return training, lambda: zip(inputs.split(16), targets.split(16), strict=True)


def test_an_epoch_reports_the_mean_loss_of_its_samples_and_the_rate_falls_within_it():
    training, batches = training_of()
    losses, epochs, rates = [], [], []

    def loss_fn(outputs, targets):
        loss = nn.functional.cross_entropy(outputs, targets)
        losses.append(loss.item())
        rates.append(training.optimizer.param_groups[0]["lr"])
        return loss

    training.loss_fn = loss_fn
    training.run(batches, 40, Schedule(2), on_epoch=lambda loss: epochs.append(loss) or loss)
    sizes = [16, 16, 8]
    means = [sum(n * x for n, x in zip(sizes, part, strict=True)) / 40 for part in (losses[:3], losses[3:])]
    assert epochs == pytest.approx(means)
    assert [rate / rates[0] for rate in rates] == pytest.approx([1, 1, 1, 1, 0.6, 0.2])
    assert epochs[1] < epochs[0]


def test_the_equalizer_ends_with_the_training():
    training, batches = training_of()
    training.run(batches, 40, Schedule(1))
    assert len(training.equalizer.history) == 3
    training.step(*next(batches()))
    assert len(training.equalizer.history) == 3


def test_a_loss_that_is_not_finite_is_an_error():
    training, batches = training_of(lr=1e30)
    with pytest.raises(FloatingPointError, match="the loss or a weight is not finite"):
        training.run(batches, 40, Schedule(5))


def test_settings_of_pytorch_are_restored():
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    with narrow_layers():
        assert torch.get_num_threads() == 1
        assert float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0
    assert torch.get_num_threads() == threads + 1
    assert float(torch.tensor(1e-310, dtype=torch.float64) * 1) > 0
    torch.set_num_threads(threads)
