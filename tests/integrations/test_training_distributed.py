"""Two processes train one network: the batches, losses and slopes of one process; one folder; an end that is told."""

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

import sigmoidcore as sc
from sigmoidcore.training import Recipe, Split, Training
from sigmoidcore.training.place import place_of
from sigmoidcore.training.recipe import balanced
from sigmoidcore.training.runs.folder import read_metrics
from two_processes import RANKS, Works

pytestmark = pytest.mark.integration

LAYERS, WIDTH = 6, 12


# --- two processes that call Python ----------------------------------------------------------------------------------

on_ranks = Works()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[], Any]], list[Any]]:
    """What a function that is marked `on_ranks` returned on each rank."""
    return on_ranks.results(tmp_path_factory.mktemp("ranks"))


def split(samples: int = 95) -> Split:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 8, generator=generator)
    y = (x[:, 0] * 2).floor().clamp(-1, 1).long() + 1
    return Split("made up", x, y, x[:33], y[:33], 3)


def network(**options: Any) -> sc.MLP:
    torch.manual_seed(0)
    model = sc.MLP(8, WIDTH, LAYERS, 3, **options)
    sc.prepare(model, split().train_x)
    return model


def trained(precision: str = "no", state: Any = None, stop: int | None = None, **recipe: Any) -> dict[str, Any]:
    """What a training gives, on as many processes as there are.

    In float64, for within 30 steps a training makes much of a difference in the last bit.
    """
    model, data = network(), split()
    if precision == "no":
        model = model.double()
        data = Split(data.name, data.train_x.double(), data.train_y, data.test_x.double(), data.test_y, data.classes)
    options = {"epochs": 3, "batch_size": 10, **recipe}
    training = Training(model, data, Recipe(**options), state, place_of("cpu", precision))
    states = []

    def on_step(progress: Any) -> None:
        if progress.step == stop:
            states.append(training.state())

    result = training.run(on_step)
    return {
        "losses": result.losses,
        "accuracies": result.accuracies,
        "model": {name: value.clone() for name, value in model.state_dict().items()},
        "samples": [vars(sample) for sample in training.equalizer.history] if training.equalizer else [],
        "state": states[0] if states else None,
    }


def assert_same_on_both(results: list[dict[str, Any]]) -> None:
    first, second = results
    assert first["losses"] == second["losses"]
    assert first["accuracies"] == second["accuracies"]
    assert first["samples"] == second["samples"]
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])


