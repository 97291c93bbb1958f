"""Data that cannot be used: one line that says why and what to do, whatever is wrong with it."""

import gzip
import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pandas
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import feather, parquet
from core_support.malformed import DEFECTS, GOOD, QUICK, as_file

from sigmoidcore.training.data import DataError, load


def refused(source, **options):
    """The message with which the source is refused."""
    with pytest.raises(DataError) as caught:
        load(source, **options)
    message = str(caught.value)
    assert_is_helpful(message)
    return message


def assert_is_helpful(message):
    """One line, with the cause and, after a colon or a semicolon, the remedy."""
    assert "\n" not in message
    assert 20 < len(message) < 600
    assert ":" in message or ";" in message
    assert message.isprintable()
    assert "Traceback" not in message


@pytest.fixture
def put(tmp_path):
    """Writes a file and gives its path."""

    def write(content, name="a.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.mark.parametrize(
    ("content", "options", "cause"),
    [
        (GOOD, {}, "name the column to learn (--target): the names are size, colour, price"),
        (GOOD, {"target": "prise"}, "there is no target 'prise': did you mean 'price'?"),
        (GOOD, {"target": "Price"}, "did you mean 'price'?"),
        (GOOD, {"target": "xyz"}, "the names are size, colour, price"),
        (GOOD, {"target": "price", "drop": ["clour"]}, "no column to drop 'clour': did you mean 'colour'?"),
        (GOOD, {"target": "price", "drop": ["price"]}, "'price' is the target and cannot be left out"),
        (GOOD, {"target": "price", "drop": ["size", "colour"]}, "no column to learn from"),
        (GOOD, {"target": ["price", "price"]}, "given twice"),
        (GOOD, {"target": ["price", "colour"]}, "several targets must all be numbers, and 'colour' is not"),
        (GOOD, {"target": ["price", "size"], "kind": "class"}, "several targets must all be numbers"),
        (GOOD, {"target": "colour", "kind": "number"}, "'colour' is a category, not a number"),
        (GOOD, {"target": "colour", "kind": "joy"}, "no kind of target 'joy': say 'class' or 'number'"),
        (GOOD, {"target": "size", "kind": "class"}, "40 different classes in 40 rows"),
        (GOOD, {"target": "price", "test_size": 0.0}, "0.0 is not a fraction"),
        (GOOD, {"target": "price", "test_size": 1.5}, "1.5 is not a fraction"),
        (GOOD, {"target": "colour", "test_size": 0.01}, "cannot be split with a fraction of 0.01"),
        ("", {"target": "a"}, "is empty"),
        ("\n \n\n", {"target": "a"}, "is empty"),
        ("\ufeff", {"target": "a"}, "is empty"),
        ("a,b\n", {"target": "a"}, "has no rows"),
        ("a,b\n1,2\n", {"target": "a"}, "has one row: give at least 4"),
        ("a,b\n1,2\n1,2\n", {"target": "a"}, "has 2 rows"),
        ("a,a\n1,2\n", {"target": "a"}, "two columns named 'a', number 1 and 2"),
        ("a, a\n1,2\n", {"target": "a"}, "two columns named 'a'"),
        ("a,,b\n1,2,3\n", {"target": "a"}, "no name for column 2"),
        ("1,2\n3,4\n", {"target": "1"}, "numbers instead of column names"),
        (GOOD + "1,red\n", {"target": "price"}, "2 instead of 3 columns in row 41 ('1,red')"),
        (GOOD + "\n1,red,2,3\n", {"target": "price"}, "4 instead of 3 columns in row 41"),
        ('a,b\n1,"x\ny"\n1,2,3\n', {"target": "a"}, "3 instead of 2 columns in row 2"),
        (GOOD + "x,red,2\n", {"target": "price"}, "'size' has 'x' in row 41, and is a number elsewhere"),
        (GOOD + "inf,red,2\n", {"target": "price"}, "'size' has inf in row 41, too large"),
        (GOOD + "1,red,\n", {"target": "price"}, "'price' is missing in row 41:"),
        (GOOD + "1,red,nan\n1,red,NA\n", {"target": "price"}, "'price' is missing in row 41 and 1 more"),
        (GOOD + "1,red,-inf\n", {"target": "price"}, "'price' has -inf in row 41"),
        (GOOD + "1e308,red,1\n-1e308,red,1\n" * 9, {"target": "price"}, "has 1.0e+308 in row 41, too large"),
        (GOOD + "1,red,1e308\n1,red,-1e308\n" * 9, {"target": "price"}, "has 1.0e+308 in row 41, too large"),
        (GOOD.replace("blue", "red"), {"target": "colour"}, "'colour' is always 'red'"),
        (GOOD + "1,green,2\n", {"target": "colour"}, "class 'green' has one sample"),
        ("a,b\n" + "1,1.5\n2,1.5\n" * 9, {"target": "b"}, "always 1.5"),
        ("a,b\n" + "1,1.5\n1,2.5\n" * 9, {"target": "b"}, "no column to learn from (left out"),
        ("a,b\n" + "".join(f"1,x{n}\n" for n in range(30)), {"target": "b"}, "30 different classes in 30 rows"),
        ("a,b\n" + "1,2024-01-01\n1,2024-01-02\n" * 9, {"target": "b"}, "'b' is a date"),
        (
            GOOD.replace("40", "40").encode("utf-8") + "1,gr\u00fcn,1\n".encode("latin-1"),
            {"target": "price"},
            "line 42",
        ),
        (GOOD.encode("utf-16")[:-1], {"target": "price"}, "is not UTF-8 text, see line 1"),
        (b"a,b\n1,\x00\n", {"target": "a"}, "is not UTF-8 text, see line 2"),
        (GOOD.replace("red", "红色的").encode("gbk"), {"target": "price"}, "iconv -f GB18030"),
        (gzip.compress(GOOD.encode(), mtime=0)[:-20], {"target": "price"}, "cannot be unpacked"),
        (b"\x1f\x8b" + b"x" * 40, {"target": "price"}, "cannot be unpacked"),
    ],
)
def test_a_bad_table_is_refused_in_one_line_with_cause_and_remedy(put, content, options, cause):
    assert cause in refused(put(content), **options)


