"""The Equalizer in two processes: both change the same slopes, to the values of one process with the joined batch."""

import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.pages import blocks
from support.two_processes import TwoProcesses, data_parallel, full, joined_batch, rows_of, sharded
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sigmoidcore import MLP, Equalizer, SigmoidCore, prepare

pytestmark = pytest.mark.integration
on_ranks = TwoProcesses()


def build(trainable: bool = False, hostile: bool = True) -> nn.Sequential:
    """The same network on every rank; a hostile one needs the rule and the exception.

    Training it is chaotic: within 50 steps a difference grows 10^5 times, in one process too. Hence float64.
    """
    torch.manual_seed(1)
    model = MLP(8, 16, 5, 3, activation=lambda n: SigmoidCore(n, alpha=4.0, centered=True, trainable=trainable))
    prepare(model, torch.randn(200, 8))
    if not hostile:
        return model.float()
    with torch.no_grad():
        model[5].set_slope(model[5].alpha * 6)  # to follow the profile
        model[6].bias[:3] += 12 / model[7].alpha[:3]  # saturated by offset: a shift is enough
        for tensor in (model[2].weight, model[2].bias, model[3].shift):
            tensor[:3] *= 400.0  # saturated by scale: needs the slope
    return model.double()


def batch(step: int, rank: int | None) -> tuple[Tensor, Tensor]:
    x, y = joined_batch(step)
    return x[rows_of(rank)].double(), y[rows_of(rank)]


def train(
    model: nn.Module, rank: int | None, every: Any = "auto", steps: int = 50, micro_batches: int = 1, **options: Any
) -> dict[str, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    dtype = next(model.parameters()).dtype
    with Equalizer(model, optimizer, every=every, **options) as equalizer:
        for step in range(steps):
            optimizer.zero_grad()
            for part in range(micro_batches):
                x, y = batch(micro_batches * step + part, rank)
                (nn.functional.cross_entropy(model(x.to(dtype)), y) / micro_batches).backward()
            optimizer.step()
    cores = [m for m in model.modules() if isinstance(m, SigmoidCore)]
    return {
        "slopes": torch.stack([core.alpha.detach() for core in cores]),
        "shifts": torch.stack([core.shift for core in cores]),
        "weights": [full(p) for p in model.parameters()],
        "samples": [vars(sample) for sample in equalizer.history],
    }


TRAININGS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "DDP": (data_parallel, {}, {}),
    "DDP, every step": (data_parallel, {}, {"every": 1}),
    "DDP that broadcasts buffers": (DistributedDataParallel, {}, {}),
    "FSDP2": (sharded, {}, {}),
    "micro-batches": (data_parallel, {}, {"every": 1, "steps": 10, "micro_batches": 3}),
    "trained slopes": (data_parallel, {"trainable": True}, {}),
    "float32": (data_parallel, {"hostile": False}, {"tolerance": 1.02}),
}
"""How the model is made parallel, options of `build`, options of `train`."""


@on_ranks
def trainings(rank: int) -> dict[str, Any]:
    return {name: train(wrap(build(**model)), rank, **options) for name, (wrap, model, options) in TRAININGS.items()}


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_change_the_same_slopes_as_one_process_with_the_joined_batch(ranks: Any, name: str) -> None:
    first, second = (results[name] for results in ranks(trainings))
    _, model, options = TRAININGS[name]
    alone = train(build(**model), None, **options)
    assert torch.equal(first["slopes"], second["slopes"])
    assert torch.equal(first["shifts"], second["shifts"])
    assert first["samples"] == second["samples"]
    for key in ("slopes", "shifts", "weights"):
        torch.testing.assert_close(first[key], alone[key], rtol=1e-4, atol=1e-4, msg=key)
    for a, b in zip(first["samples"], alone["samples"], strict=True):
        assert (a["step"], a["slopes"], a["neurons"]) == (b["step"], b["slopes"], b["neurons"])
        assert a["log_sizes"] == pytest.approx(b["log_sizes"], abs=1e-4)
    assert sum(sample["slopes"] for sample in alone["samples"]) > 0
    assert sum(sample["neurons"] for sample in alone["samples"]) >= 6 * (model == {})


@on_ranks
def separate_groups(rank: int) -> dict[str, Any]:
    groups = [dist.new_group([r]) for r in range(2)]
    return train(data_parallel(build()), rank, 1, process_group=groups[rank])


