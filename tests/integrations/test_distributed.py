"""Two processes train one model: all ranks move the same slopes, to the values that one process with all data gives."""

import inspect
import itertools
import math
import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from sigmoidcore import MLP, Equalizer, SigmoidCore, prepare
from sigmoidcore.gain import slope_for_floor
from sigmoidcore.observation.process_group import Ranks

pytestmark = pytest.mark.integration

RANKS = 2
STEPS = 50
ROWS = 30
"""Samples of a rank a step."""


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


def build(trainable: bool = False, hostile: bool = True) -> nn.Sequential:
    """A network, the same on every rank; a hostile one gives both rules something to do.

    Such a training is chaotic: within 50 steps a difference grows 10^5 times, in one process too. Hence float64.
    """
    torch.manual_seed(1)
    model = MLP(8, 16, 5, 3, activation=lambda n: SigmoidCore(n, alpha=4.0, centered=True, trainable=trainable))
    prepare(model, torch.randn(200, 8))
    if not hostile:
        return model.double()
    with torch.no_grad():
        model[5].set_slope(model[5].alpha * 6)  # for the layer rule
        model[6].bias[:3] += 12 / model[7].alpha[:3]  # saturated by offset: a shift is enough
        for tensor in (model[2].weight, model[2].bias, model[3].shift):
            tensor[:3] *= 400.0  # saturated by scale: needs the slope
    return model.double()


def batch(step: int, rows: slice) -> tuple[Tensor, Tensor]:
    """Rows of the joined batch of a step; the ranks have different data, of different size and mean."""
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(RANKS * ROWS, 8, generator=generator)
    x[ROWS:] = x[ROWS:] * 1.5 + 0.3
    return x[rows].double(), torch.randint(0, 3, (RANKS * ROWS,), generator=generator)[rows]


