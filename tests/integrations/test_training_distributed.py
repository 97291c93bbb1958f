"""Two processes train one network: the losses and slopes of one process, one folder, and one message at the end."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from support.two_processes import RANKS, TwoProcesses

import sigmoidcore as sc
from sigmoidcore.training import Recipe, Split, Training
from sigmoidcore.training.place import place_of
from sigmoidcore.training.recipe import balanced
from sigmoidcore.training.runs.folder import read_config, read_metrics

pytestmark = pytest.mark.integration
on_ranks = TwoProcesses()

LAYERS, WIDTH = 6, 12


def split(samples: int = 95, dtype: torch.dtype = torch.float32) -> Split:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 8, generator=generator)
    y = (x[:, 0] * 2).floor().clamp(-1, 1).long() + 1
    return Split("made up", x.to(dtype), y, x[:33].to(dtype), y[:33], 3)


def network(seed: int = 0) -> sc.MLP:
    torch.manual_seed(seed)
    model = sc.MLP(8, WIDTH, LAYERS, 3)
    sc.prepare(model, split().train_x)
    return model


def train(state: Any = None, stop: int | None = None, **recipe: Any) -> dict[str, Any]:
    """The result of a training in as many processes as there are, and its state after step `stop`.

    In float64: within 30 steps a difference in the last bit grows.
    """
    model, data = network().to(torch.float64), split(dtype=torch.float64)
    training = Training(model, data, Recipe(**{"epochs": 3, "batch_size": 10} | recipe), state, place_of("cpu"))
    states = []

    def on_step(progress: Any) -> None:
        if progress.step == stop:
            states.append(training.state())

    result = training.run(on_step)
    assert training.equalizer is not None
    return {
        "losses": result.losses,
        "accuracies": result.accuracies,
        "model": {name: value.clone() for name, value in model.state_dict().items()},
        "samples": [vars(sample) for sample in training.equalizer.history],
        "state": states[0] if states else None,
    }


def assert_same_on_both(first: dict[str, Any], second: dict[str, Any]) -> None:
    for name in ("losses", "accuracies", "samples"):
        assert first[name] == second[name]
    torch.testing.assert_close(first["model"], second["model"], rtol=0, atol=0)


def assert_close(found: dict[str, Any], alone: dict[str, Any]) -> None:
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    assert found["accuracies"] == alone["accuracies"]
    torch.testing.assert_close(found["model"], alone["model"], rtol=1e-5, atol=1e-6)


RECIPES: dict[str, dict[str, Any]] = {
    "plain": {"stop": 14},
    "all options": {
        "batch_size": 12, "clip": 0.5, "weight_decay": 0.01,
        "class_weights": balanced(split().train_y.bincount().tolist()),
    },
    "a last batch of one sample": {"batch_size": 47},  # of 95: one process has no sample
}  # fmt: skip


@on_ranks
def trainings(rank: int) -> dict[str, Any]:
    found = {name: train(**recipe) for name, recipe in RECIPES.items()}
    return found | {"resumed": train(state=found["plain"]["state"])}


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_end_where_one_process_with_the_same_batches_ends(ranks: Any, name: str) -> None:
    first, second = (results[name] for results in ranks(trainings))
    alone = train(**RECIPES[name])
    assert_same_on_both(first, second)
    assert_close(first, alone)
    assert [s["step"] for s in first["samples"]] == [s["step"] for s in alone["samples"]]


def test_two_processes_or_one_continue_from_the_state_of_two(ranks: Any) -> None:
    for results in ranks(trainings):
        whole, resumed = results["plain"], results["resumed"]
        assert whole["state"].step == 14
        assert whole["losses"] == resumed["losses"]
        torch.testing.assert_close(whole["model"], resumed["model"], rtol=0, atol=0)
        assert_close(train(state=whole["state"]), whole)


@on_ranks
def different_networks(rank: int) -> dict[str, Any]:
    model = network(seed=rank)
    Training(model, split(), Recipe(epochs=1, batch_size=10), place=place_of("cpu"))
    return dict(model.state_dict())


def test_all_processes_start_with_the_network_of_the_first(ranks: Any) -> None:
    first, second = ranks(different_networks)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@on_ranks
def sample_not_finite(rank: int) -> list[str]:
    """The messages for a sample that is nan, in the share of each process in turn."""
    messages = []
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))  # of the first epoch
    for row in (2, 8):
        data = split(10)
        data.train_x[order[row]] = torch.nan
        with pytest.raises(FloatingPointError) as error:
            Training(network(), data, Recipe(epochs=1, batch_size=10), place=place_of("cpu")).run()
        messages.append(str(error.value))
    return messages


def test_a_loss_that_is_not_finite_on_one_process_ends_both_with_one_message(ranks: Any) -> None:
    first, second = ranks(sample_not_finite)
    assert first == second
    assert all(re.match(r"the loss is not finite at step 1: .*use a smaller lr", message) for message in first)


@on_ranks
def request_to_stop(rank: int) -> int:
    """Only the second process is asked, in step 5."""
    training = Training(network(), split(), Recipe(epochs=3, batch_size=10), place=place_of("cpu"))
    assert training.run(asked=lambda: rank == 1 and training.step == 4).interrupted
    return training.step


def test_a_request_to_stop_on_one_process_stops_both_after_the_same_step(ranks: Any) -> None:
    assert ranks(request_to_stop) == [5, 5]


@on_ranks
def exchanged(rank: int) -> list[int]:
    """Bytes that Python sums in each step; the Equalizer samples the first and the third."""
    sent: list[int] = []
    steps: list[int] = []
    reduce = dist.all_reduce

    def counted(values: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        sent.append(values.nbytes)
        return reduce(values, *arguments, **options)

    def on_step(progress: Any) -> None:
        steps.append(sum(sent))
        sent.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", counted)
        recipe = Recipe(epochs=1, batch_size=10, every=2, lr=1e-6)
        Training(network(), split(50), recipe, place=place_of("cpu")).run(on_step)
    return steps[:-1]  # the last step includes an evaluation


def test_a_step_exchanges_the_bytes_in_the_documentation(ranks: Any, root: Path) -> None:
    neurons = LAYERS * WIDTH
    sample, comparison = 24 + 16 * LAYERS + 8 * (neurons + LAYERS), 32 * neurons + 8
    for steps in ranks(exchanged):
        assert steps == [8 + sample + comparison, 8, 8 + sample, 8]  # 8: the loss, and a request to stop
    page = (root / "docs" / "scale.md").read_text(encoding="utf-8")
    assert "24 + 16 L + 8 (N + L)" in page
    assert "32 N + 8" in page


PYTHON = [sys.executable]
TORCHRUN = [*PYTHON, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS), "--rdzv-backend", "c10d",
            "--rdzv-endpoint", "localhost:0"]  # fmt: skip
TRAIN = ["-m", "sigmoidcore", "train"]
SMALL = ["--depth", "6", "--width", "24", "--epochs", "3"]
EPOCHS = 40
LONG = ["--depth", "6", "--width", "24", "--epochs", str(EPOCHS), "--save-every", "20"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "COLUMNS": "120"}


def command(*arguments: str, folder: Path, launcher: list[str] = TORCHRUN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*launcher, *TRAIN, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )


def trained(*arguments: str, folder: Path, launcher: list[str] = TORCHRUN) -> str:
    """The standard output of a command that succeeds."""
    done = command(*arguments, folder=folder, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert messages(done.stderr) == []
    return done.stdout


def messages(error: str) -> list[str]:
    """The lines on standard error that are not the launcher's."""
    return [line for line in error.splitlines() if line.startswith("sigmoid-core")]


