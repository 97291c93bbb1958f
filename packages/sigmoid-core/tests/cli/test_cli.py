"""The command line: help, exit codes, messages, what the demo shows; the lab serves its page until Ctrl-C."""

import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
import warnings

import pytest
import torch
from support.terminal import ESCAPE
from websockets.sync.client import connect

import sigmoidcore as sc
from sigmoidcore.cli import demo, helmholtz, main
from unstuck.language import VARIABLE

QUICK = ["demo", "--epochs", "2"]
ENGLISH = re.compile("[a-z]{2,} [a-z]{2,} [a-z]{2,}")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(demo, "DEPTH", 12)
    for name, value in {"DEPTH": 4, "STEPS": 5, "SIDE": 21}.items():
        monkeypatch.setattr(helmholtz, name, value)
    monkeypatch.delenv(VARIABLE, raising=False)


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sigmoid-core {sc.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["demo", "--help"], ["lab", "--help"]])
def test_help_is_printed(capsys, arguments):
    assert main(arguments) == 0
    assert "sigmoid-core" in ESCAPE.sub("", capsys.readouterr().out)


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_the_first_questions_are_answered_without_pytorch(argument):
    code = f"import sys; from sigmoidcore.cli import main; main(['{argument}']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(("command", "missing", "extra"), [("demo", "rich", "demo"), ("lab", "uvicorn", "lab")])
