"""The command line: exit codes, messages, what is shown where, and what Ctrl-C leaves behind."""

import io
import os
import re
import signal
import subprocess
import sys
import tomllib

import pytest
import torch
from safetensors.torch import load_file
from support import processes
from support.terminal import ESCAPE, in_terminal, screens

import sigmoidcore as sc
from sigmoidcore.cli import main
from sigmoidcore.training import display, execution, fit, load, session, train
from sigmoidcore.training.runs.folder import read_metrics

SMALL = ["train", "--depth", "3", "--width", "16", "--epochs", "2"]


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sigmoid-core {sc.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["demo", "--help"], ["train", "--help"]])
def test_help_is_printed(capsys, arguments):
    assert main(arguments) == 0
    assert "sigmoid-core" in ESCAPE.sub("", capsys.readouterr().out)


def test_without_the_extra_the_command_says_how_to_install_it():
    code = (
        "import sys\n"
        "for name in ('typer', 'rich', 'matplotlib', 'sklearn'): sys.modules[name] = None\n"
        "from sigmoidcore.cli import main\n"
        "sys.exit(main(['--version']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == ('sigmoid-core: typer is not installed: pip install "sigmoid-core[cli]"\n')


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["fly"], "fly"),
        (["train", "--fast"], "--fast"),
        (["train", "--data", "cifar"], "cifar is neither a file nor a folder nor a built-in set: built in are: dig"),
        (["demo", "--epochs", "0"], "'--epochs': 0 is not from 1 to"),
        (["demo", "--epochs", "x"], "'--epochs': 'x' is not a whole number"),
        (["demo", "extra"], "extra"),
    ],
)
def test_wrong_input_is_one_line_on_standard_error_and_exit_code_2(refused, tmp_path, arguments, cause):
    assert cause in refused(arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["demo", "train"])
@pytest.mark.parametrize(("place", "cause"), [("file", "is a file"), ("file/below", "cannot write file/below: ")])
def test_an_impossible_folder_is_wrong_input(capsys, tmp_path, command, place, cause):
    (tmp_path / "file").touch()
    assert main([command, "--output", place]) == 2
    assert cause in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is writable for root")
def test_a_folder_without_permission_is_wrong_input(capsys, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert main(["train", "--output", "locked/run"]) == 2
    assert "cannot write locked/run: Permission denied; give another --output" in capsys.readouterr().err


def test_train_writes_metrics_figures_weights_and_a_report(capsys, tmp_path):
    assert main([*SMALL, "--every", "5", "--output", "run"]) == 0
    output, error = capsys.readouterr()
    assert error == ""
    assert "\x1b" not in output
    run = tmp_path / "run"
    assert sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()) == [
        *(f"checkpoints/step-0000000{step}.safetensors" for step in (14, 28)),
        "config.toml", "diagnosis.html", "diagnosis.json", "environment.json", "figures/gradient_heatmap.png",
        "figures/gradient_profiles.png", "figures/learning_curves.png", "metrics.jsonl", "model.safetensors",
        "preprocessing.skops", "report.txt",
    ]  # fmt: skip
    rows = read_metrics(run / "metrics.jsonl")
    assert [row["step"] for row in rows if row["kind"] == "sample"] == [0, 5, 10, 15, 20, 25]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert [(row["epoch"], row["step"]) for row in epochs] == [(1, 14), (2, 28)]
    assert set(epochs[0]) == {"kind", "epoch", "step", "loss", "accuracy", "spread", "seconds"}
    training = rows[-1].pop("training")
    assert epochs[-1]["accuracy"] / 100 - 0.05 < training <= 1
    assert rows[-1] == {"kind": "end", "outcome": "finished", "step": 28, "message": ""}
    accuracy = f"{epochs[-1]['accuracy']:.1f} %"
    assert accuracy in (run / "report.txt").read_text()
    assert accuracy in output
    assert tomllib.loads((run / "config.toml").read_text())["options"]["every"] == 5


def test_without_the_equalizer_the_heat_map_shows_the_epochs(tmp_path):
    assert main([*SMALL, "--no-equalize", "--output", "run"]) == 0
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert {row["kind"] for row in rows} == {"run", "data", "epoch", "end"}
    assert (tmp_path / "run" / "figures" / "gradient_heatmap.png").is_file()


def test_every_run_gets_a_new_folder_and_a_finished_one_is_not_overwritten(capsys, tmp_path):
    quick = [*SMALL[:-1], "1"]
    assert main(quick) == main(quick) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["digits-3x16-1", "digits-3x16-2"]
    assert main([*quick, "--output", "runs/digits-3x16-1"]) == 2
    assert "contains a run: give another --output, or --overwrite to replace it" in capsys.readouterr().err
    assert main([*quick, "--output", "runs/digits-3x16-1", "--overwrite"]) == 0