def test_a_missing_source_is_refused_with_a_suggestion(put, tmp_path):
    put(GOOD, "prices.csv")
    assert "did you mean 'prices.csv'?" in refused(tmp_path / "price.csv", target="price")
    assert "did you mean 'wine'?" in refused("wines")
    assert "neither a file nor a folder" in refused(tmp_path / "no" / "where.csv")
    assert "neither a file nor a folder" in refused("a\0b.csv", target="x")


def test_sizes_are_refused_before_memory_is_taken(put, tmp_path, monkeypatch):
    monkeypatch.setattr("sigmoidcore.training.data.files.memory", lambda: 2**20)
    monkeypatch.setattr("sigmoidcore.training.data.loading.memory", lambda: 2**20)
    assert "larger than 0.0 GiB unpacked" in refused(put(gzip.compress(b"a,b\n" + b"1,2\n" * 2**20), "a.csv.gz"))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\0" * 3_000_000)
    assert "is larger than" in refused(tmp_path / "a.npz")
    parquet.write_table(pa.table({"x": np.zeros(2**15), "y": np.zeros(2**15)}), tmp_path / "a.parquet")
    assert "32,768 rows, whose targets do not fit into memory" in refused(tmp_path / "a.parquet", target="y")


def test_a_folder_instead_of_a_file_is_refused_and_its_files_are_named(put, tmp_path):
    put(GOOD, "prices.csv")
    assert "give a file in it: prices.csv" in refused(tmp_path, target="price")
    (tmp_path / "b.csv").mkdir()
    assert "make one subfolder for each class" in refused(tmp_path / "b.csv", target="price")


def test_a_kind_of_file_that_is_not_known_is_refused(put):
    assert "its name must end with one of .csv" in refused(put(GOOD, "a.xlsx"), target="price")
    assert "is named .gz and is not gzipped" in refused(put(GOOD, "a.csv.gz"), target="price")


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is readable for root")
def test_a_file_without_permission_is_refused(put):
    path = put(GOOD)
    path.chmod(0)
    assert "Permission denied" in refused(path, target="price")


