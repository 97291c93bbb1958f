"""Two processes train one model: all ranks measure the same, and what one process with the joined batch measures."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from sigmoidcore import Monitor
from sigmoidcore.diagnosis.diagnose import diagnose
from sigmoidcore.diagnosis.measure.measurement import Measurement

pytestmark = pytest.mark.integration

RANKS = 2
ROWS = 30
"""Samples of a rank a step."""
FEW = 11
"""Samples of rank 1 where they are unequal."""


# --- two processes ---------------------------------------------------------------------------------------------------

WORKS: dict[str, Callable[[int], Any]] = {}
"""What both ranks do, by name: all of it in one pair of processes, for starting them takes seconds."""


def on_ranks(work: Callable[[int], Any]) -> Callable[[int], Any]:
    """Have both ranks call this function with their number; the fixture `ranks` has what they returned."""
    WORKS[work.__name__] = work
    return work


def _worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS, timeout=timedelta(seconds=60)
    )
    try:
        torch.save({name: work(rank) for name, work in WORKS.items()}, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[int], Any]], list[Any]]:
    """What a function that is marked `on_ranks` returned on each rank."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_worker, args=(folder,), nprocs=RANKS, join=True)
    results = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]
    return lambda work: [of_rank[work.__name__] for of_rank in results]


# --- the training ----------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """All kinds of layers; some units are dead, some saturated, and a parameter has rows that are all alike."""

    def __init__(self) -> None:
        super().__init__()
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


def build() -> Network:
    torch.manual_seed(1)
    return Network()


def batch(step: int, rows: slice) -> tuple[Tensor, Tensor]:
    """Rows of the joined batch of a step; the ranks have different data, of different size and mean."""
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(RANKS * ROWS, 8, generator=generator)
    x[ROWS:] = x[ROWS:] * 1.5 + 0.3
    return x[rows], torch.randint(0, 3, (RANKS * ROWS,), generator=generator)[rows]


def mine(rank: int) -> slice:
    return slice(rank * ROWS, (rank + 1) * ROWS)


def unequal(rank: int) -> slice:
    return slice(ROWS, ROWS + FEW) if rank else slice(ROWS)


def mean_of(model: nn.Module, x: Tensor, y: Tensor, parts: list[slice]) -> Tensor:
    """The loss of one process that has the ranks' batches: the mean of theirs."""
    loss = nn.functional.cross_entropy(model(x), y, reduction="none")
    return torch.stack([loss[part].mean() for part in parts]).mean()


def train(
    model: nn.Module,
    rows: slice,
    *,
    parts: list[slice] | None = None,
    micro_batches: int = 1,
    accumulating: Callable[[nn.Module], Any] = lambda model: nullcontext(),
    watched: nn.Module | None = None,
    steps: int = 4,
    every: int = 3,
    **options: Any,
) -> list[Measurement]:
    """Train, and return what a Monitor of `watched`, or of the model itself, has measured."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(watched or model, every=every, **options) as monitor:
        for step in range(steps):
            optimizer.zero_grad()
            for part in range(micro_batches):
                x, y = batch(micro_batches * step + part, rows)
                with accumulating(model) if part < micro_batches - 1 else nullcontext():
                    (mean_of(model, x, y, parts or [slice(None)]) / micro_batches).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1e-2)
            optimizer.step()
    return monitor.measurements


JOINED = [slice(ROWS), slice(ROWS, None)]


def data_parallel(model: nn.Module, **options: Any) -> nn.Module:
    return DistributedDataParallel(model, **options)


def sharded(model: Network) -> nn.Module:
    for layer in (model.first, model.second):
        fully_shard(layer)
    return fully_shard(model)  # type: ignore[no-any-return]


@contextmanager
def unsynchronised(model: Any) -> Iterator[None]:
    """What `no_sync` is with FSDP2."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def plain(measurement: Measurement) -> dict[str, Any]:
    """As dicts, without what is different in each process: the time, and wrappers' parts of names."""
    found = dataclasses.asdict(measurement) | {"seconds": None}
    for one in (*found["layers"], *found["weights"]):
        for name in ("name", "module"):
            if name in one:
                one[name] = one[name].removeprefix("module.").removeprefix("module")
    for layer in found["layers"]:
        layer["weights"] = [name.removeprefix("module.") for name in layer["weights"]]
    return found


