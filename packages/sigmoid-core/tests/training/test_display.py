"""The view of a training, and numbers as text."""

import io
import math

import pytest
import torch
from rich.console import Console

from sigmoidcore.training import Progress, display
from sigmoidcore.training.data import Kind, task
from unstuck.observation import Profile

CLASSES = task(Kind.CLASSES)


def profile(*sizes):
    return Profile(tuple(map(str, range(len(sizes)))), torch.tensor(sizes, dtype=torch.float64))


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests turn."""
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("sizes", "drawn"),
    [
        ((1.0, 1e-3, 1e-6), "█▇▆"),
        ((1.0, 0.5, 2e-3), "███"),
        ((0.0, 1e-30, 1.0), " ▁█"),
        ((0.0, 0.0), "  "),
        ((math.nan, 1.0, math.inf), "!█!"),
        ((*[1.0] * 50, *[1.0, 0.0] * 25), "█████     "),  # a character shows the smallest of its layers
    ],
)
def test_a_level_of_a_bar_is_a_factor_of_1000(sizes, drawn):
    assert display.bars(profile(*sizes), 10) == drawn


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (6.2, "0:07"), (59.5, "1:00"), (3723, "1:02:03")])
def test_times_are_written_as_on_a_clock(seconds, text):
    assert display.clock(seconds) == text


@pytest.mark.parametrize(
    ("spread", "text"),
    [(1.0049, "1.005"), (2.345, "2.35"), (1.2e7, "1.2e+07"), (math.inf, "infinite"), (math.nan, "not finite")],
)
def test_a_spread_has_its_significant_digits(spread, text):
    assert display.number(spread) == text


def test_the_loss_is_read_at_most_four_times_a_second(clock):
    class Loss:
        read = 0

        def __float__(self):
            Loss.read += 1
            return 1.0

    screen = display.Screen(Console(file=io.StringIO(), force_terminal=True, width=80), live=True)
    with screen.training("a network", 1, CLASSES) as meter:
        for step in range(1, 2001):
            clock[0] += 0.001
            meter.update(Progress(0, step, 3000, Loss(), 0.0, None, None), 1.0, profile(1.0))
    assert 1 <= Loss.read <= 9


def plain_lines(clock, steps, seconds, progress):
    file = io.StringIO()
    with display.Screen.of_file(file).training("a network", 100, CLASSES) as meter:
        for step in range(1, steps + 1):
            clock[0] += seconds
            meter.update(progress(step), 1.0, profile(1.0))
    return file.getvalue().splitlines()


def test_plain_lines_appear_once_a_second_and_at_the_end(clock):
    loss = torch.tensor(0.5)
    lines = plain_lines(clock, 100, 0.1, lambda n: Progress(n - 1, n, 100, loss, 0.0, None, 50.0, 0.5))
    assert 10 <= len(lines) <= 12
    assert "epoch 100/100" in lines[-1]


def test_a_plain_line_at_the_end_of_an_epoch_has_no_step_and_fits_into_80_columns(clock):
    file = io.StringIO()
    screen = display.Screen(Console(file=file, width=80), live=False)
    with screen.training("a network", 10_000, CLASSES) as meter:
        for step in (100_000, 1_000_000):
            clock[0] += 20
            progress = Progress(9_999, step, 1_000_000, torch.tensor(0.00714), 0.0, None, 97.7, 0.00714)
            meter.update(progress, 1.2e7, profile(1.0))
    line = file.getvalue().splitlines()[-1]
    assert len(line) <= 80
    assert line.split()[:4] == ["epoch", "10000/10000", "loss", "0.00714"]