def assert_close(result: dict[str, Any], alone: dict[str, Any]) -> None:
    assert result["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    assert result["accuracies"] == alone["accuracies"]
    assert [s["step"] for s in result["samples"]] == [s["step"] for s in alone["samples"]]
    for name, value in alone["model"].items():
        torch.testing.assert_close(result["model"][name], value, rtol=1e-5, atol=1e-6, msg=name)


@on_ranks
def plain() -> dict[str, Any]:
    return trained(stop=14)


@on_ranks
def with_everything() -> dict[str, Any]:
    return trained(batch_size=12, accumulate=2, clip=0.5, class_weights=balanced(split(), 3), weight_decay=0.01)


@on_ranks
def with_batches_that_leave_one_sample() -> dict[str, Any]:
    return trained(batch_size=47)  # of 95: the last batch has 1 sample, and one process has none


@pytest.mark.parametrize("work", [plain, with_everything, with_batches_that_leave_one_sample])
def test_two_processes_end_where_one_process_with_the_same_global_batch_ends(ranks: Any, work: Any) -> None:
    results = ranks(work)
    assert_same_on_both(results)
    assert_close(results[0], work())


def test_what_goes_on_from_the_state_of_two_processes_ends_where_they_end(ranks: Any) -> None:
    whole = ranks(plain)[0]
    assert whole["state"].step == 14
    assert_close({**trained(state=whole["state"]), "samples": whole["samples"]}, whole)


@on_ranks
def interrupted() -> list[dict[str, Any]]:
    return [trained(), trained(state=trained(stop=14)["state"])]


def test_two_processes_go_on_bit_for_bit(ranks: Any) -> None:
    for whole, again in ranks(interrupted):
        assert whole["losses"] == again["losses"]
        assert all(torch.equal(whole["model"][name], again["model"][name]) for name in whole["model"])


@on_ranks
def in_bf16() -> dict[str, Any]:
    return trained("bf16")


def test_bf16_on_two_processes_keeps_slopes_alike_and_stays_near_float32(ranks: Any) -> None:
    results = ranks(in_bf16)
    assert_same_on_both(results)
    alone = plain()["losses"]
    assert results[0]["losses"] == pytest.approx(alone, rel=0.05)
    assert results[0]["losses"] != pytest.approx(alone, rel=1e-5)


@on_ranks
def from_unlike_networks() -> dict[str, Any]:
    """The second process has drawn other weights: those of the first one count."""
    torch.manual_seed(dist.get_rank())
    model = sc.MLP(8, WIDTH, 3, 3)
    sc.prepare(model, split().train_x)
    Training(model, split(), Recipe(epochs=1, batch_size=10), place=place_of("cpu"))
    return dict(model.state_dict())


def test_all_processes_begin_with_the_network_of_the_first(ranks: Any) -> None:
    first, second = ranks(from_unlike_networks)
    assert all(torch.equal(first[name], second[name]) for name in first)


@on_ranks
def with_a_bad_sample() -> list[str]:
    """A sample that is not finite, in the share of each process in turn."""
    said = []
    for row in (2, 8):
        data = split(10)
        data.train_x[row] = torch.nan
        order = torch.randperm(10, generator=torch.Generator().manual_seed(0))  # that of the first epoch
        inverse = order.argsort()
        data = Split("bad", data.train_x[inverse], data.train_y, data.test_x, data.test_y, 3)
        with pytest.raises(FloatingPointError) as error:
            Training(network(), data, Recipe(epochs=1, batch_size=10), place=place_of("cpu")).run()
        said.append(str(error.value))
    return said


def test_a_loss_that_is_not_finite_on_one_process_ends_the_training_on_both_with_one_message(ranks: Any) -> None:
    first, second = ranks(with_a_bad_sample)
    assert first == second
    assert all(re.match(r"the loss is not finite at step 1: .*use a smaller lr", said) for said in first)


@on_ranks
def asked_to_stop() -> int:
    """Only the second process is asked, in step 5."""
    training = Training(network(), split(), Recipe(epochs=3, batch_size=10), place=place_of("cpu"))
    result = training.run(asked=lambda: dist.get_rank() == 1 and training.step == 4)
    assert result.interrupted
    return training.step


def test_where_one_process_is_asked_to_stop_both_stop_after_the_same_step(ranks: Any) -> None:
    assert ranks(asked_to_stop) == [5, 5]


# --- what is exchanged -----------------------------------------------------------------------------------------------


@on_ranks
def exchanged() -> dict[str, list[int]]:
    """Bytes that are summed: of gradients in every step, and by Python in every step that is looked at or not."""
    sums: list[int] = []
    reduce = dist.all_reduce
    gradients: list[int] = []

    def counted(values: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        sums.append(values.nbytes)
        return reduce(values, *arguments, **options)

    def hook(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        gradients.append(bucket.buffer().nbytes)
        buffer = bucket.buffer().div_(RANKS)
        return reduce(buffer, async_op=True).get_future().then(lambda done: done.value()[0])

    training = Training(network(), split(30), Recipe(epochs=1, batch_size=10, every=2, lr=1e-6), place=place_of("cpu"))
    training._wrapped.register_comm_hook(None, hook)
    found: dict[str, list[int]] = {"gradients": [], "looked": [], "others": []}

    def on_step(progress: Any) -> None:
        if progress.step < training.steps:  # the last one is evaluated
            found["gradients"].append(sum(gradients))
            found["looked" if progress.step % 2 == 1 else "others"].append(sum(sums))
        gradients.clear()
        sums.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "all_reduce", counted)
        training.run(on_step)
    return found


def test_a_step_exchanges_the_bytes_that_the_documentation_names(ranks: Any) -> None:
    parameters = sum(p.numel() for p in network().parameters())
    neurons = LAYERS * WIDTH
    look = 24 + 16 * LAYERS + 8 * (neurons + LAYERS)
    for found in ranks(exchanged):
        assert found["gradients"] == [4 * parameters] * 2
        assert found["others"] == [8]  # the loss, and whether to stop
        assert found["looked"] == [8 + look + 32 * neurons + 8]  # the first look compares the slopes
    page = (Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    assert "24 + 16 L + 8 (N + L)" in page
    assert "32 N + 8" in page


# --- the command -----------------------------------------------------------------------------------------------------

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS), "--rdzv-backend", "c10d",
            "--rdzv-endpoint", "localhost:0"]  # fmt: skip
TRAIN = ["-m", "sigmoidcore", "train"]
SMALL = ["--depth", "6", "--width", "24", "--epochs", "3"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "COLUMNS": "120"}


def command(*arguments: str, folder: Path, launcher: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    """`sigmoid-core train` on two processes, or with another launcher."""
    return subprocess.run(
        [*(TORCHRUN if launcher is None else launcher), *TRAIN, *arguments],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def ours(error: str) -> list[str]:
    """The lines that are not torchrun's."""
    return [line for line in error.splitlines() if line.startswith("sigmoid-core")]


def epochs_of(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "epoch"]


def test_torchrun_trains_as_one_process_does_and_one_of_them_writes_and_speaks(tmp_path: Path) -> None:
    two = command(*SMALL, "--output", "two", folder=tmp_path)
    one = command(*SMALL, "--output", "one", folder=tmp_path, launcher=[sys.executable])
    assert two.returncode == one.returncode == 0, two.stderr
    assert two.stdout.count("on cpu with 2 processes") == 1
    assert two.stdout.count("Written") == 1
    assert ours(two.stderr) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())
    for a, b in zip(epochs_of(tmp_path / "one"), epochs_of(tmp_path / "two"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.3)  # one of 397
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-2, atol=1e-3, msg=name)


THREADS = """
import os, sys
from pathlib import Path
from sigmoidcore.cli import main
from sigmoidcore.training.place import Place

def of_group():
    return sum("gloo" in (task / "comm").read_text() for task in Path("/proc/self/task").iterdir())

leave = Place.leave
def counted(self):
    Path(f"before{self.rank}").write_text(str(of_group()))
    leave(self)
Place.leave = counted
code = main(sys.argv[1:])
Path(f"after{os.environ['RANK']}").write_text(str(of_group()))
sys.exit(code)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system does not tell of threads")
def test_when_a_run_has_ended_no_thread_of_the_process_group_is_left_that_could_abort_the_process(
    tmp_path: Path,
) -> None:
    (tmp_path / "counts.py").write_text(THREADS)
    done = subprocess.run(
        [*TORCHRUN, "counts.py", "train", *SMALL, "--epochs", "1", "--output", "run"],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for rank in range(RANKS):
        assert int((tmp_path / f"before{rank}").read_text()) > 0
        assert int((tmp_path / f"after{rank}").read_text()) == 0


def test_a_process_that_is_killed_ends_the_run_with_one_message_and_the_run_goes_on_with_any_number(
    tmp_path: Path,
) -> None:
    error = _stopped(tmp_path, lambda launcher: os.kill(_process(1, launcher), signal.SIGKILL))
    _assert_that_it_was_told_and_kept(error, tmp_path)
    whole = command(*LONG, "--output", "whole", folder=tmp_path, launcher=[sys.executable])
    assert whole.returncode == 0, whole.stderr
    again = command("--resume", "run", folder=tmp_path, launcher=[sys.executable])
    assert again.returncode == 0, again.stderr
    _assert_that_it_went_on(tmp_path)


def test_a_process_that_is_killed_before_the_run_begins_is_told_in_one_line_and_no_folder_is_left(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "from torch import nn\n"
        "def net(shape, outputs):\n"
        "    if os.environ['RANK'] == '1':\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))\n"
    )
    done = command("--model", "mine:net", "--output", "run", folder=tmp_path)
    assert ours(done.stderr) == [
        "sigmoid-core: another process of this training has ended, so this one cannot continue: start it again"
    ]
    assert "/sigmoidcore/" not in done.stderr
    assert not (tmp_path / "run").exists()


def _assert_that_it_was_told_and_kept(error: str, folder: Path) -> None:
    assert ours(error) == [
        "sigmoid-core: another process of this training has ended, so this one cannot continue; the last checkpoint "
        "is kept; to resume, with any number of processes: sigmoid-core train --resume run"
    ]
    assert "/sigmoidcore/" not in error  # no traceback of ours; the launcher's own is there
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    assert rows[-1]["outcome"] == "failed"
    assert not (folder / "run" / "lock").exists()


def _assert_that_it_went_on(folder: Path) -> None:
    """The run in `run` has finished, near where the one in `whole` has, to which nothing happened."""
    run, alone = epochs_of(folder / "run"), epochs_of(folder / "whole")
    assert [row["step"] for row in run] == [row["step"] for row in alone]
    # What differs in the last bit, by the order of a sum, grows with the steps.
    assert [row["loss"] for row in run[:5]] == pytest.approx([row["loss"] for row in alone[:5]], rel=1e-3)
    assert run[-1]["accuracy"] == pytest.approx(alone[-1]["accuracy"], abs=1.5)


def test_ctrl_c_of_torchrun_stops_both_after_the_same_step_and_two_processes_go_on(tmp_path: Path) -> None:
    error = _stopped(tmp_path, lambda launcher: launcher.send_signal(signal.SIGINT))
    (line,) = ours(error)
    found = re.match(r"sigmoid-core: interrupted after step (\d+) of ", line)
    assert found, line
    assert (tmp_path / "run" / "checkpoints" / f"step-{int(found[1]):09}").is_dir()
    again = command("--resume", "run", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"resumed after step {int(found[1])}" in again.stdout
    assert len(epochs_of(tmp_path / "run")) == EPOCHS


EPOCHS = 40
LONG = ["--depth", "6", "--width", "24", "--epochs", str(EPOCHS), "--save-every", "20"]


def _stopped(folder: Path, stop: Callable[[subprocess.Popen[str]], None], *more: str) -> str:
    """Train on two processes until the second epoch is done, then stop it; what it wrote on standard error."""
    process = subprocess.Popen(
        [*TORCHRUN, *TRAIN, *LONG, *more, "--output", "run"],
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


def _process(rank: int, launcher: subprocess.Popen[str]) -> int:
    """The process number of one of the two processes."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(re.search(r"PPid:\s+(\d+)", (path / "status").read_text())[1])  # type: ignore[index]
            if parent == launcher.pid and f"\0RANK={rank}\0".encode() in (path / "environ").read_bytes():
                return int(path.name)
        except OSError:
            continue
    raise AssertionError(f"there is no process of rank {rank}")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--data", "nowhere.csv"], "nowhere.csv is neither a file nor a folder nor a built-in set"),
        (["--resume", "nowhere"], "nowhere is not a folder: give the folder of a run"),
        (["--precision", "fp16", "--device", "cpu"], "fp16 needs a GPU, and the device is the CPU: use bf16"),
        (["--lr", "-1"], "-1.0 is not above 0"),
    ],
)
def test_bad_input_is_told_once_whatever_the_number_of_processes(
    tmp_path: Path, arguments: list[str], cause: str
) -> None:
    done = command(*arguments, folder=tmp_path)
    (line,) = ours(done.stderr)
    assert cause in line
    assert "exitcode  : 2" in done.stderr  # of the process; torchrun's own is 1
    assert list(tmp_path.iterdir()) == []


