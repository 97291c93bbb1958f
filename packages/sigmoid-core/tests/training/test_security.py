"""Nothing that is read can run code, lead out of its folder, or take all memory; two options run code, and say so."""

import hashlib
import io
import itertools
import json
import os
import pickle
import re
import shutil
import struct
import sys
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file, save

from sigmoidcore.cli import main
from sigmoidcore.training.runs.checkpoints import Checkpoints, VersionError
from sigmoidcore.training.runs.folder import read_config
from sigmoidcore.training.runs.weights import read_tensors, save_tensors
from unstuck.language.terminal import printable

TRAIN = ["train", "--depth", "2", "--width", "4", "--epochs", "1"]
GOOD = "size,colour,price\n" + "".join(f"{n},{'red' if n % 3 else 'blue'},{n % 7}.5\n" for n in range(40))


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return open, (self.canary, "w")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of a table that nothing is wrong with."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "table.csv").write_text(GOOD)
    data = ["--data", str(folder / "table.csv"), "--target", "price"]
    assert main([*TRAIN, *data, "--output", str(folder / "run")]) == 0
    return folder


def memory(name):
    """VmRSS: bytes that this process has in memory; VmHWM: the most since the last reset."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


@pytest.fixture(autouse=True)
def most_memory():
    """How much more memory the test has taken so far, at its highest; at its end at most 2 GB."""
    if sys.platform != "linux":  # memory is measured by files of Linux
        yield None
        return
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    before = memory("VmRSS")
    yield lambda: memory("VmHWM") - before
    assert memory("VmHWM") - before < 2 * 10**9


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by files of Linux")
def test_memory_that_is_free_again_is_counted(most_memory):
    len(b"x" * 3 * 10**8)
    assert most_memory() > 2 * 10**8


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """A copy of it in a folder of its own, where nothing may be but this copy."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made / "run", tmp_path / "run")
    shutil.copy(made / "table.csv", tmp_path / "table.csv")
    return tmp_path / "run"


@pytest.fixture
def safely_refused(refused):
    return lambda *arguments: _safely(refused, arguments)


def _safely(refused, arguments):
    """What is said by a command that refuses, which is printable, has a remedy, and leaves nothing behind."""
    here = sorted(path for path in os.listdir() if path != "run")
    error = refused([str(argument) for argument in arguments])
    assert error.strip().isprintable()
    assert ":" in error[14:] or ";" in error
    assert sorted(path for path in os.listdir() if path != "run") == here
    return error


USES = [
    ["diagnose", "run"],
    ["evaluate", "run"],
    ["predict", "run", "table.csv", "-o", "out.parquet"],
    ["export", "run", "-o", "out.safetensors"],
]


def header(length, text=b""):
    return struct.pack("<Q", length) + text


def described(data=b"", **tensors):
    """A safetensors file of which the header says this, whatever it means."""
    text = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    return header(len(text), text) + data