def train(
    model: nn.Module,
    rows: slice,
    every: Any,
    steps: int = STEPS,
    micro_batches: int = 1,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> dict[str, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Equalizer(model, optimizer, every=every, **options) as equalizer:
        for step in range(steps):
            optimizer.zero_grad()
            for part in range(micro_batches):
                x, y = batch(micro_batches * step + part, rows)
                (nn.functional.cross_entropy(model(x.to(dtype)), y) / micro_batches).backward()
            optimizer.step()
    return result(model, equalizer)


def result(model: nn.Module, equalizer: Equalizer) -> dict[str, Any]:
    cores = [m for m in model.modules() if isinstance(m, SigmoidCore)]
    return {
        "slopes": torch.stack([core.alpha.detach() for core in cores]),
        "shifts": torch.stack([core.shift for core in cores]),
        "weights": [full(p) for p in model.parameters()],
        "samples": [vars(sample) for sample in equalizer.history],
    }


def full(parameter: Tensor) -> Tensor:
    return (parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter).detach().clone()


def mine(rank: int) -> slice:
    return slice(rank * ROWS, (rank + 1) * ROWS)


def data_parallel(model: nn.Module) -> nn.Module:
    """DDP without broadcasting buffers, which would hide a rank that drifts by the slopes of rank 0."""
    new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    return DistributedDataParallel(model, **{"forward_sync_buffers" if new else "broadcast_buffers": False})


def sharded(model: nn.Sequential) -> nn.Module:
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    return fully_shard(model)


def assert_equal_on_all_ranks(results: list[dict[str, Any]]) -> None:
    for name in ("slopes", "shifts"):
        assert torch.equal(results[0][name], results[1][name]), name
    assert results[0]["samples"] == results[1]["samples"]


def assert_close_to_one_process(results: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    for name in ("slopes", "shifts", "weights"):
        torch.testing.assert_close(results[0][name], alone[name], rtol=1e-4, atol=1e-4, msg=name)
    assert len(results[0]["samples"]) == len(alone["samples"])
    for a, b in zip(results[0]["samples"], alone["samples"], strict=True):
        assert (a["step"], a["slopes"], a["neurons"]) == (b["step"], b["slopes"], b["neurons"])
        torch.testing.assert_close(torch.tensor(a["log_sizes"]), torch.tensor(b["log_sizes"]), rtol=0, atol=1e-4)
    assert sum(s["slopes"] for s in alone["samples"]) > 0


@on_ranks
def with_ddp(rank: int) -> dict[str, Any]:
    return train(data_parallel(build()), mine(rank), "auto")


@on_ranks
def with_ddp_every_step(rank: int) -> dict[str, Any]:
    return train(data_parallel(build()), mine(rank), 1)


@on_ranks
def with_ddp_that_broadcasts(rank: int) -> dict[str, Any]:
    return train(DistributedDataParallel(build()), mine(rank), "auto")


@on_ranks
def with_fsdp(rank: int) -> dict[str, Any]:
    return train(sharded(build()), mine(rank), "auto")


@pytest.mark.parametrize(
    ("work", "every"),
    [(with_ddp, "auto"), (with_ddp_every_step, 1), (with_ddp_that_broadcasts, "auto"), (with_fsdp, "auto")],
)
def test_after_50_steps_slopes_are_the_same_on_both_ranks_and_those_of_one_process_with_the_joined_batch(
    ranks: Any, work: Any, every: Any
) -> None:
    results = ranks(work)
    assert_equal_on_all_ranks(results)
    alone = train(build(), slice(None), every)
    assert_close_to_one_process(results, alone)
    assert sum(s["neurons"] for s in alone["samples"]) >= 6


@on_ranks
def with_trained_slopes(rank: int) -> dict[str, Any]:
    return train(data_parallel(build(trainable=True)), mine(rank), "auto")


def test_trained_slopes_are_corrected_alike_on_both_ranks(ranks: Any) -> None:
    results = ranks(with_trained_slopes)
    assert_equal_on_all_ranks(results)
    assert_close_to_one_process(results, train(build(trainable=True), slice(None), "auto"))


@on_ranks
def with_micro_batches(rank: int) -> dict[str, Any]:
    return train(data_parallel(build()), mine(rank), 1, steps=10, micro_batches=3)


def test_micro_batches_of_both_ranks_are_joined(ranks: Any) -> None:
    results = ranks(with_micro_batches)
    assert_equal_on_all_ranks(results)
    assert_close_to_one_process(results, train(build(), slice(None), 1, steps=10, micro_batches=3))


def train_in_float32(model: nn.Module, rows: slice) -> dict[str, Any]:
    return train(model, rows, "auto", dtype=torch.float32, tolerance=1.02)


@on_ranks
def in_float32(rank: int) -> dict[str, Any]:
    return train_in_float32(data_parallel(build(hostile=False).float()), mine(rank))


def test_in_float32_a_calm_training_of_50_steps_is_that_of_one_process_too(ranks: Any) -> None:
    results = ranks(in_float32)
    assert_equal_on_all_ranks(results)
    assert_close_to_one_process(results, train_in_float32(build(hostile=False).float(), slice(None)))


@on_ranks
def without_the_sums(rank: int) -> dict[str, Any]:
    """Every rank is its own group: what would happen without summing."""
    groups = [dist.new_group([r]) for r in range(RANKS)]
    return train(data_parallel(build()), mine(rank), 1, process_group=groups[rank])


def test_without_the_sums_ranks_would_drift_apart(ranks: Any) -> None:
    first, second = ranks(without_the_sums)
    assert not torch.equal(first["slopes"], second["slopes"])
    assert not torch.equal(first["shifts"], second["shifts"])


# --- what goes wrong on one rank -------------------------------------------------------------------------------------


def idle() -> torch.optim.Optimizer:
    """An optimizer that moves nothing of the model."""
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)


@on_ranks
def with_a_bad_batch(rank: int) -> dict[str, Any]:
    """Rank 1 has gradients that are not finite on the second step."""
    model, optimizer, slopes = build(), idle(), []
    with Equalizer(model, optimizer, every=1, tolerance=1.01) as equalizer:
        for step in range(4):
            slopes.append(torch.stack([m.slope for m in model.modules() if isinstance(m, SigmoidCore)]))
            x, y = batch(step, mine(rank))
            (nn.functional.cross_entropy(model(x), y) * (math.nan if (rank, step) == (1, 1) else 1.0)).backward()
            optimizer.step()
            model.zero_grad()
    return {"slopes": slopes, "samples": [vars(s) for s in equalizer.history]}


def test_a_gradient_that_is_not_finite_on_one_rank_stops_the_change_on_all(ranks: Any) -> None:
    for of_rank in ranks(with_a_bad_batch):
        assert [math.isfinite(s["spread"]) for s in of_rank["samples"]] == [True, False, True, True]
        changed = [not torch.equal(a, b) for a, b in itertools.pairwise(of_rank["slopes"])]
        assert changed == [True, False, True]


@on_ranks
def with_a_missing_backward_pass(rank: int) -> dict[str, Any]:
    model, optimizer = build(), idle()
    with Equalizer(model, optimizer, every=2) as equalizer:
        for step in range(5):
            x, y = batch(step, mine(rank))
            loss = nn.functional.cross_entropy(model(x), y)
            if (rank, step) != (0, 0):
                loss.backward()
            optimizer.step()
    return result(model, equalizer)


def test_a_step_that_one_rank_has_not_seen_is_sampled_by_none_and_the_next_one_by_all(ranks: Any) -> None:
    results = ranks(with_a_missing_backward_pass)
    assert_equal_on_all_ranks(results)
    assert [s["step"] for s in results[0]["samples"]] == [1, 3]


# --- the statistics --------------------------------------------------------------------------------------------------


def uneven() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(100, 6, generator=generator) * torch.tensor([0.1, 1.0, 10.0, 100.0, 1e4, 3.0])
    return x, torch.tensor([4.0, 4.0, 4.0, 4.0, 4.0, 0.5])


@on_ranks
def statistics(rank: int) -> dict[str, Any]:
    x, alpha = uneven()
    x = x[:70] if rank == 0 else x[70:]
    ranks, sent = Ranks(), []
    reduce = dist.all_reduce

    def count(values: Tensor, **options: Any) -> None:
        sent.append(values.numel() * values.element_size())
        reduce(values, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", count)
        found = {
            "mean": ranks.means([x.mean(0), x.square().mean()], [len(x), len(x)]),
            "slope": ranks.slope_for_floor(x, alpha, 0.05),
            "sizes": ranks.sizes(torch.tensor([3.0, 4.0], dtype=torch.float64) * (rank + 1), [len(x), 10], x.device),
            "all": [ranks.all(True, x.device), ranks.all(rank == 0, x.device)],
        }
    return found | {"sent": sent}


def test_means_slopes_and_sizes_are_those_of_the_joined_rows(ranks: Any) -> None:
    x, alpha = uneven()
    for found in ranks(statistics):
        torch.testing.assert_close(found["mean"][0], x.mean(0))
        torch.testing.assert_close(found["mean"][1], x.square().mean())
        torch.testing.assert_close(found["slope"], slope_for_floor(x, alpha, 0.05), rtol=1e-5, atol=0)
        assert found["all"] == [True, False]
        # Two losses, each a mean over its own samples, of which the training takes the mean.
        first = math.sqrt((70 * 3.0**2 + 30 * 6.0**2) / 100) / 2
        second = math.sqrt((10 * 4.0**2 + 10 * 8.0**2) / 20) / 2
        torch.testing.assert_close(found["sizes"], torch.tensor([first, second], dtype=torch.float64))


def test_the_bytes_that_are_exchanged_are_those_that_the_documentation_names(ranks: Any) -> None:
    neurons = 6
    for found in ranks(statistics):
        means, slopes, (sizes, *flags) = found["sent"][0], found["sent"][1:-3], found["sent"][-3:]
        assert means == 8 * (neurons + 1 + 2)
        assert sum(slopes) == 8 * (43 * neurons + 42) - 8 * (neurons + 1)  # but for the shift, which came before
        assert sizes == 16 * 2
        assert sum(flags) == 16


# --- errors ----------------------------------------------------------------------------------------------------------


@on_ranks
def from_unlike_slopes(rank: int) -> bool:
    model, optimizer = build(), idle()
    model[1].slope[3] += 1e-9 * rank
    x, y = batch(0, mine(rank))
    with Equalizer(model, optimizer):
        nn.functional.cross_entropy(model(x), y).backward()
        with pytest.raises(ValueError, match="slopes and shifts are not the same on all ranks"):
            optimizer.step()
    return True


def test_ranks_that_do_not_start_from_the_same_slopes_are_refused_on_all_of_them(ranks: Any) -> None:
    assert ranks(from_unlike_slopes) == [True, True]


@on_ranks
def documented(rank: int) -> list[int]:
    """The code of docs/pytorch.md, each rank with its own data."""
    page = Path(__file__).resolve().parents[2] / "docs" / "pytorch.md"
    code = re.findall(r"^```python\n(.+?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    torch.manual_seed(7)
    names: dict[str, Any] = {"inputs": torch.randn(100, 8)}
    exec(code[0], names)
    torch.manual_seed(rank)
    names["batches"] = [(torch.randn(20, 8), torch.randint(0, 3, (20,))) for _ in range(4)]
    made: list[Equalizer] = []
    names["sc"] = SimpleNamespace(Equalizer=lambda *args: made.append(Equalizer(*args)) or made[0])
    exec(code[-1], names)
    return [sample.step for sample in made[0].history]


def test_the_code_of_the_documentation_runs(ranks: Any) -> None:
    first, second = ranks(documented)
    assert first == second
    assert first[:2] == [0, 1]


@on_ranks
def refused(rank: int) -> bool:
    model = sharded(build(trainable=True))
    with pytest.raises(ValueError, match="the trained slopes of core '1' are sharded"):
        Equalizer(model, idle())
    group = dist.new_group([0])
    model = build()
    if rank == 1:
        with pytest.raises(ValueError, match="this process does not belong to process_group"):
            Equalizer(model, idle(), process_group=group)
    return True


def test_sharded_trained_slopes_and_a_group_of_others_are_refused(ranks: Any) -> None:
    assert ranks(refused) == [True, True]


@on_ranks
def derivatives_of_one(rank: int) -> list[Any]:
    model = build()
    start = [module.alpha.clone() for module in model.modules() if isinstance(module, SigmoidCore)]
    moved = []
    optimizer = idle()
    with Equalizer(model, optimizer, every=1, floor=1e-9) as equalizer:
        for step in range(2):
            model.zero_grad()
            x, _ = batch(step, slice(rank * ROWS, (rank + 1) * ROWS))
            x.requires_grad_()
            loss = model(x).square().sum()
            if rank == 0 and step == 0:
                loss = loss + torch.autograd.grad(loss, x, create_graph=True)[0].square().sum()
            loss.backward()
            optimizer.step()
            moved.append(equalizer.history[-1].slopes)
    ends = [module.alpha for module in model.modules() if isinstance(module, SigmoidCore)]
    return [*moved, [float((end / begin).log().abs().max()) for begin, end in zip(start, ends, strict=True)]]


def test_all_ranks_rest_where_the_loss_of_one_contains_derivatives(ranks: Any) -> None:
    first, second = ranks(derivatives_of_one)
    assert first == second
    assert first[0] == 0
    assert first[1] > 0