def test_accelerate_launch_runs_the_same_command(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--mixed_precision", "bf16"]
    refused = command(*SMALL, "--output", "run", folder=tmp_path, launcher=launcher)
    assert "accelerate is configured for the precision bf16, and the run for no: use the same" in refused.stderr
    done = command(*SMALL, "--precision", "bf16", "--output", "run", folder=tmp_path, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert "on cpu in bf16" in done.stdout


def test_accelerate_launch_starts_two_processes_on_the_processor_as_the_documentation_says(
    tmp_path: Path, root: Path
) -> None:
    flags = ["--multi_gpu", "--num_processes", "2"]
    page = (root / "docs" / "scale.md").read_text(encoding="utf-8")
    assert f"accelerate launch {' '.join(flags)} -m sigmoidcore train --device cpu" in page
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *flags, "--main_process_port", "0"]
    done = command(*SMALL, "--device", "cpu", "--output", "run", folder=tmp_path, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("on cpu with 2 processes") == 1
    assert done.stdout.count("Written") == 1
    assert len(epochs_of(tmp_path / "run")) == 3


def test_accelerate_launch_with_cpu_starts_one_process_which_refuses_to_train_where_two_were_meant(
    tmp_path: Path,
) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = command(*SMALL, "--output", "run", folder=tmp_path, launcher=launcher)
    (line,) = ours(done.stderr)
    assert "accelerate launch --cpu starts one process, whatever --num_processes says" in line
    assert list(tmp_path.iterdir()) == []
