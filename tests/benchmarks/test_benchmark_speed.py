"""What benchmarks/speed.py measures with, on a CPU."""

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import speed
from speed import Clock

CPU = torch.device("cpu")
SIZE = (4, 16, 8)


def test_a_ratio_is_the_median_over_the_rounds():
    assert speed.ratio({"a": [1.0, 9.0, 4.0], "b": [1.0, 3.0, 2.0]}, "a", "b") == 2.0


def test_all_actions_run_in_every_round_and_once_before_in_changing_order():
    order = []
    actions = {name: (lambda name=name: order.append(name)) for name in "abc"}
    taken = Clock(CPU, 0.0).compared(actions, least=20)
    assert {name: len(times) for name, times in taken.items()} == dict.fromkeys("abc", 20)
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert rounds[0] == "abc"
    assert all(sorted(r) == list("abc") for r in rounds)
    assert len(set(rounds)) > 3


def test_the_floor_is_three_products_a_layer():
    with FlopCounterMode(display=False) as counter:
        speed.products(SIZE, CPU, torch.float32)()
    assert counter.get_total_flops() == 4 * 3 * 2 * 8 * 16 * 16


def test_a_plain_network_keeps_the_output_of_every_sigmoid():
    _, plain, x, _ = speed.networks(SIZE, CPU, torch.float32)
    assert speed.saved_bytes(plain, x) == 4 * 4 * 8 * 16
    assert type(plain) is nn.Sequential


def test_both_networks_have_the_same_layers():
    cores, plain, x, _ = speed.networks(SIZE, CPU, torch.float32)
    assert [p.shape for p in cores.parameters()] == [p.shape for p in plain.parameters()]
    assert cores(x).shape == plain(x).shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_compared_with_all_that_it_is_to_be_compared_with(dtype, calls):
    found = speed.training_step(Clock(CPU, 0.0), SIZE, dtype)
    assert all(math.isfinite(value) and value > 0 for value in found.values())
    assert found["saved_over_plain"] == 1
    assert calls


def test_checkpoints_keep_less():
    found = speed.checkpointed(Clock(CPU, 0.0), 36)
    assert found["kept_mib"] < found["kept_whole_mib"] / 2


@pytest.mark.parametrize(
    "measured",
    [
        lambda c: speed.preparing(c, SIZE),
        lambda c: speed.by_depth(c, (2, 4, 8)),
        lambda c: speed.watched(SIZE, 3, 2),
    ],
)
def test_the_other_figures_are_numbers(measured):
    assert all(math.isfinite(value) for value in measured(Clock(CPU, 0.0)).values())


def test_a_missing_gpu_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["speed.py", "--device", "cuda"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        speed.parsed()
    assert "finds no GPU" in capsys.readouterr().err