def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    assert "cannot be read twice" in refused(tmp_path / "a.csv", target="price")


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.npy", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"ARROW1", b"x" * 1000, GOOD.encode(), pickle.dumps([1, 2, 3])])
def test_a_file_of_another_kind_than_its_name_is_refused(put, name, content):
    refused(put(content, name), target="price")


@pytest.mark.parametrize(
    ("arrays", "options", "cause"),
    [
        ({"x": np.ones((9, 2)), "y": np.arange(8)}, {}, "give as many targets as inputs"),
        ({"x": np.ones((9, 2)), "y": np.ones((9, 2, 2))}, {}, "give as many targets as inputs"),
        ({"x": np.ones((9, 2)), "z": np.arange(9)}, {}, "no array 'y'"),
        ({"a": np.ones((9, 2)), "b": np.ones(9), "y": np.arange(9)}, {}, "no array named x"),
        ({"x": np.ones((9, 2)), "label": np.arange(9)}, {"target": "labels"}, "did you mean 'label'?"),
        ({"x": np.ones((9, 2)), "y": np.arange(9)}, {"target": ["x", "y"]}, "one array as --target"),
        ({"x": np.ones((0, 2)), "y": np.ones(0)}, {}, "arrays without samples"),
        ({"x": np.ones((9, 2)) + 1j, "y": np.arange(9)}, {}, "complex128"),
        ({"x": np.ones((9, 2)), "y": np.arange(9.0)}, {}, "left out, because constant"),
        ({"x": np.ones((9, 2, 2)), "y": np.arange(9.0)}, {}, "inputs that are constant"),
        ({"x": np.full((9, 2, 2), np.nan), "y": np.arange(9.0)}, {}, "not finite in sample 1"),
        ({"x": np.full((9, 2, 2), "a"), "y": np.arange(9.0)}, {}, "give an array of numbers"),
        ({"x": np.random.rand(9, 2), "y": np.full(9, np.nan)}, {}, "'y' is missing in row 1"),  # noqa: NPY002
        ({"x": np.random.rand(9, 2, 2), "y": np.arange(9.0)}, {"drop": "x"}, "has no columns"),  # noqa: NPY002
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, options, cause):
    np.savez(tmp_path / "a.npz", **arrays)
    assert cause in refused(tmp_path / "a.npz", **options)


def test_an_array_that_claims_to_be_larger_than_the_machine_is_refused(put):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**55}, 4)}}"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    refused(put(content, "a.npy"), target="3")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.npy", content)
    refused(put(archive.getvalue(), "a.npz"))


def test_columns_of_unsupported_types_are_refused(tmp_path):
    parquet.write_table(pa.table({"x": [[1, 2]] * 8, "y": [0, 1] * 4}), tmp_path / "a.parquet")
    for in_memory in (0, 2**30):
        assert "'x' has values of type list<" in refused(tmp_path / "a.parquet", target="y", in_memory=in_memory)
    feather.write_feather(pa.table({"x": [1, 2] * 4, "y": [{"a": 1}] * 8}), tmp_path / "a.feather")
    assert "'y' has values of type struct<" in refused(tmp_path / "a.feather", target="y")
    mixed = pandas.DataFrame({"x": [1, "a", 2.5, None] * 4, "y": [0, 1] * 8})
    assert "mixed types" in refused(mixed, target="y")
    assert "is not a table" in refused([1, 2, 3], target="y")
    twice = pandas.DataFrame(np.ones((8, 3)), columns=["x", "x", "y"])
    assert "two columns named 'x'" in refused(twice, target="y")


def test_parquet_files_of_one_folder_must_have_the_same_columns(tmp_path):
    pandas.DataFrame({"x": [1, 2], "y": [0, 1]}).to_parquet(tmp_path / "a.parquet")
    pandas.DataFrame({"x": ["a", "b"], "y": [0, 1]}).to_parquet(tmp_path / "b.parquet")
    assert "b.parquet has other columns than" in refused(tmp_path, target="y")


def test_a_stream_refuses_the_same_values_as_memory(tmp_path):
    table = pandas.DataFrame({"x": np.arange(50.0), "y": np.arange(50.0)})
    for change, cause in (
        ({"x": np.inf}, "'x' has inf in row 31"),
        ({"y": np.nan}, "'y' is missing in row 31"),
        ({"y": np.inf}, "'y' has inf in row 31"),
    ):
        bad = table.copy()
        for name, value in change.items():
            bad.loc[30, name] = value
        bad.to_parquet(tmp_path / "a.parquet")
        assert cause in refused(tmp_path / "a.parquet", target="y", in_memory=0)


