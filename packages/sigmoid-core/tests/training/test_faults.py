"""Nothing is lost: runs that are killed, fill the disk, are damaged, or are shared by two processes."""

import contextlib
import os
import random
import resource
import signal
import time

import pytest
import torch
from safetensors.torch import load_file
from support import processes

from sigmoidcore.cli import main
from sigmoidcore.training import display
from sigmoidcore.training.runs.folder import read_config, read_metrics

TRAIN = ["train", "--depth", "3", "--width", "8", "--epochs", "3", "--every", "4", "--save-every", "5"]
STEPS = 42


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights and the metrics of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main([*TRAIN, "--output", str(folder)]) == 0
    return load_file(folder / "model.safetensors"), metrics(folder)


def metrics(folder):
    """What a run wrote, without the times and what tells of interruptions."""
    rows = read_metrics(folder / "metrics.jsonl")
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "started")}
        for row in rows
        if row["kind"] in ("sample", "epoch", "end")
    ]


def same(folder, whole):
    weights, rows = whole
    reached = load_file(folder / "model.safetensors")
    assert reached.keys() == weights.keys()
    assert all(torch.equal(reached[name], weights[name]) for name in weights)
    assert metrics(folder) == rows


def stop_at(monkeypatch, step, number=signal.SIGINT):
    """Send a signal when the run comes to this step."""
    update = display.Meter.update

    def press(meter, progress, *others):
        if progress.step == step:
            signal.raise_signal(number)
        update(meter, progress, *others)

    monkeypatch.setattr(display.Meter, "update", press)


@pytest.mark.parametrize(("number", "code", "step"), [(signal.SIGINT, 130, 17), (signal.SIGTERM, 143, 28)])
def test_ctrl_c_and_sigterm_save_and_exit_with_their_code_and_the_run_resumes_bit_for_bit(
    monkeypatch, capsys, tmp_path, whole, number, code, step
):
    with monkeypatch.context() as patch:
        stop_at(patch, step, number)
        assert main([*TRAIN, "--output", "run"]) == code
    assert "to resume: sigmoid-core train --resume run" in capsys.readouterr().err
    assert main(["train", "--resume", "run"]) == 0
    assert f"resumed after step {step}\n" in capsys.readouterr().out
    same(tmp_path / "run", whole)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_that_is_stopped_several_times_ends_as_an_uninterrupted_one(monkeypatch, capsys, tmp_path, whole):
    stops = sorted(random.Random(0).sample(range(1, STEPS + 1), 3))
    arguments = [*TRAIN, "--output", "run"]
    for step in stops:
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            assert main(arguments) == 130
        arguments = ["train", "--resume", "run"]
    assert main(arguments) == 0
    same(tmp_path / "run", whole)
    resumed = [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "resume"]
    assert resumed == stops


def test_resuming_a_finished_run_changes_nothing(capsys, tmp_path, whole):
    assert main([*TRAIN, "--output", "run"]) == 0
    assert main(["train", "--resume", "run"]) == 0
    same(tmp_path / "run", whole)


def test_a_config_runs_the_same_again(capsys, tmp_path, whole):
    assert main([*TRAIN, "--output", "first"]) == 0
    assert main(["train", "--config", "first/config.toml", "--output", "second"]) == 0
    same(tmp_path / "second", whole)
    assert read_config(tmp_path / "first").options == read_config(tmp_path / "second").options
    assert main(["train", "--config", "first/config.toml", "--epochs", "1", "--output", "third"]) == 0
    assert read_config(tmp_path / "third").options == {**read_config(tmp_path / "first").options, "epochs": 1}


def test_a_killed_run_resumes_and_ends_as_an_uninterrupted_one(tmp_path, whole):
    rng = random.Random(0)
    process = processes.start([*TRAIN, "--output", "run"])
    target = rng.randrange(1, STEPS)
    while process.is_alive() and reached(tmp_path / "run") < target:
        time.sleep(0.002)
    time.sleep(rng.random() / 50)
    process.kill()
    process.join()
    assert main(["train", "--resume", "run"]) == 0
    same(tmp_path / "run", whole)


def reached(folder):
    with contextlib.suppress(OSError, ValueError):
        return max((row.get("step", 0) for row in read_metrics(folder / "metrics.jsonl")), default=0)
    return 0


@pytest.mark.parametrize("size", [2_500, 20_000])
def test_a_full_disk_ends_the_run_with_one_line_and_it_resumes_with_room(capsys, tmp_path, whole, size):
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most[1]))
    try:
        code = main([*TRAIN, "--output", "run"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert code == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["train", "--resume", "run"]) == 0
    same(tmp_path / "run", whole)


@pytest.fixture
def stopped(monkeypatch, capsys, tmp_path):
    """A run that was stopped after step 23."""
    with monkeypatch.context() as patch:
        stop_at(patch, 23)
        assert main([*TRAIN, "--output", "run"]) == 130
    capsys.readouterr()
    return tmp_path / "run"


def test_a_damaged_checkpoint_is_named_and_the_previous_one_is_used(stopped, capsys, whole):
    hurt(stopped / "checkpoints" / "step-000000023.safetensors", "flipped")
    assert main(["train", "--resume", "run"]) == 0
    output, error = capsys.readouterr()
    assert "step-000000023.safetensors is damaged" in error
    assert "resumed after step 20\n" in output
    same(stopped, whole)


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_a_damaged_config_is_named_and_restored(stopped, capsys, damage):
    config = (stopped / "config.toml").read_bytes()
    hurt(stopped / "config.toml", damage)
    assert main(["train", "--resume", "run"]) == 0
    assert "config.toml has changed: it was restored from the checkpoint" in capsys.readouterr().err
    assert (stopped / "config.toml").read_bytes() == config


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_damaged_metrics_are_named_and_the_epochs_restored(stopped, capsys, whole, damage):
    hurt(stopped / "metrics.jsonl", damage)
    assert main(["train", "--resume", "run"]) == 0
    assert "metrics.jsonl is damaged" in capsys.readouterr().err
    rows = [row for row in metrics(stopped) if row["kind"] == "epoch"]
    assert rows == [row for row in whole[1] if row["kind"] == "epoch"]


def hurt(path, damage):
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        data[len(data) // 3] ^= 4
        path.write_bytes(data)


def test_a_run_without_a_valid_checkpoint_is_refused(stopped, capsys):
    for path in (stopped / "checkpoints").iterdir():
        hurt(path, "flipped")
    assert main(["train", "--resume", "run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no checkpoint is valid" in error


def test_a_second_process_on_the_folder_is_refused(tmp_path, capsys):
    process = processes.start([*TRAIN, "--epochs", "100000", "--output", "run"])
    while reached(tmp_path / "run") < 14:
        time.sleep(0.01)
    try:
        for second in (["train", "--resume", "run"], [*TRAIN, "--output", "run", "--overwrite"]):
            assert main(second) == 2
            assert "run is in use by another process" in capsys.readouterr().err
    finally:
        process.kill()
    assert (tmp_path / "run" / "lock").exists()


def test_resume_takes_no_other_option(capsys, tmp_path):
    assert main([*TRAIN, "--output", "run"]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "run", "--epochs", "7"]) == 2
    assert "--epochs cannot be given" in capsys.readouterr().err
    assert not (tmp_path / "run" / "lock").exists()


@pytest.mark.parametrize("place", ["nowhere", "file", "."])
def test_a_folder_without_a_run_cannot_be_resumed(capsys, tmp_path, place):
    (tmp_path / "file").touch()
    assert main(["train", "--resume", place]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["file"]
