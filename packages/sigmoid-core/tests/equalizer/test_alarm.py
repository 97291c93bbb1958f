"""The alarm: which changes of the gradient are sudden."""

import pytest
import torch

from sigmoidcore.equalizer.alarm import EVERY, START, Alarm


def rung(alarm, weights, sizes, *, wait=True):
    """For each step, whether the alarm rings at a gradient of this size."""
    found = []
    for size in sizes:
        for weight in weights:
            weight.grad = None if size is None else torch.full_like(weight, size)
        found.append(alarm.rings(wait=wait))
    return found


@pytest.fixture
def weights():
    return [torch.nn.Parameter(torch.ones(3, 3)) for _ in range(6)]


@pytest.fixture
def alarm(weights):
    return Alarm(lambda: weights, on=True)


@pytest.mark.parametrize(("factor", "rings"), [(3.0, False), (5.0, True), (0.2, False), (0.0, False)])
def test_a_steady_gradient_that_rises_by_more_than_four_twice_is_sudden_and_one_that_falls_is_not(
    alarm, weights, factor, rings
):
    assert rung(alarm, weights, [1.0] * (START + 5) + 2 * [factor]) == [False] * (START + 6) + [rings]


def test_one_odd_batch_is_not_sudden(alarm, weights):
    assert not any(rung(alarm, weights, [1.0] * (START + 5) + [100.0] + [1.0] * 5 + [100.0]))


def test_it_is_quiet_at_first_and_after_it_has_rung(alarm, weights):
    sizes = [1.0] * (START - 1) + [100.0] + [1.0] * 40 + [100.0] * 5
    assert rung(alarm, weights, sizes) == [False] * (START + 41) + [True] + [False] * 3


def test_where_large_changes_are_usual_larger_ones_are_sudden(alarm, weights):
    assert not any(rung(alarm, weights, [1.0, 5.0] * 50))
    assert rung(alarm, weights, [1000.0] * 2) == [False, True]


def test_one_weight_is_enough(alarm, weights):
    rung(alarm, weights, [1.0] * (START + 1))
    weights[0].grad.mul_(0.01)
    assert [alarm.rings(wait=True) for _ in range(2)] == [False, True]


@pytest.mark.parametrize("gradient", [None, float("nan"), float("inf")])
def test_a_gradient_that_is_missing_or_not_finite_says_nothing(alarm, weights, gradient):
    assert rung(alarm, weights, [1.0] * (START + 1) + [gradient, 1.0]) == [False] * (START + 3)


def test_sparse_gradients_and_vectors_are_not_looked_at():
    table = torch.nn.Embedding(5, 3, sparse=True)
    bias = torch.nn.Parameter(torch.ones(3))
    alarm = Alarm(lambda: [table.weight, bias], on=True)
    for size in [1.0] * (START + 1) + [100.0] * 2:
        table.weight.grad, bias.grad = None, None
        (size * (table(torch.tensor([1, 2])) + bias)).sum().backward()
        assert not alarm.rings(wait=True)


@pytest.mark.parametrize("trusted", [False, True])
def test_after_it_has_rung_it_may_ring_at_once_only_if_what_was_usual_is_usual_again(alarm, weights, trusted):
    assert rung(alarm, weights, [1.0] * (START + 1) + [100.0] * 2)[-1]
    alarm.quiet = 0 if trusted else alarm.quiet
    assert rung(alarm, weights, [1.0] + [100.0] * 2)[-1] == trusted


@pytest.mark.parametrize("late", range(EVERY))
def test_unless_it_is_told_to_it_looks_at_every_second_step_and_at_the_one_after_a_sudden_one(alarm, weights, late):
    sizes = [1.0] * (EVERY * (START + 1) - late) + [100.0] * (EVERY + 1)
    found = rung(alarm, weights, sizes, wait=False)
    assert [i - len(sizes) + EVERY + 1 for i, rings in enumerate(found) if rings] == [EVERY - late]