def assert_same_on_all_ranks(results: list[list[Measurement]]) -> None:
    first, second = ([plain(m) for m in of_rank] for of_rank in results)
    for a, b in zip(first, second, strict=True):
        for one in (a, b):
            for layer in one["layers"]:
                layer["shape"] = None  # of this rank's batch
        assert repr(a) == repr(b)


CLOSE = {"gradient", "gain", "rms", "mean", "relative_slope", "size", "update", "input_rms"}
EQUAL = {"name", "kind", "role", "sources", "weights", "rows", "neurons", "dead", "saturated", "nonfinite"} | {
    *("nonfinite_gradient", "trains", "used", "alike", "samples", "step", "input_nonfinite", "notes"),
}


def assert_that_of_one_process(found: Measurement, alone: Measurement) -> None:
    """Sizes to 1e-4; counts and names exactly."""
    assert found.ranks == RANKS
    a, b = plain(found), plain(alone)
    pairs = [("measurement", a, b)]
    for kind in ("layers", "weights"):
        assert len(a[kind]) == len(b[kind])
        pairs += [(one["name"], one, other) for one, other in zip(a[kind], b[kind], strict=True)]
    for place, one, other in pairs:
        for name in one:
            if name in EQUAL and place != "measurement":
                assert one[name] == other[name], (place, name)
            elif name in CLOSE and None in (one[name], other[name]):
                assert one[name] is other[name] is None, (place, name)
            elif name in CLOSE:
                assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-7, nan_ok=True), (place, name)
    for name in ("samples", "step", "input_nonfinite", "notes"):
        assert a[name] == b[name], name
    if b["loss"] is not None:
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    assert a["input_rms"] == pytest.approx(b["input_rms"], rel=1e-4)
    shapes = [w["shape"] for w in a["weights"]]
    assert shapes == [w["shape"] for w in b["weights"]]


def assert_measured(results: list[list[Measurement]], alone: list[Measurement]) -> None:
    assert_same_on_all_ranks(results)
    assert [m.step for m in results[0]] == [m.step for m in alone]
    for found, expected in zip(results[0], alone, strict=True):
        assert_that_of_one_process(found, expected)
    by_name = {layer.name: layer for layer in alone[0].layers}
    assert by_name["relu"].dead == 3 / 16
    assert by_name["sigmoid"].saturated == 5 / 16
    assert [w.name for w in alone[0].weights if w.alike] == ["third.weight"]
    assert all(layer.gradient for layer in alone[0].layers)
    assert all(w.update for w in alone[0].weights if w.size > 0)


# --- DistributedDataParallel -----------------------------------------------------------------------------------------


@on_ranks
def ddp(rank: int) -> list[Measurement]:
    return train(data_parallel(build()), mine(rank))


@on_ranks
def ddp_of_the_model_inside(rank: int) -> list[Measurement]:
    model = build()
    return train(data_parallel(model), mine(rank), watched=model)


@on_ranks
def ddp_that_looks_for_unused_parameters(rank: int) -> list[Measurement]:
    return train(data_parallel(build(), find_unused_parameters=True), mine(rank))


@on_ranks
def ddp_with_a_static_graph(rank: int) -> list[Measurement]:
    return train(data_parallel(build(), static_graph=True), mine(rank))


@on_ranks
def ddp_with_gradients_in_buckets(rank: int) -> list[Measurement]:
    return train(data_parallel(build(), gradient_as_bucket_view=True), mine(rank))


