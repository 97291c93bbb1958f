"""The Monitor and `diagnose` in two processes: both measure the same, as one process does with the joined batch."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from support.two_processes import RANKS, ROWS, TwoProcesses, data_parallel, joined_batch, rows_of, sharded
from torch import Tensor, nn

from sigmoidcore import Monitor
from unstuck.diagnose import diagnose
from unstuck.measure.measurement import Measurement

pytestmark = pytest.mark.integration
on_ranks = TwoProcesses()

FEW = 11
"""Samples of rank 1 if the ranks have different numbers."""


class Network(nn.Module):
    """All kinds of layers; some units are dead, some saturated, and the rows of one parameter are equal."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 16)
        self.third = nn.Linear(16, 5, bias=False)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(5, 3)
        with torch.no_grad():
            self.first.bias[:3] = -100.0
            self.second.bias[:5] = 40.0
            self.third.weight.copy_(self.third.weight[:1].clone().expand(5, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x).relu())
        return self.head(self.third(self.second(x).sigmoid()).tanh())  # type: ignore[no-any-return]


def batch(step: int, rank: int | None, uneven: bool = False) -> tuple[Tensor, Tensor]:
    x, y = joined_batch(step)
    end = ROWS + FEW if uneven else 2 * ROWS
    return x[:end][rows_of(rank)], y[:end][rows_of(rank)]


def loss_of(outputs: Tensor, y: Tensor, rank: int | None) -> Tensor:
    """Cross-entropy; in one process with the joined batch, the mean of the ranks' losses."""
    loss = nn.functional.cross_entropy(outputs, y, reduction="none")
    return loss.mean() if rank is not None else (loss[:ROWS].mean() + loss[ROWS:].mean()) / RANKS


def train(
    rank: int | None = None,
    wrap: Callable[..., nn.Module] = lambda model: model,
    *,
    monitor_inside: bool = False,
    monitor_first: bool = False,
    two_optimizers: bool = False,
    micro_batches: int = 1,
    accumulating: Callable[[Any], Any] = lambda model: nullcontext(),
    uneven: bool = False,
    **options: Any,
) -> list[Measurement]:
    """Four steps, of which a Monitor measures two."""
    model = Network()
    parallel = model if monitor_first else wrap(model)
    with Monitor(model if monitor_inside else parallel, every=3, **options) as monitor:
        parallel = wrap(model) if monitor_first else parallel
        parameters = list(parallel.parameters())
        groups = [parameters[::2], parameters[1::2]] if two_optimizers else [parameters]
        optimizers = [torch.optim.SGD(group, lr=0.1) for group in groups]
        for step in range(4):
            parallel.zero_grad()
            for part in range(micro_batches):
                x, y = batch(micro_batches * step + part, rank, uneven)
                with accumulating(parallel) if part < micro_batches - 1 else nullcontext():
                    (loss_of(parallel(x), y, rank) / micro_batches).backward()
            nn.utils.clip_grad_norm_(parallel.parameters(), 1e-2)
            for optimizer in optimizers:
                optimizer.step()
    return monitor.measurements


@contextmanager
def unsynchronised(model: Any) -> Iterator[None]:
    """What `no_sync` is with FSDP2."""
    model.set_requires_gradient_sync(False)
    yield
    model.set_requires_gradient_sync(True)


def no_sync(model: Any) -> Any:
    return model.no_sync()


DIFFERENT = {
    "ranks", "shape", "loss_function", "loss_reads", "spread", "input_spread", "comparisons", "answers", "histogram",
    "low", "high",
}  # fmt: skip
"""Fields of a process, of the way in which the loss is written, and those that are joined approximately."""