def test_images_that_cannot_be_read_are_refused(put, tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        for number in range(3):
            path = tmp_path / "pets" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((4, 4), number * 9, np.uint8)).save(path)
    whole = path.read_bytes()
    put(whole[:40], "pets/dog/3.png")
    assert "3.png cannot be read as an image" in refused(tmp_path / "pets")
    put(b"no image", "pets/dog/3.png")
    assert "3.png cannot be read as an image" in refused(tmp_path / "pets")
    (tmp_path / "pets" / "dog" / "3.png").unlink()
    (tmp_path / "pets" / "fish").mkdir()
    assert "no image is in" in refused(tmp_path / "pets")
    put(whole, "pets/fish/1.png")
    assert "class 'fish' has one sample" in refused(tmp_path / "pets")
    assert "has no columns" in refused(tmp_path / "pets", target="x")
    put(whole, "one/cat/1.png")
    assert "always 'cat'" in refused(tmp_path / "one")


def test_new_data_that_do_not_fit_are_refused():
    table = pandas.DataFrame({"size": np.arange(20.0), "when": pandas.date_range("2024", periods=20), "y": [0, 1] * 10})
    preprocessing = load(table, target="y").preprocessing

    def message(new):
        with pytest.raises(DataError) as caught:
            preprocessing.transform(new)
        assert_is_helpful(str(caught.value))
        return str(caught.value)

    assert "no column 'size': did you mean 'sizes'?" in message(table.rename(columns={"size": "sizes"}))
    assert "'size' has 'large' in row 3" in message(table.assign(size=["1", "2", "large"] + ["4"] * 17))
    assert "was a number" in message(table.assign(size=table["when"]))
    assert "was a date" in message(table.assign(when=1.5))
    assert "'when' has 'tomorrow' in row 1" in message(table.assign(when="tomorrow"))
    assert "inf in row 1" in message(table.assign(size=np.inf))
    assert "is not a table" in message([1, 2])
    images = load("digits").preprocessing
    with pytest.raises(DataError, match=r"shape \[7, 8\]"):
        images.transform(np.zeros((3, 7, 8)))


@QUICK
@given(content=DEFECTS, gzipped=st.booleans(), marked=st.booleans())
def test_300_malformed_tables_are_refused_in_one_line_each(tmp_path, content, gzipped, marked):
    refused(as_file(content, gzipped=gzipped, marked=marked).put(tmp_path), target="price")


def bytes_of(name):
    table = pandas.read_csv(io.StringIO(GOOD))
    file = io.BytesIO()
    if name.endswith(".parquet"):
        table.to_parquet(file)
    elif name.endswith(".feather"):
        feather.write_feather(table, file)
    elif name.endswith(".npy"):
        np.save(file, table[["size", "price"]].to_numpy())
    elif name.endswith(".npz"):
        np.savez_compressed(file, x=table[["size"]].to_numpy(), price=table["price"].to_numpy())
    else:
        file.write(GOOD.encode())
    return file.getvalue()


FILES = {name: bytes_of(name) for name in ("a.csv", "a.parquet", "a.feather", "a.npy", "a.npz")}


@QUICK
@given(
    name=st.sampled_from(sorted(FILES)),
    cut=st.one_of(st.none(), st.floats(0, 1, exclude_max=True)),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), max_size=6),
    added=st.binary(max_size=20),
)
def test_300_damaged_files_are_read_or_refused_in_one_line(put, name, cut, flips, added):
    raw = bytearray(FILES[name])
    for place, bit in flips:
        raw[int(place * len(raw))] ^= 1 << bit
    if cut is not None:
        raw = raw[: int(cut * len(raw))]
    path = put(bytes(raw) + added, name)
    for in_memory in (0, 2**30):
        try:
            data = load(path, target="1" if name == "a.npy" else "price", in_memory=in_memory)
            list(data.train_batches(7, 0, 0))
        except DataError as error:
            assert_is_helpful(str(error))