def test_a_failed_run_exits_with_1_and_keeps_the_results_so_far(capsys, tmp_path):
    assert main(["train", "--depth", "3", "--lr", "1e36", "--save-every", "1", "--output", "run"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is not finite" in error  # the loss, or with other instruction sets a weight
    assert "use a smaller lr" in error
    assert error.endswith("the results so far are in run\n")
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["outcome"] == "failed"
    kept = [load_file(path) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert kept
    weights = [value for file in kept for name, value in file.items() if name.startswith("model.")]
    weights += load_file(tmp_path / "run" / "model.safetensors").values()
    assert all(bool(value.isfinite().all()) for value in weights)


def test_lack_of_memory_is_explained(capsys, monkeypatch):
    def no_memory(*arguments, **sizes):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")

    monkeypatch.setattr("sigmoidcore.training.execution.network", no_memory)
    assert main([*SMALL, "--output", "run"]) == 1
    assert "not enough memory: lower the width" in capsys.readouterr().err


def test_ctrl_c_ends_after_the_step_and_keeps_its_weights(capsys, monkeypatch, tmp_path):
    update = display.Meter.update

    def press_at_step_17(meter, progress, *others):
        if progress.step == 17:
            signal.raise_signal(signal.SIGINT)
        update(meter, progress, *others)

    monkeypatch.setattr(display.Meter, "update", press_at_step_17)
    assert main([*SMALL, "--output", "run"]) == 130
    assert (
        "interrupted after step 17 of 28; the results so far are in run; to resume: sigmoid-core train "
        "--resume run" in capsys.readouterr().err
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def stop_at_step_17(progress):
        if progress.step == 17:
            raise KeyboardInterrupt

    split = load("digits").flattened()
    torch.manual_seed(0)
    model = sc.MLP(64, 16, 3, 10)
    inputs, targets = split.probes()
    sc.prepare(model, inputs, targets=targets, loss_fn=split.loss_fn)
    with session.threads(1):
        train(model, split, epochs=2, on_step=stop_at_step_17)
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.allclose(saved[name], value, atol=1e-5) for name, value in model.state_dict().items())
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [1]
    assert rows[-1]["outcome"] == "interrupted"
    assert len(list((tmp_path / "run" / "figures").glob("*.png"))) == 3


def test_ctrl_c_while_the_results_are_written_ends_a_loop_over_runs_too(capsys, monkeypatch, tmp_path):
    written = execution.save_figures

    def press(*arguments):
        signal.raise_signal(signal.SIGINT)
        written(*arguments)

    monkeypatch.setattr(execution, "save_figures", press)
    assert main([*SMALL, "--output", "run"]) == 130
    assert "interrupted after the training; its results are in run" in capsys.readouterr().err
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["outcome"] == "finished"
    with pytest.raises(KeyboardInterrupt, match="after the training"):
        fit("digits", output="again", depth=3, width=16, epochs=1, progress=False)


def test_a_second_ctrl_c_stops_at_once():
    with pytest.raises(KeyboardInterrupt), session.CtrlC() as ctrl_c:  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            ctrl_c.check()
        signal.raise_signal(signal.SIGINT)


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with session.CtrlC() as ctrl_c:
            signal.raise_signal(signal.SIGINT)
            ctrl_c.check()
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def lines_of(arguments, errors):
    """Start the command; return it, and its output line by line as it comes."""
    reading, writing = os.pipe()
    with open(writing, "w") as output:
        process = processes.start(arguments, output, errors)
    return process, open(reading)


def test_a_closed_pipe_ends_the_run_without_a_message_and_keeps_the_weights(tmp_path):
    with open("errors", "w+") as errors:
        process, lines = lines_of([*SMALL, "--output", "run"], errors)
        with lines:
            assert any("prepared" in line for line in lines)
        process.join()
    assert process.exitcode == 1
    assert (tmp_path / "errors").read_text() == ""
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_demo_prints_its_sections_and_writes_every_figure(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sigmoidcore.cli.demo.DEPTH", 12)
    assert main(["demo", "--epochs", "2", "--output", "run"]) == 0
    output = capsys.readouterr().out
    parts = ("1. The article's", "slope 0.1 -> 1.323", "2. One hundred layers", "test accuracy", "Figures", "Next")
    places = [output.index(part) for part in parts]
    assert places == sorted(places)
    assert len(list((tmp_path / "run" / "figures").glob("*.png"))) == 4


def test_settings_of_pytorch_are_restored():
    threads = torch.get_num_threads()
    with session.threads(threads + 1), session.denormals_flushed():
        assert torch.get_num_threads() == threads + 1
        assert float(torch.tensor(1e-310, dtype=torch.float64) * 1) == 0
    assert torch.get_num_threads() == threads
    assert float(torch.tensor(1e-310, dtype=torch.float64) * 1) > 0


@pytest.mark.parametrize("columns", [60, 80, 100, 120, 200])
def test_the_live_view_shows_every_number_in_any_width(columns):
    _, written = in_terminal([*SMALL, "--output", "run"], columns)
    seen = [" ".join(screen.split()) for screen in screens(written, columns) if "epoch 2 of 2" in screen]
    numbers = r"━ loss [0-9.]+ (test )?accuracy [0-9.]+ % spread [0-9.]+ [0-9:]+ left"
    assert any(re.search(numbers, screen) for screen in seen), seen


@pytest.mark.parametrize(("columns", "variables"), [(40, {"NO_COLOR": "1"}), (120, {})])
def test_a_terminal_shows_a_live_view_in_its_width_and_respects_no_color(columns, variables):
    code, written = in_terminal([*SMALL, "--output", "run"], columns, **variables)
    assert code == 0
    assert "\x1b[2K" in written  # lines are drawn again
    assert "\x1b[?25h" in written  # and the cursor is there at the end
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", written)) == (not variables)
    text = ESCAPE.sub("", written)
    assert "epoch 1 of 2" in text
    assert re.search(r"(?m)^ *loss [0-9.]+ ", text)
    assert re.search(r"[0-9] left\b", " ".join(text.split()))
    assert "test accuracy" in text
    assert max(len(line) for line in re.split(r"[\r\n]+", text)) <= columns


def test_a_dumb_terminal_gets_plain_lines():
    code, written = in_terminal([*SMALL, "--output", "run"], 80, TERM="dumb")
    assert code == 0
    assert "\x1b" not in written
    assert "epoch 2/2  loss" in written


def test_an_output_without_unicode_gets_ascii(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    assert main([*SMALL, "--output", "run"]) == 0
    assert written.getvalue().isascii()
    assert b"|###|" in written.getvalue()