def test_ranks_in_separate_groups_change_different_slopes(ranks: Any) -> None:
    first, second = ranks(separate_groups)
    assert not torch.equal(first["slopes"], second["slopes"])
    assert not torch.equal(first["shifts"], second["shifts"])


def idle() -> torch.optim.Optimizer:
    """An optimizer that changes nothing of the model."""
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)


@on_ranks
def gradients_not_finite(rank: int) -> dict[str, Any]:
    """On rank 1, in the second step."""
    model, optimizer, slopes = build(hostile=False), idle(), []
    with Equalizer(model, optimizer, every=1, tolerance=1.01) as equalizer:
        for step in range(4):
            slopes.append(torch.stack([m.slope for m in model.modules() if isinstance(m, SigmoidCore)]))
            x, y = batch(step, rank)
            x = x.float()
            (nn.functional.cross_entropy(model(x), y) * (math.nan if (rank, step) == (1, 1) else 1.0)).backward()
            optimizer.step()
            model.zero_grad()
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(slopes)]
    return {"finite": [math.isfinite(s.spread) for s in equalizer.history], "changed": changed}


def test_a_gradient_that_is_not_finite_on_one_rank_stops_the_change_on_both(ranks: Any) -> None:
    expected = {"finite": [True, False, True, True], "changed": [True, False, True]}
    assert ranks(gradients_not_finite) == [expected, expected]


@on_ranks
def missing_backward_pass(rank: int) -> list[int]:
    """On rank 0, in the first step."""
    model, optimizer = build(hostile=False), idle()
    with Equalizer(model, optimizer, every=2) as equalizer:
        for step in range(5):
            x, y = batch(step, rank)
            x = x.float()
            loss = nn.functional.cross_entropy(model(x), y)
            if (rank, step) != (0, 0):
                loss.backward()
            optimizer.step()
    return [sample.step for sample in equalizer.history]


def test_a_step_without_a_backward_pass_on_one_rank_is_sampled_on_none_and_the_next_one_on_both(ranks: Any) -> None:
    assert ranks(missing_backward_pass) == [[1, 3], [1, 3]]


@on_ranks
def derivatives_in_the_loss(rank: int) -> list[int]:
    """On rank 0, in the first step; the number of slopes that each step changes."""
    model, optimizer = build(), idle()
    with Equalizer(model, optimizer, every=1, floor=1e-9) as equalizer:
        for step in range(2):
            model.zero_grad()
            x = torch.cat(
                [batch(step, rank)[0]] * 8
            ).requires_grad_()  # enough samples for slopes to follow the profile
            loss = model(x).square().sum()
            if rank == 0 and step == 0:
                loss = loss + torch.autograd.grad(loss, x, create_graph=True)[0].square().sum()
            loss.backward()
            optimizer.step()
    return [sample.slopes for sample in equalizer.history]


def test_a_loss_with_derivatives_on_one_rank_disables_the_rule_on_both(ranks: Any) -> None:
    first, second = ranks(derivatives_in_the_loss)
    assert first == second
    assert first[0] == 0 < first[1]


@on_ranks
def refusals(rank: int) -> dict[str, str]:
    def message(function: Any) -> str:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            function()
        return str(error.value)

    model, optimizer = build(), idle()
    model[1].slope[3] += 1e-9 * rank
    with Equalizer(model, optimizer):
        x, y = batch(0, rank)
        nn.functional.cross_entropy(model(x), y).backward()
        found = {"different slopes": message(optimizer.step)}
    model = sharded(build(trainable=True))
    found["sharded slopes"] = message(lambda: Equalizer(model, idle()))
    group = dist.new_group([0])
    if rank == 1:
        found["another group"] = message(lambda: Equalizer(build(), idle(), process_group=group))
    return found


def test_different_slopes_sharded_slopes_and_a_group_without_this_rank_are_refused(ranks: Any) -> None:
    first, second = ranks(refusals)
    assert second == first | {"another group": second["another group"]}
    assert "slopes and shifts are not the same on all ranks" in first["different slopes"]
    assert "the trained slopes of core '1' are sharded" in first["sharded slopes"]
    assert "this process does not belong to process_group" in second["another group"]


@on_ranks
def documented(rank: int) -> list[int]:
    """The code of docs/pytorch.md, each rank with its own data."""
    code = [block.text for block in blocks("docs/pytorch.md") if block.language == "python" and not block.hidden]
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
    assert first == [0]