@on_ranks
def fsdp(rank: int) -> list[Measurement]:
    return train(sharded(build()), mine(rank))


@on_ranks
def fsdp_after_the_monitor(rank: int) -> list[Measurement]:
    model = build()
    with Monitor(model, every=3) as monitor:
        sharded(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(4):
            one_step(model, [optimizer], step, rank)
    return monitor.measurements


@on_ranks
def fsdp_with_two_optimizers(rank: int) -> list[Measurement]:
    model = sharded(build())
    of = [[p for p in model.parameters() if (p.dim() == 2) is matrices] for matrices in (True, False)]
    optimizers = [torch.optim.SGD(parameters, lr=0.1) for parameters in of]
    with Monitor(model, every=3) as monitor:
        for step in range(4):
            one_step(model, optimizers, step, rank)
    return monitor.measurements


def one_step(model: nn.Module, optimizers: list[torch.optim.Optimizer], step: int, rank: int) -> None:
    model.zero_grad()
    x, y = batch(step, mine(rank))
    nn.functional.cross_entropy(model(x), y).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-2)
    for optimizer in optimizers:
        optimizer.step()


@pytest.mark.parametrize(
    "work",
    [
        ddp,
        fsdp_after_the_monitor,
        fsdp_with_two_optimizers,
        ddp_of_the_model_inside,
        ddp_that_looks_for_unused_parameters,
        ddp_with_a_static_graph,
        ddp_with_gradients_in_buckets,
        fsdp,
    ],
)
def test_all_ranks_measure_the_same_and_what_one_process_measures_of_the_joined_batch(ranks: Any, work: Any) -> None:
    assert_measured(ranks(work), train(build(), slice(None), parts=JOINED))


@on_ranks
def ddp_of_unequal_batches(rank: int) -> list[Measurement]:
    return train(data_parallel(build()), unequal(rank))


@on_ranks
def fsdp_of_unequal_batches(rank: int) -> list[Measurement]:
    return train(sharded(build()), unequal(rank))


@pytest.mark.parametrize("work", [ddp_of_unequal_batches, fsdp_of_unequal_batches])
def test_ranks_with_batches_of_unequal_size_measure_the_mean_of_their_losses(ranks: Any, work: Any) -> None:
    alone = train(build(), slice(ROWS + FEW), parts=JOINED)
    assert alone[0].samples == ROWS + FEW
    assert_measured(ranks(work), alone)


@on_ranks
def ddp_that_accumulates(rank: int) -> list[Measurement]:
    return train(data_parallel(build()), mine(rank), micro_batches=3, accumulating=lambda model: model.no_sync())


@on_ranks
def ddp_that_accumulates_synchronised(rank: int) -> list[Measurement]:
    return train(data_parallel(build()), mine(rank), micro_batches=3)


@on_ranks
def fsdp_that_accumulates(rank: int) -> list[Measurement]:
    return train(sharded(build()), mine(rank), micro_batches=3, accumulating=unsynchronised)


@on_ranks
def fsdp_that_accumulates_synchronised(rank: int) -> list[Measurement]:
    return train(sharded(build()), mine(rank), micro_batches=3)


@pytest.mark.parametrize(
    "work",
    [
        ddp_that_accumulates,
        ddp_that_accumulates_synchronised,
        fsdp_that_accumulates,
        fsdp_that_accumulates_synchronised,
    ],
)
def test_micro_batches_of_all_ranks_are_joined(ranks: Any, work: Any) -> None:
    alone = train(build(), slice(None), parts=JOINED, micro_batches=3)
    assert alone[0].samples == 3 * RANKS * ROWS
    assert_measured(ranks(work), alone)


# --- numbers that are not finite -------------------------------------------------------------------------------------


