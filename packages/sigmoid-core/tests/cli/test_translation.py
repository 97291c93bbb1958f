"""Help, wrong arguments and errors in Chinese: wherever `--lang` stands, and with the same codes and files."""

import re
from pathlib import Path

import pytest

from sigmoidcore.cli import main
from unstuck.language import VARIABLE

ENGLISH = re.compile("[a-z]{2,} [a-z]{2,} [a-z]{2,}")
COMMANDS = ["demo", "train", "diagnose", "predict", "evaluate", "export", "runs", "compare", "skipgram", "watch"]


@pytest.fixture(autouse=True)
def _english(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@pytest.mark.parametrize(
    "arguments",
    ["--lang zh train --help", "train --lang zh --help", "train --help --lang zh", "train --help --lang=zh"],
)
def test_help_is_chinese_wherever_the_language_stands(capsys, arguments):
    assert main(arguments.split()) == 0
    printed = capsys.readouterr().out
    assert "训练任意深度的普通 sigmoid 网络" in printed
    assert "  --seed N" in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_is_chinese_without_english_sentences(capsys, monkeypatch, command):
    monkeypatch.setenv(VARIABLE, "zh")
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "选项" in printed
    assert ENGLISH.search(printed) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nosuch", "没有命令 'nosuch'（见 sigmoid-core --help）"),
        ("predict", "缺少参数 'RUN'（见 sigmoid-core predict --help）"),
        ("evaluate a b c", "多余的参数（c）"),
        ("skipgram x --window 0", "'--window' 的值无效：应不小于 1"),
        ("runs --sort x", "'--sort' 的值无效：'x' 不在可选值 'date', 'name', 'metric', 'time' 之中"),
        ("diagnose x --fail-on never --fail-on US1", "'--fail-on' 的值无效：never 不能与其他值同时使用"),
        ("train --depth 0", "'--depth' 的值无效：0 超出范围：应不小于 1 且不大于 2,147,483,647"),
        ("train --lr 0", "应大于 0；常用值为 0.03"),
        ("train --data wien", "wien 不是文件，不是文件夹，也不是内置数据集：您是不是想用 'wine'？"),
    ],
)
def test_wrong_arguments_are_told_in_chinese_with_the_same_code(capsys, arguments, message):
    assert main(["--lang", "zh", *arguments.split()]) == 2
    assert message in capsys.readouterr().err


def test_the_option_lang_of_a_watched_script_is_its_own(capsys):
    assert main(["watch", "absent.py", "--lang", "zh"]) == 2
    assert "there is no script absent.py" in capsys.readouterr().err


def test_what_programs_read_is_english_and_what_people_read_is_not(capsys):
    arguments = "train --data wine --depth 3 --width 8 --epochs 1 --weight-decay 0 --output run --lang zh"
    assert main(arguments.split()) == 0
    assert "测试准确率" in Path("run", "report.txt").read_text(encoding="utf-8")
    assert '<html lang="zh-CN">' in Path("run", "diagnosis.html").read_text(encoding="utf-8")
    for name in ("metrics.jsonl", "diagnosis.json", "config.toml", "environment.json"):
        assert Path("run", name).read_text(encoding="utf-8").isascii()
    capsys.readouterr()
    assert main(["evaluate", "run", "wine", "--json", "-", "--lang", "zh"]) == 0
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert "these are the data of the training" in printed