def test_without_its_extra_a_command_says_how_to_install_it(command, missing, extra):
    code = (
        f"import sys; sys.modules['{missing}'] = None; from sigmoidcore.cli import main; sys.exit(main(['{command}']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    install = rf'{re.escape(shlex.quote(sys.executable))} -m pip install (-e "/[^"]+/|")sigmoid-core\[{extra}\]"'
    assert re.fullmatch(rf"sigmoid-core: {missing}\S* is not installed: {install}\n", result.stderr)


@pytest.mark.parametrize("command", ["lab", "train", "predict"])
def test_help_and_wrong_arguments_need_neither_pytorch_nor_an_extra(command):
    heavy = ["torch", "uvicorn", "starlette", "skops", "pandas", "sklearn", "scipy", "matplotlib"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({heavy})); from sigmoidcore.cli import main; "
        f"sys.exit([main(['{command}', word]) for word in ('--help', '--wrong')] != [0, 2])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize("called", [".venv/bin/sigmoid-core", "sigmoid-core"])
def test_the_next_commands_are_called_as_this_one_was(called, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    assert main([*QUICK, "--epochs", "1"]) == 0
    assert f" {called} lab\n   {called} train --help\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["fly"], "No such command 'fly' (see sigmoid-core --help)"),
        (["demo", "--epochs", "0"], "'--epochs'"),
        (["demo", "--epochs", "x"], "'--epochs'"),
        (["demo", "extra"], "extra"),
        (["demo", "--lang", "fr"], "'fr' is not one of 'en', 'zh'"),
        (["demo", "--output", "file"], "cannot read or write file: File exists; give another name"),
        (["demo", "--output", "file/below"], "cannot read or write file/below: Not a directory"),
    ],
)
def test_wrong_input_is_one_line_on_standard_error_and_exit_code_2(refused, tmp_path, arguments, cause):
    (tmp_path / "file").touch()
    assert cause in refused(main, arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_demo_prints_its_sections_and_writes_every_figure(capsys, tmp_path):
    assert main(QUICK) == 0
    output = capsys.readouterr().out
    parts = (
        "1. The article's",
        "slope 0.1 -> 1.323",
        "2. One hundred layers",
        "epoch 2",
        "test accuracy",
        "Figures",
        "Next",
    )
    places = [output.index(part) for part in parts]
    assert places == sorted(places)
    named = re.findall(r"sigmoid-core-demo/\w+\.png", output)
    assert sorted(named) == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert len(named) == 2


def test_the_demo_is_chinese_without_english_sentences(capsys, tmp_path):
    assert main([*QUICK, "--output", "figures", "--lang", "zh"]) == 0
    output = capsys.readouterr().out
    assert "测试准确率" in output
    assert ENGLISH.search(output) is None
    assert VARIABLE not in os.environ


def test_the_demo_on_physics_trains_both_networks_and_draws_their_solutions(capsys, tmp_path):
    assert main(["demo", "--physics", "--epochs", "3", "--output", "figures"]) == 0
    output = capsys.readouterr().out
    errors = [float(word) for word in re.findall(r"step +15 .* error (\S+)", output)]
    assert len(errors) == 2
    assert all(0 < error < 10 for error in errors)
    assert [path.name for path in tmp_path.rglob("*.png")] == ["physics.png"]
    assert main(["demo", "--physics", "--epochs", "1", "--output", "figures", "--lang", "zh"]) == 0
    assert ENGLISH.search(capsys.readouterr().out) is None


def test_the_loss_of_the_demo_on_physics_is_nearly_zero_for_the_solution_and_only_for_it():
    class Known(torch.nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, at):
            return self.factor * helmholtz.solution(at)[:, None]

    at = 2 * torch.rand(192, 2) - 1
    assert float(helmholtz.Solver(Known(1.0), at)(at.clone()).detach()) < 1e-10
    assert float(helmholtz.Solver(Known(0.5), at)(at.clone()).detach()) > 0.1


def test_an_output_without_unicode_gets_ascii(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    assert main(QUICK) == 0
    assert written.getvalue().isascii()


@pytest.mark.parametrize(
    ("number", "code", "message"), [(signal.SIGINT, 130, "已中断"), (signal.SIGTERM, 143, "被 SIGTERM 终止")]
)
def test_a_signal_ends_the_demo_with_its_code_and_one_line(capsys, monkeypatch, number, code, message):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(demo.Run, "measure", lambda run: signal.raise_signal(number))
    assert main([*QUICK, "--lang", "zh"]) == code
    assert message in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_bug_keeps_its_traceback_and_a_warning_is_one_line(capsys, monkeypatch):
    def buggy(run):
        warnings.simplefilter("always")
        warnings.warn("two\nlines", UserWarning, stacklevel=1)
        raise TypeError("a bug")

    monkeypatch.setattr(demo.Run, "measure", buggy)
    with pytest.raises(TypeError, match="a bug"):
        main(QUICK)
    assert capsys.readouterr().err == "sigmoid-core: two lines (UserWarning)\n"


COMMAND = [sys.executable, "-m", "sigmoidcore", "lab", "--no-browser"]


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_serves_the_page_and_a_signal_ends_it_with_nothing_left(signal_number, code, tmp_path):
    with subprocess.Popen(
        [*COMMAND, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as server:
        address = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())[0]
        with urllib.request.urlopen(address) as answer:
            assert b"<canvas" in answer.read()
        server.send_signal(signal_number)
        output, error = server.communicate(timeout=60)
    assert (server.returncode, output) == (code, "")
    assert error.startswith("sigmoid-core: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_it_while_a_network_of_a_thousand_layers_trains():
    with subprocess.Popen(
        [*COMMAND, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        address = re.search(r"127\.0\.0\.1:\d+", server.stdout.readline())[0]
        with connect(f"ws://{address}/ws?depth=1000&width=4", origin=f"http://{address}") as page:
            page.send('{"do": "start"}')
            while json.loads(page.recv())["kind"] != "frame":
                pass
            server.send_signal(signal.SIGINT)
            output, error = server.communicate(timeout=60)
    assert (server.returncode, output, error.count("\n")) == (130, "", 1)


def test_a_port_in_use_is_an_error_with_the_remedy(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        error = refused(main, ["lab", "--no-browser", "--port", str(taken.getsockname()[1])])
    assert "or 0 for a free one" in error


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--target", "price"], "--data FILE and --target COLUMN belong together"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        (["--data", "nothing.csv", "--target", "price"], "nothing.csv"),
        (["--port", "70000"], "--port"),
    ],
)
def test_what_cannot_be_done_is_named(refused, arguments, part):
    assert part in refused(main, ["lab", "--no-browser", *arguments])


def test_another_address_is_printed_with_a_token_behind_the_number_sign():
    with subprocess.Popen(
        [*COMMAND, "--port", "0", "--host", "0.0.0.0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert re.search(r"http://[^/]+/#token=[\w-]{32}", server.stdout.readline())
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