def with_bad_numbers(model: nn.Module, rank: int | None, bad: Tensor) -> Measurement:
    """One step, in which samples of rank 1 hold nan, and so do three numbers of a weight."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, every=1) as monitor:
        x, y = batch(0, slice(None) if rank is None else mine(rank))
        x[-2:] = bad
        parts = JOINED if rank is None else [slice(None)]
        mean_of(model, x, y, parts).backward()
        optimizer.step()
    return monitor.measurements[0]


def broken() -> Network:
    model = build()
    with torch.no_grad():
        model.head.weight[0, :2] = torch.nan
        model.head.weight[2, 0] = torch.inf
    return model


@on_ranks
def ddp_with_nan(rank: int) -> list[Measurement]:
    bad = torch.tensor(torch.nan if rank else 0.0)
    return [with_bad_numbers(data_parallel(broken()), rank, bad)]


@on_ranks
def fsdp_with_nan(rank: int) -> list[Measurement]:
    bad = torch.tensor(torch.nan if rank else 0.0)
    return [with_bad_numbers(sharded(broken()), rank, bad)]


@pytest.mark.parametrize("work", [ddp_with_nan, fsdp_with_nan])
def test_numbers_that_are_not_finite_are_counted_over_all_ranks_and_parts(ranks: Any, work: Any) -> None:
    results = ranks(work)
    assert_same_on_all_ranks(results)
    found = results[0][0]
    weights = {w["name"]: w for w in plain(found)["weights"]}
    assert weights["head.weight"]["nonfinite"] == 3
    assert {n: w["nonfinite"] for n, w in weights.items() if n != "head.weight"} == dict.fromkeys(
        weights.keys() - {"head.weight"}, 0
    )
    assert all(w["nonfinite_gradient"] == torch.Size(w["shape"]).numel() for w in weights.values())
    assert found.input_nonfinite == 2 * 8
    layers = {layer["name"]: layer for layer in plain(found)["layers"]}
    assert layers["first"]["nonfinite"] == 2 * 16
    assert layers["head"]["nonfinite"] == 2 * RANKS * ROWS + 2  # two of three outputs, and all of a bad sample


# --- what goes wrong on one rank -------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Uses other layers on every rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.body, self.one, self.two = nn.Linear(8, 6), nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.one(x.relu()) if self.rank == 0 else self.two(self.two.weight.mean() * x.tanh().sigmoid())  # type: ignore[no-any-return]


@on_ranks
def other_layers_on_each_rank(rank: int) -> list[Measurement]:
    torch.manual_seed(1)
    return train(data_parallel(Branches(rank), find_unused_parameters=True), mine(rank), every=2)


def test_ranks_that_run_other_layers_measure_their_own_and_say_so(ranks: Any) -> None:
    first, second = ranks(other_layers_on_each_rank)
    for a, b in zip(first, second, strict=True):
        assert a.step == b.step
        assert [w.gradient for w in a.weights] == [w.gradient for w in b.weights]
        assert [w.used for w in a.weights] == [w.used for w in b.weights] == [True] * 6
        for m in (a, b):
            assert any("the ranks ran different layers" in note for note in m.notes)
        assert [layer.kind for layer in a.layers] == ["Linear", "relu()", "Linear"]
        assert [layer.kind for layer in b.layers] == ["Linear", "tanh()", "sigmoid()", "Linear"]


@on_ranks
def a_missing_backward_pass(rank: int) -> list[Measurement]:
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with Monitor(model, every=2) as monitor:
        for step in range(5):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(batch(step, mine(rank))[0]), batch(step, mine(rank))[1])
            if (rank, step) != (0, 0):
                loss.backward()
            optimizer.step()
    return monitor.measurements


def test_a_step_that_one_rank_has_not_seen_is_measured_by_none_and_the_next_one_by_all(ranks: Any) -> None:
    results = ranks(a_missing_backward_pass)
    assert [[m.step for m in of_rank] for of_rank in results] == [[1, 2, 4]] * 2


@on_ranks
def scaled_with_ddp(rank: int) -> list[Measurement]:
    return scaled(data_parallel(build()), mine(rank))


@on_ranks
def scaled_with_fsdp(rank: int) -> list[Measurement]:
    return scaled(sharded(build()), mine(rank))


def scaled(model: nn.Module, rows: slice) -> list[Measurement]:
    """Twelve steps that a scaler skips, and one that it does not."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=10**6)
    with Monitor(model, every=1, scaler=scaler) as monitor:
        for step in range(13):
            optimizer.zero_grad()
            x, y = batch(0, rows)
            parts = JOINED if len(x) > ROWS else [slice(None)]
            scaler.scale(mean_of(model, x, y, parts) * (torch.nan if step < 12 and rows.start != 0 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
    return monitor.measurements


@pytest.mark.parametrize("work", [scaled_with_ddp, scaled_with_fsdp])
def test_ten_steps_that_the_scaler_skips_on_all_ranks_are_measured_by_all(ranks: Any, work: Any) -> None:
    results = ranks(work)
    assert_same_on_all_ranks(results)
    assert [m.step for m in results[0]] == [0]
    assert any("10 steps in a row were skipped" in note for note in results[0][0].notes)


@on_ranks
def each_rank_by_itself(rank: int) -> list[Measurement]:
    groups = [dist.new_group([r]) for r in range(RANKS)]
    return train(build(), mine(rank), process_group=groups[rank])


def test_with_a_group_for_every_rank_each_measures_its_own(ranks: Any) -> None:
    for rank, found in enumerate(ranks(each_rank_by_itself)):
        alone = train(build(), mine(rank))
        for a, b in zip(found, alone, strict=True):
            assert a.ranks == 1
            assert [layer.gradient for layer in a.layers] == [layer.gradient for layer in b.layers]


# --- diagnose --------------------------------------------------------------------------------------------------------


def diagnosed(model: nn.Module, rows: slice, parts: list[slice]) -> Measurement:
    x, y = batch(0, rows)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return mean_of(lambda _: outputs, x, targets, parts)  # type: ignore[arg-type]

    before = [p.grad for p in model.parameters()]
    measurement = diagnose(model, x, y, loss).measurement
    assert all(p.grad is g for p, g in zip(model.parameters(), before, strict=True))
    return measurement


@on_ranks
def diagnosed_with_ddp(rank: int) -> list[Measurement]:
    return [diagnosed(data_parallel(build()), mine(rank), [slice(None)])]


@on_ranks
def diagnosed_with_fsdp(rank: int) -> list[Measurement]:
    return [diagnosed(sharded(build()), mine(rank), [slice(None)])]


@pytest.mark.parametrize("work", [diagnosed_with_ddp, diagnosed_with_fsdp])
def test_a_diagnosis_of_all_ranks_is_that_of_one_process_with_the_joined_batch(ranks: Any, work: Any) -> None:
    results = ranks(work)
    assert_same_on_all_ranks(results)
    assert_that_of_one_process(results[0][0], diagnosed(build(), slice(None), JOINED))


@on_ranks
def trained_after_a_diagnosis(rank: int) -> list[list[Tensor]]:
    made = []
    for look in (False, True):
        for wrap in (data_parallel, sharded):
            model = wrap(build())
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(3):
                optimizer.zero_grad()
                x, y = batch(step, mine(rank))
                nn.functional.cross_entropy(model(x), y).backward()
                if look:
                    diagnose(model, x, y, nn.functional.cross_entropy)
                optimizer.step()
            made.append([(p.full_tensor() if hasattr(p, "full_tensor") else p).detach() for p in model.parameters()])
    return made


def test_a_training_goes_on_after_a_diagnosis_as_if_there_had_been_none(ranks: Any) -> None:
    for ddp_without, fsdp_without, ddp_with, fsdp_with in ranks(trained_after_a_diagnosis):
        assert all(torch.equal(a, b) for a, b in zip(ddp_without, ddp_with, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(fsdp_without, fsdp_with, strict=True))