def epochs_of(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "epoch"]


def test_torchrun_trains_as_one_process_does_and_one_process_writes(tmp_path: Path) -> None:
    output = trained(*SMALL, "--output", "two", folder=tmp_path)
    trained(*SMALL, "--output", "one", folder=tmp_path, launcher=PYTHON)
    assert output.count("on cpu with 2 processes") == 1
    assert output.count("Written") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())
    for a, b in zip(epochs_of(tmp_path / "one"), epochs_of(tmp_path / "two"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.3)  # one of 397
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(two, one, rtol=1e-2, atol=1e-3)


def test_two_processes_choose_the_options_that_one_chooses(tmp_path: Path) -> None:
    arguments = ["--data", "wine", "--width", "8", "--epochs", "4", "--batch-size", "32"]
    output = trained(*arguments, "--output", "two", folder=tmp_path)
    assert output.count("choosing by short trials") == 1
    trained(*arguments, "--output", "one", folder=tmp_path, launcher=PYTHON)
    one, two = (read_config(tmp_path / name).options for name in ("one", "two"))
    assert one == two
    assert one["depth"] in (3, 10, 30)


def stopped(folder: Path, stop: Callable[[subprocess.Popen[str]], None]) -> str:
    """Train in two processes until the second epoch has ended, then stop; the standard error."""
    process = subprocess.Popen(
        [*TORCHRUN, *TRAIN, *LONG, "--output", "run"],
        cwd=folder, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = folder / "run" / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.read_text().count('"kind": "epoch"') >= 2):
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read() if process.stderr else ""
    stop(process)
    _, error = process.communicate(timeout=120)
    assert process.returncode != 0
    return error


def process_of_rank(rank: int, launcher: subprocess.Popen[str]) -> int:
    """The process number of a rank."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(re.search(r"PPid:\s+(\d+)", (path / "status").read_text())[1])  # type: ignore[index]
            if parent == launcher.pid and f"\0RANK={rank}\0".encode() in (path / "environ").read_bytes():
                return int(path.name)
        except OSError:
            continue
    raise AssertionError(f"there is no process of rank {rank}")


def test_after_a_kill_of_one_process_there_is_one_message_and_one_process_continues(tmp_path: Path) -> None:
    error = stopped(tmp_path, lambda launcher: os.kill(process_of_rank(1, launcher), signal.SIGKILL))
    assert messages(error) == [
        "sigmoid-core: another process of this training has ended, so this one cannot continue; the last checkpoint "
        "is kept; to resume, with any number of processes: sigmoid-core train --resume run"
    ]
    assert "/sigmoidcore/" not in error  # no traceback of ours; the launcher's own is there
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["outcome"] == "failed"
    trained(*LONG, "--output", "whole", folder=tmp_path, launcher=PYTHON)
    trained("--resume", "run", folder=tmp_path, launcher=PYTHON)
    run, whole = epochs_of(tmp_path / "run"), epochs_of(tmp_path / "whole")
    assert [row["step"] for row in run] == [row["step"] for row in whole]
    # Differences in the last bit, from the order of a sum, grow with the steps.
    assert [row["loss"] for row in run[:5]] == pytest.approx([row["loss"] for row in whole[:5]], rel=1e-3)
    assert run[-1]["accuracy"] == pytest.approx(whole[-1]["accuracy"], abs=1.5)


def test_after_a_kill_before_the_run_starts_there_is_one_message_and_no_folder(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(
        "import os, sys\n"
        "from sigmoidcore.cli import main\n"
        "from sigmoidcore.training import launch\n"
        "if os.environ['RANK'] == '1':\n"
        "    launch.choose = lambda *_: os.kill(os.getpid(), 9)\n"
        "sys.exit(main())\n"
    )
    arguments = [*TORCHRUN, "killed.py", "train", *SMALL, "--output", "run"]
    done = subprocess.run(arguments, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    (line,) = messages(done.stderr)  # from the one that is left: it sees the loss, or first the SIGTERM of the launcher
    assert "another process of this training has ended" in line
    assert "/sigmoidcore/" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_ctrl_c_stops_both_processes_after_the_same_step_and_two_continue(tmp_path: Path) -> None:
    (line,) = messages(stopped(tmp_path, lambda launcher: launcher.send_signal(signal.SIGINT)))
    found = re.match(r"sigmoid-core: interrupted after step (\d+) of ", line)
    assert found, line
    assert (tmp_path / "run" / "checkpoints" / f"step-{int(found[1]):09}.safetensors").exists()
    assert f"resumed after step {int(found[1])}" in trained("--resume", "run", folder=tmp_path)
    assert len(epochs_of(tmp_path / "run")) == EPOCHS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv is neither a file nor a folder nor a built-in set"),
        (["--lr", "-1"], "-1.0 is not above 0"),
    ],
)
def test_bad_input_is_one_message_from_two_processes(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = command(*arguments, folder=tmp_path)
    (line,) = messages(done.stderr)
    assert message in line
    assert "exitcode  : 2" in done.stderr  # of the process; torchrun's own is 1
    assert list(tmp_path.iterdir()) == []