def fields(measurement: Measurement) -> dict[str, Any]:
    """All numbers and texts by their place, without wrappers' parts of names."""
    found: dict[str, Any] = {}

    def walk(place: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                if name not in DIFFERENT:
                    walk(f"{place}.{name}", item)
        elif isinstance(value, list | tuple):
            found[f"{place} length"] = len(value)
            for number, item in enumerate(value):
                walk(f"{place}[{number}]", item)
        else:
            found[place] = value.removeprefix("module.").removeprefix("module") if isinstance(value, str) else value

    walk("", dataclasses.asdict(measurement))
    return found


def assert_same(found: Measurement, expected: Measurement, tolerance: float = 1e-4) -> None:
    a, b = fields(found), fields(expected)
    assert a.keys() == b.keys()
    for place, value in a.items():
        if isinstance(value, float) and b[place] is not None:
            assert value == pytest.approx(b[place], rel=tolerance, abs=tolerance * 1e-3, nan_ok=True), place
        else:
            assert value == b[place], place


def assert_measured(results: list[list[Measurement]], alone: list[Measurement]) -> None:
    """Both ranks measured the same, and what one process measured."""
    for first, second, expected in zip(*results, alone, strict=True):
        assert first.ranks == RANKS
        assert_same(first, second, tolerance=0)
        assert_same(first, expected)


TRAININGS: dict[str, dict[str, Any]] = {
    "DDP": {"wrap": data_parallel},
    "DDP, monitor of the model inside": {"wrap": data_parallel, "monitor_inside": True},
    "DDP that looks for unused parameters": {"wrap": lambda m: data_parallel(m, find_unused_parameters=True)},
    "DDP with a static graph": {"wrap": lambda m: data_parallel(m, static_graph=True)},
    "DDP with gradients in buckets": {"wrap": lambda m: data_parallel(m, gradient_as_bucket_view=True)},
    "DDP, uneven": {"wrap": data_parallel, "uneven": True},
    "DDP, micro-batches": {"wrap": data_parallel, "micro_batches": 3, "accumulating": no_sync},
    "FSDP2": {"wrap": sharded},
    "FSDP2 after the monitor": {"wrap": sharded, "monitor_first": True},
    "FSDP2 with two optimizers": {"wrap": sharded, "two_optimizers": True},
    "FSDP2, uneven": {"wrap": sharded, "uneven": True},
    "FSDP2, micro-batches": {"wrap": sharded, "micro_batches": 3, "accumulating": unsynchronised},
}


@on_ranks
def trainings(rank: int) -> dict[str, list[Measurement]]:
    return {name: train(rank, **options) for name, options in TRAININGS.items()}


@pytest.mark.parametrize("name", TRAININGS)
def test_both_ranks_measure_what_one_process_measures_of_the_joined_batch(ranks: Any, name: str) -> None:
    options = {key: value for key, value in TRAININGS[name].items() if key in ("micro_batches", "uneven")}
    alone = train(**options)
    assert_measured([results[name] for results in ranks(trainings)], alone)
    assert [m.step for m in alone] == [0, 3]
    layers = {layer.name: layer for layer in alone[0].layers}
    assert (layers["relu"].dead, layers["sigmoid"].saturated) == (3 / 16, 5 / 16)
    assert [weight.name for weight in alone[0].weights if weight.alike] == ["third.weight"]
    assert alone[0].samples == options.get("micro_batches", 1) * (ROWS + (FEW if "uneven" in options else ROWS))


def diagnosed(model: nn.Module, rank: int | None) -> Measurement:
    measurement = diagnose(model, *batch(0, rank), lambda outputs, y: loss_of(outputs, y, rank)).measurement
    assert all(p.grad is None for p in model.parameters())
    return measurement


@on_ranks
def diagnoses(rank: int) -> list[Measurement]:
    return [diagnosed(wrap(Network()), rank) for wrap in (data_parallel, sharded)]


def test_a_diagnosis_of_both_ranks_is_that_of_one_process_with_the_joined_batch(ranks: Any) -> None:
    assert_measured(ranks(diagnoses), 2 * [diagnosed(Network(), None)])


@on_ranks
def not_finite(rank: int) -> list[Measurement]:
    """Two samples of rank 1 are nan, and three numbers of a weight are not finite."""
    found = []
    for wrap in (data_parallel, sharded):
        model = Network()
        with torch.no_grad():
            model.head.weight[0, :2] = torch.nan
            model.head.weight[2, 0] = torch.inf
        model = wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Monitor(model, every=1) as monitor:
            x, y = batch(0, rank)
            x[-2:] = torch.nan if rank else 0.0
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        found += monitor.measurements
    return found


def test_numbers_that_are_not_finite_are_counted_over_all_ranks_and_shards(ranks: Any) -> None:
    for found, second in zip(*ranks(not_finite), strict=True):
        assert_same(found, second, tolerance=0)
        counts = {w.name.removeprefix("module."): w.nonfinite for w in found.weights if w.nonfinite}
        assert counts == {"head.weight": 3}
        assert all(w.nonfinite_gradient == math.prod(w.shape) for w in found.weights)
        assert found.input_nonfinite == 2 * 8
        layers = {layer.name.removeprefix("module."): layer for layer in found.layers}
        assert layers["first"].nonfinite == 2 * 16
        assert layers["head"].nonfinite == 2 * RANKS * ROWS + 2  # two of three outputs, and all of a bad sample


class Branches(nn.Module):
    """Uses other layers on every rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.rank = rank
        self.body, self.one, self.two = nn.Linear(8, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.one(x.relu()) if self.rank == 0 else self.two(self.two.weight.mean() * x.tanh().sigmoid())  # type: ignore[no-any-return]


@on_ranks
def different_layers(rank: int) -> Measurement:
    model = data_parallel(Branches(rank), find_unused_parameters=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, every=1) as monitor:
        x, y = batch(0, rank)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return monitor.measurements[0]


def test_ranks_that_run_different_layers_measure_their_own_and_a_note_says_so(ranks: Any) -> None:
    first, second = ranks(different_layers)
    assert [w.gradient for w in first.weights] == [w.gradient for w in second.weights]
    assert [w.used for w in first.weights] == [w.used for w in second.weights] == [True] * 6
    for measurement in (first, second):
        assert any("the ranks ran different layers" in note for note in measurement.notes)
    assert [layer.kind for layer in first.layers] == ["Linear", "relu()", "Linear"]
    assert [layer.kind for layer in second.layers] == ["Linear", "tanh()", "sigmoid()", "Linear"]


@on_ranks
def missing_backward_pass(rank: int) -> list[int | None]:
    """On rank 0, in the first step."""
    model = Network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Monitor(model, every=2) as monitor:
        for step in range(5):
            optimizer.zero_grad()
            x, y = batch(step, rank)
            loss = nn.functional.cross_entropy(model(x), y)
            if (rank, step) != (0, 0):
                loss.backward()
            optimizer.step()
    return [m.step for m in monitor.measurements]


def test_a_step_without_a_backward_pass_on_one_rank_is_measured_on_none_and_the_next_one_on_both(ranks: Any) -> None:
    assert ranks(missing_backward_pass) == [[1, 2, 4]] * 2
