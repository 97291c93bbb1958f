"""What `make gpu` runs on a GPU runs on a CPU."""

import pytest
import torch

import gpu
from speed import Clock

CPU, SIZE = torch.device("cpu"), (2, 8, 16)


@pytest.mark.parametrize("precision", gpu.PRECISIONS)
def test_a_step_of_each_network_is_timed_in_every_precision(precision):
    found = gpu.compared(Clock(CPU, 0.0), SIZE, precision, "eager")
    assert {f"{name} ms" for name in gpu.networks(SIZE, CPU)} < found.keys()
    assert found["core over sigmoid"] > 0


@pytest.mark.parametrize("follower", ["equalizer", "monitor"])
def test_a_followed_training_is_compared_with_the_same_one_alone(follower):
    found = gpu.overhead(CPU, SIZE, follower, steps=3, pairs=1)
    assert 0 < found["lowest"] <= found["ratio"] <= found["highest"]