def of(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def torch_saved(value):
    file = io.BytesIO()
    torch.save({"a": value}, file)
    return file.getvalue()


HOSTILE = {
    "pickle": lambda canary: pickle.dumps(Bomb(canary)),
    "torch.save": lambda canary: torch_saved(Bomb(canary)),
    "huge header": lambda canary: header(2**63),
    "header behind the end": lambda canary: header(10**6, b"{}"),
    "overlapping": lambda canary: described(bytes(16), a=of("F32", [3], 0, 12), b=of("F32", [2], 8, 16)),
    "dtype that is none": lambda canary: described(bytes(8), a=of("PICKLE", [2], 0, 8)),
    "dtype of another size": lambda canary: described(bytes(8), a=of("F64", [2], 0, 8)),
    "negative": lambda canary: described(bytes(8), a=of("F32", [-2], 0, 8)),
    "2^62 rows": lambda canary: described(a=of("F32", [2**62], 0, 0)),
    "deep header": lambda canary: header(50_000, b"[" * 50_000),
    "path as name": lambda canary: save({"../../a": torch.zeros(2), "/etc/passwd": torch.zeros(2)}),
}


@pytest.mark.parametrize(("use", "make"), list(zip(itertools.cycle(USES), HOSTILE.values(), strict=False)), ids=HOSTILE)
def test_weights_that_are_something_else_are_refused_by_every_command(run, safely_refused, tmp_path, use, make):
    (run / "model.safetensors").write_bytes(make(tmp_path / "canary"))
    assert "model.safetensors" in safely_refused(*use)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("size", ["9" * 400, "9" * 5000, "-" + "9" * 400])
def test_sizes_that_no_computer_can_hold_are_refused(run, safely_refused, size):
    tensors = load_file(run / "model.safetensors")
    described = {"architecture": "mlp", "in_features": size, "width": "4", "depth": "2", "out_features": "1"}
    save_tensors(run / "model.safetensors", tensors, described)
    for use in USES:
        assert len(safely_refused(*use)) < 500


def test_pickles_beside_the_weights_are_not_looked_at(run, capsys, tmp_path):
    for name in ("model.pt", "pytorch_model.bin", "optimizer.pkl", "checkpoints/step-000000001.pt", "model.joblib"):
        (run / name).write_bytes(pickle.dumps(Bomb(tmp_path / "canary")))
    assert main(["train", "--resume", "run"]) == 0
    assert main(["evaluate", "run"]) == 0
    assert not (tmp_path / "canary").exists()


def test_a_bit_that_flips_in_the_weights_is_seen_and_resume_mends_it(run, safely_refused):
    whole = (run / "model.safetensors").read_bytes()
    for place in range(8, len(whole), len(whole) // 10):
        flipped = bytearray(whole)
        flipped[place] ^= 4
        (run / "model.safetensors").write_bytes(flipped)
        safely_refused("export", "run", "-o", "out.safetensors")
    assert main(["train", "--resume", "run"]) == 0
    assert load_file(run / "model.safetensors").keys()
    assert main(["export", "run", "-o", "out.safetensors"]) == 0


OPTIONS = [
    "depth = 1979-05-27", "depth = 99999999999999999999", f"depth = 0x{'f' * 5000}", "depth = 2000000000",
    "width = 1000000000", "depth = -1",
    f"depth = {'9' * 4000}", f"depth = {'9' * 5000}", f"every = '{'9' * 5000}'", "batch_size = 9223372036854775808",
    "lr = nan", "lr = 1e999", "threads = 1000000", "'../../x' = 1", "resume = 'run'", "overwrite = true",
    "output = '/tmp/elsewhere'", "'__class__' = 'x'", "target = [1]", f"target = {'[' * 5000}", f"a{'.a' * 5000} = 1",
    "data = '/dev/zero'", "data = '../table.csv'", "data = '/proc/self/environ'", f"data = '{'x' * 100_000}'",
    r"data = '\x1b[2J.csv'", '"\\u001b[31m" = 1', r'data = "a\u0000b"', "model = 'evil:make'",
]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option[:30])
def test_a_hostile_config_is_refused_before_anything_is_made(run, safely_refused, tmp_path, option):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    (tmp_path / "config.toml").write_text(f"format = 2\n[options]\n{option}\n")
    assert len(safely_refused("train", "--config", "config.toml", "--output", "new")) < 700
    shutil.rmtree(run / "checkpoints")
    shutil.copy(tmp_path / "config.toml", run / "config.toml")
    before = sorted(os.listdir(run))
    safely_refused("train", "--resume", "run")
    assert sorted(os.listdir(run)) == before
    assert not (tmp_path / "canary").exists()


DEEP = "a." * 50_000
KEYS = {
    "bare": f"{DEEP}a = 1",
    "header": f"[{DEEP}a]\nb.c = 1",
    "spaces": "a \t. " * 30_000 + "a = 1",
    "quoted": '\'a\'."a\\"".' * 30_000 + "a = 1",
    "behind texts": "x = [{a = '''#''''', b = '#', " + DEEP + "a = 'y'}]",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_a_key_of_many_parts_takes_no_memory(run, safely_refused, capsys, key):
    (run / "config.toml").write_text(f"format = 2\n{key}\n[options]\n")
    tracemalloc.start()
    try:
        for use in [["runs"], *USES]:
            found = capsys.readouterr().out if use == ["runs"] and main(["runs", "."]) == 0 else safely_refused(*use)
            assert "a line has more than 100 dots" in " ".join(found.split())
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_config_may_contain_dots(run):
    dots = ".a" * 20
    (run / "config.toml").write_text(
        f'format = 2\noptions.drop = [\'{dots}\', """\n{dots}"""] # {dots}\noptions.y = [{"1.5, " * 20}]\n'
    )
    assert read_config(run).options == {"drop": [dots, dots], "y": [1.5] * 20}


@pytest.mark.parametrize("number", ["0", "true", "'2'", "3"])
def test_a_format_that_there_is_not_is_refused(run, safely_refused, tmp_path, number):
    (tmp_path / "config.toml").write_text(f"format = {number}\n[options]\n")
    safely_refused("train", "--config", "config.toml")


def archive(schema):
    """A zip file as skops writes it, with this schema."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("schema.json", schema)
    return file.getvalue()


def node(module, name, **others):
    """A schema of skops that makes an object of this type."""
    return json.dumps({"__module__": module, "__class__": name, "protocol": 2, **others}).encode()


PREPROCESSING = {
    "pickle": b"\x80\x04\x95",
    "nothing": b"",
    "no schema": archive(b""),
    "deep": archive(b"[" * 200_000),
    "bomb": archive(b" " * 2**29),
    "function": archive(node("os", "system", __loader__="FunctionNode", content="system")),
    "operator": archive(node("operator", "methodcaller", __loader__="OperatorFuncNode", attrs={})),
    "another estimator": archive(node("sklearn.preprocessing._function_transformer", "FunctionTransformer")),
    "list": archive(node("builtins", "list", __loader__="ListNode", content=[])),
    "no loader": archive(node("builtins", "dict", __loader__="no_loader", content={})),
}


@pytest.mark.parametrize(
    ("use", "content"), list(zip(itertools.cycle(USES[1:3]), PREPROCESSING.values(), strict=False)), ids=PREPROCESSING
)
def test_a_hostile_preprocessing_is_refused(run, safely_refused, use, content):
    (run / "preprocessing.skops").write_bytes(content)
    safely_refused(*use)


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl", "lock", "model.safetensors", "preprocessing.skops"])
def test_no_link_in_a_run_is_followed(run, tmp_path, name):
    mine = tmp_path / "mine"
    if (run / name).exists():
        (run / name).rename(mine)
    else:
        mine.write_text("precious")
    before = mine.read_bytes()
    (run / name).symlink_to(mine)
    main(["train", "--resume", "run"])
    assert mine.read_bytes() == before
    assert not (name == "model.safetensors" and (run / name).is_symlink())  # it was written anew, in its own place


def test_a_checkpoint_of_a_newer_format_is_refused_and_nothing_is_lost(run, safely_refused):
    path = Checkpoints(run / "checkpoints").paths()[-1]
    metadata, tensors = read_tensors(path)
    save_tensors(path, tensors, {**metadata, "checkpoint": "5"})
    before = {p: hashlib.sha256(p.read_bytes()).digest() for p in run.rglob("*") if p.is_file()}
    assert "install the version of sigmoid-core that wrote it" in safely_refused("train", "--resume", "run")
    assert {p: hashlib.sha256(p.read_bytes()).digest() for p in run.rglob("*") if p.is_file()} == before
    with pytest.raises(VersionError):
        Checkpoints(run / "checkpoints").read()


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def test_an_image_that_says_it_is_huge_is_refused(run, safely_refused, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "images" / name / f"{number}.png").write_bytes(png(60_000, 60_000))
    assert "cannot be read as an image" in safely_refused("train", "--data", "images", "--output", "new")


@pytest.mark.filterwarnings("ignore:pickle-based deserialization:RuntimeWarning")  # pyarrow 15 says it refuses
def test_pickles_in_tables_and_arrays_are_not_unpickled(run, safely_refused, tmp_path):
    bomb = pickle.dumps(Bomb(tmp_path / "canary"))
    for name in ("a.csv", "a.npy", "a.npz", "a.parquet", "a.feather", "a.pkl", "a.pt"):
        (tmp_path / name).write_bytes(bomb)
        safely_refused("train", "--data", name, "--target", "y")
    np.save(tmp_path / "b.npy", np.array([[Bomb(tmp_path / "canary"), 1]] * 5, dtype=object))
    assert "objects could run code" in safely_refused("train", "--data", "b.npy", "--target", "1")
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": bomb}
    schema = pa.schema([pa.field("x", pa.float64(), metadata=extension), pa.field("y", pa.int64())])
    table = pa.table({"x": np.arange(20.0), "y": [0, 1] * 10}, schema=schema)
    parquet.write_table(table.replace_schema_metadata({b"pandas": bomb}), tmp_path / "c.parquet")
    assert main([*TRAIN, "--data", "c.parquet", "--target", "y", "--output", "new"]) in (0, 2)  # pyarrow 15 refuses it
    assert not (tmp_path / "canary").exists()


def test_names_with_escape_sequences_and_markup_do_nothing_to_a_terminal(run, capsys, safely_refused, tmp_path):
    hostile = GOOD.replace("size", "\x1b[31m[red]size").replace("blue", "\x1b]0;x\x07").replace("red", "[/bold]")
    (tmp_path / "\x1b[2J.csv").write_text(hostile)
    assert main([*TRAIN, "--data", "\x1b[2J.csv", "--target", "colour", "--output", "\x1b[1m"]) == 0
    output, error = capsys.readouterr()
    assert "\x1b" not in output + error
    assert "\x07" not in output + error
    assert "[/bold]" in output
    assert r"\x1b]0;x\x07" in output
    safely_refused("train", "--data", "\x1b[2J.csv", "--target", "\x1b[31m")
    assert printable("a\u202eb\udcffc\n") == "a\\u202eb\\udcffc\\n"


NAMES = ["a\nBAD", "a\r\nBAD", "\x1b[31mBAD", "\x9b2JBAD", "\x7f\x08BAD", "\u202eBAD", "类别", "é"]
"""Names that would change a terminal, and two that many outputs cannot encode."""


@pytest.fixture
def use_of_names(run, tmp_path, monkeypatch):
    """Runs every command on files, folders, columns and classes with such names; returns JSON texts."""
    colours = pandas.Series([NAMES[n % len(NAMES)] for n in range(80)])
    table = pandas.DataFrame({f"{name}x": np.arange(80.0) % (n + 2) for n, name in enumerate(NAMES)})
    folder = tmp_path / "".join(NAMES)
    folder.mkdir()
    table.assign(**{"\nBADy": colours}).to_parquet(folder / "\nBAD.parquet")
    monkeypatch.chdir(folder)
    data, out = "\nBAD.parquet", "\nBAD"

    def use(output, error):
        train = [*TRAIN, "--data", data, "--target", "\nBADy"]
        for arguments in (
            [*train, "--output", out], ["train", "--resume", out], ["runs", "."], ["runs", out],
            ["evaluate", out], ["evaluate", out, data, "--figure", "\nBAD.png"], ["diagnose", out],
            ["predict", out, data, "-o", "\nBAD.csv", "--keep", f"{NAMES[0]}x"], ["export", out],
            ["runs", ".", "--json"], ["evaluate", out, "--json", "-"], ["diagnose", out, "--json", "-"],
        ):  # fmt: skip
            start = output().rfind("\n") + 1
            assert main(arguments) in (0, 1), error()
            if arguments[-2:-1] == ["--json"] or arguments[-1] == "--json":
                yield json.loads(output()[start:])
        for arguments in ([*train[:-1], "\nBAD"], ["evaluate", "\nBAD1"], ["\nBAD"], ["diagnose", "\nBAD:x"]):
            assert main(arguments) == 2

    return use


@pytest.mark.filterwarnings("ignore:no installed font:UserWarning")
@pytest.mark.parametrize("encoding", ["ascii", "gbk"])
def test_no_name_controls_a_terminal_in_any_encoding(use_of_names, monkeypatch, encoding):
    written = {name: io.TextIOWrapper(io.BytesIO(), encoding, write_through=True) for name in ("stdout", "stderr")}
    for name, stream in written.items():
        monkeypatch.setattr(sys, name, stream)
    output, error = (lambda s=s: s.buffer.getvalue().decode(encoding) for s in written.values())
    contents = list(use_of_names(output, error))
    assert [c["name"] for c in contents[1]["classes"]] == sorted(NAMES)
    for text in (output(), error()):
        assert text.replace("\n", "").isprintable()
        assert not re.search(r"(?m)^BAD", text)
    assert ("类别" in output()) == (encoding == "gbk")
    assert "Traceback" not in error()


def test_a_warning_is_one_line_without_control_characters(capsys, monkeypatch):
    def shown(*_, **__):
        print(warnings.formatwarning("a\x1b[2J\nb", UserWarning, "x.py", 3), end="")

    before = warnings.formatwarning
    monkeypatch.setattr("sigmoidcore.cli.train.run_training", shown)
    assert main(["train"]) == 0
    assert capsys.readouterr().out == "sigmoid-core: a\\x1b[2J b (UserWarning, x.py:3)\n"
    assert warnings.formatwarning is before


def test_a_file_name_that_is_not_text_is_refused(run, safely_refused, tmp_path):
    name = os.fsdecode(b"a\xff.csv")
    (tmp_path / name).write_text(GOOD)
    assert "rename it" in safely_refused("train", "--data", name, "--target", "price", "--output", "new")


def test_the_help_says_that_the_users_code_is_run(capsys):
    assert main(["diagnose", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert re.search(r"Your function .*imported from this folder and executed", text)
