"""Data sets: what is found in files of every kind, how it is split, and given in batches."""

import gzip
import sys

import numpy as np
import pandas
import pyarrow as pa
import pytest
import torch
from core_support.tables import ROWS, all_of, frame, written

from sigmoidcore.training import Split, digits
from sigmoidcore.training.data import BUILT_IN, DataError, Kind, changes, load, readers
from sigmoidcore.training.data.new_data import NewData


@pytest.mark.parametrize("in_memory", [0, 2**30])
@pytest.mark.parametrize("ending", readers.TABLE_FILES)
@pytest.mark.parametrize("dates", ["dates", "text"])
def test_every_kind_of_file_gives_the_same_inputs_as_the_table_itself_bit_for_bit(tmp_path, ending, dates, in_memory):
    table = frame()
    if dates == "text":
        table["built"] = table["built"].dt.strftime("%Y-%m-%d")
        table["rooms"] = table["rooms"].astype(str)
    of_file = load(written(tmp_path / f"a{ending}", table), target="price", in_memory=in_memory)
    of_table = load(frame(), target="price")
    assert of_file.preprocessing.description() == of_table.preprocessing.description()
    for ours, theirs in ((of_file.train, of_table.train), (of_file.test, of_table.test)):
        ours, theirs = (torch.cat(all_of(part.in_order(50)), 1).tolist() for part in (ours, theirs))
        assert sorted(ours) == sorted(theirs)


def test_the_documentation_names_the_endings_of_all_files(root):
    page = (root / "docs" / "data.md").read_text(encoding="utf-8")
    missing = [ending for ending in (*readers.TABLE_FILES, *readers.ARRAYS) if f"`{ending}`" not in page]
    assert missing == [], "add them to the table of sources in docs/data.md"


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("a,b\n1,x\n" + "2,ü\n1,x\n" * 9, "ü"),
        ("\ufeffa;b\r\n1;x\r\n" + '2;"ü\n,;"\r\n1;x\r\n' * 9, "ü\n,;"),
        ("\n\na\tb\n\n1\tx\n" + "2\tü\n1\tx\n" * 9, "ü"),
    ],
)
def test_separators_line_ends_and_byte_order_marks_are_found(tmp_path, content, value):
    path = tmp_path / "a.csv"
    path.write_bytes(gzip.compress(content.encode()))
    data = load(path, target="b")
    assert data.classes == ("x", value)
    assert data.features == ("a",)


def test_the_row_numbers_that_pandas_writes_are_not_learnt_from(tmp_path):
    frame().to_csv(tmp_path / "a.csv")
    assert load(tmp_path / "a.csv", target="price").features == load(frame(), target="price").features


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_sets_are_ready_to_be_learnt_from(name):
    data = load(name)
    x, y = data.probes(10)
    assert x.shape == (10, *data.shape)
    assert len(y) == 10
    assert data.outputs == (1 if name == "diabetes" else len(data.classes))
    assert sum(data.class_counts) in (0, len(data.train))


def test_digits_have_the_same_parts_as_a_split_and_as_a_data_set():
    split, data = digits(), load("digits").flattened()
    for ours, theirs in ((data.train, split.train), (data.test, split.test)):
        torch.testing.assert_close(next(ours.in_order(2000))[0].flatten(1), next(theirs.in_order(2000))[0])


def test_a_matrix_has_columns_by_number_and_arrays_have_names(tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(50, 3)), np.arange(50) % 2
    np.save(tmp_path / "a.npy", np.column_stack([x, y]))
    assert load(tmp_path / "a.npy", target="3").kind is Kind.TWO_CLASSES
    np.savez(tmp_path / "b.npz", x=x, y=y)
    assert load(tmp_path / "b.npz").features == ("0", "1", "2")
    np.savez(tmp_path / "c.npz", x=generator.normal(size=(50, 2, 5)), speed=x[:, :2])
    data = load(tmp_path / "c.npz", target="speed")
    assert (data.kind, data.shape, data.outputs) == (Kind.NUMBERS, (2, 5), 2)
    assert data.flattened().probes(3)[0].shape == (3, 10)


def images(folder, sizes=((8, 6),), modes=("L",), classes=("cat", "dog"), count=10):
    from PIL import Image

    generator = np.random.default_rng(0)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            width, height = sizes[number % len(sizes)]
            pixels = generator.integers(0, 100, (height, width, 3)) + 100 * label
            image = Image.fromarray(pixels.astype(np.uint8)).convert(modes[number % len(modes)])
            image.save(folder / name / f"{number}.png")
    return folder


def test_a_folder_of_images_has_a_class_a_folder(tmp_path):
    folder = images(tmp_path / "pets")
    (folder / ".hidden").mkdir()
    (folder / "cat" / ".DS_Store").write_bytes(b"x")
    (folder / "cat" / "._1.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    data = load(folder)
    assert (data.name, data.classes, data.shape) == ("pets", ("cat", "dog"), (1, 6, 8))
    assert (len(data.train), len(data.test), data.class_counts) == (16, 4, (8, 8))
    x, _ = data.probes(100)
    assert abs(float(x.mean())) < 1e-5
    assert abs(float(x.std(unbiased=False)) - 1) < 1e-5


def test_images_of_other_sizes_are_resized_to_the_most_frequent_one_and_colour_is_kept(tmp_path):
    data = load(images(tmp_path / "pets", sizes=((8, 6), (8, 6), (9, 9)), modes=("L", "RGB", "RGBA")))
    assert data.shape == (3, 6, 8)
    assert data.notes == ("6 of 20 images are resized to 8 x 6",)


def test_images_that_are_streamed_are_those_in_memory(tmp_path):
    folder = images(tmp_path / "pets")
    memory, stream = load(folder), load(folder, in_memory=0)
    assert "batch by batch" in stream.notes[-1]
    for ours, theirs in zip(stream.test_batches(3), memory.test_batches(3), strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (["yes", "no"], Kind.TWO_CLASSES, ("no", "yes")),
        ([True, False], Kind.TWO_CLASSES, ("false", "true")),
        ([0, 1], Kind.TWO_CLASSES, ("0", "1")),
        ([10, 9, 2], Kind.CLASSES, ("2", "9", "10")),
        ([1.0, 2.0], Kind.TWO_CLASSES, ("1", "2")),
        ([0.5, 1.5], Kind.NUMBER, ()),
        (list(range(50)), Kind.NUMBER, ()),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_the_kind_of_the_target_is_found(tmp_path, name, values, kind, classes):
    table = pandas.DataFrame({"x": np.arange(100) % 7, "y": (values * 100)[:100]})
    data = load(written(tmp_path / name, table), target="y")
    assert (data.kind, tuple(c.lower() for c in data.classes)) == (kind, classes)
    assert data.outputs == max(len(classes), 1)
    x, y = data.probes(10)
    assert data.loss_fn(torch.zeros(len(x), data.outputs), y).ndim == 0


def test_the_kind_of_the_target_can_be_said(tmp_path):
    table = pandas.DataFrame({"x": np.arange(100) % 7, "y": np.arange(100) % 5})
    assert load(table, target="y").kind is Kind.CLASSES
    assert load(table, target="y", kind="number").kind is Kind.NUMBER
    table["y"] += 0.5
    assert load(table, target="y", kind="class").classes == ("0.5", "1.5", "2.5", "3.5", "4.5")


def test_several_targets_are_several_numbers_scaled_one_by_one():
    data = load(frame(), target=["price", "rent"], drop=["sold"])
    assert data.kind is Kind.NUMBERS
    _, y = data.probes(10_000)
    torch.testing.assert_close(y.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    back = data.preprocessing.predictions(y)
    expected = frame()[["price", "rent"]].to_numpy()
    assert all(np.isclose(expected, row, atol=1e-5).all(1).any() for row in back[:20])


def test_classes_have_the_same_share_in_both_parts_and_the_seed_decides_the_split():
    table = frame()
    table["sold"] = ["yes"] * 40 + ["no"] * 360
    parts = [load(table, target="sold", test_size=0.25, seed=seed) for seed in (0, 0, 1)]
    assert all(data.class_counts == (270, 30) for data in parts)
    assert torch.equal(parts[0].probes(300)[0], parts[1].probes(300)[0])
    assert not torch.equal(parts[0].probes(300)[0], parts[2].probes(300)[0])


@pytest.mark.parametrize("in_memory", [0, 2**30])
@pytest.mark.parametrize("ending", ["parquet", "feather"])
def test_a_validation_part_comes_out_of_the_training_part_alone(tmp_path, ending, in_memory):
    path = written(tmp_path / f"a.{ending}", frame())
    plain = load(path, target="price", in_memory=in_memory)
    data = load(path, target="price", validation_size=0.25, in_memory=in_memory)
    parts = [
        {row for row in data.preprocessing.predictions(all_of(batches)[1])[:, 0].round(5).tolist()}
        for batches in (data.train_batches(9, 0, 0), data.validation_batches(9), data.test_batches(9))
    ]
    assert [len(part) for part in parts] == [len(data.train), len(data.validation), len(data.test)]
    assert len(set.union(*parts)) == ROWS
    assert len(data.test) == len(plain.test)
    assert plain.validation is None
    assert not list(plain.validation_batches(9))


def test_a_fingerprint_tells_which_column_has_changed_however_the_data_are_read(tmp_path):
    path = written(tmp_path / "a.parquet", frame())
    before = load(path, target="price").fingerprint
    assert changes(before, load(path, target="price", in_memory=0, seed=1).fingerprint) == ()
    written(path, frame().assign(rooms=7 - frame()["rooms"]).drop(columns="garden"))
    assert changes(before, load(path, target="price").fingerprint) == ("changed: rooms", "missing: garden")


def test_tables_of_other_libraries_are_read_through_the_arrow_interface():
    class Other:
        def __init__(self, table):
            self.columns = table.column_names
            self.__arrow_c_stream__ = table.__arrow_c_stream__

    data = load(Other(pa.Table.from_pandas(frame(), preserve_index=False)), target="price")
    assert data.fingerprint == load(frame(), target="price").fingerprint


def test_thousands_of_columns_can_be_read(tmp_path):
    generator = np.random.default_rng(0)
    table = pandas.DataFrame(generator.normal(size=(8, 3_000)).round(2)).rename(columns=str).add_prefix("c")
    table["y"] = [0, 1] * 4
    path = written(tmp_path / "wide.csv", table)
    data = load(path, target="y", test_size=0.5)
    assert data.shape == (3_000,)


@pytest.fixture(params=["memory", "stream", "split"])
def learnable(request, tmp_path, monkeypatch):
    if request.param == "split":
        return Split("a", torch.arange(97.0)[:, None], torch.arange(97) % 2, torch.ones(3, 1), torch.ones(3), 2)
    monkeypatch.setattr(readers, "WINDOW", 64)
    path = written(tmp_path / "a.parquet", frame())
    return load(path, target="price", in_memory=0 if request.param == "stream" else 2**30)


def test_an_epoch_has_every_training_sample_once_in_its_own_order(learnable):
    epochs = [list(learnable.train_batches(7, seed, epoch)) for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert all(len(batches) == learnable.steps(7) for batches in epochs)
    assert all(len(x) == 7 for x, _ in epochs[0][:-1])
    values = [all_of(batches)[0] for batches in epochs]
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])
    assert not torch.equal(values[0], values[3])
    for found in values[1:]:
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, values[0].tolist()))


def test_an_epoch_continues_from_any_batch(learnable):
    batches = list(learnable.train_batches(7, 2, 3))
    for start in range(0, len(batches) + 1, 5):
        rest = list(learnable.train_batches(7, 2, 3, start))
        assert len(rest) == len(batches) - start
        for ours, theirs in zip(rest, batches[start:], strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])


def test_streamed_samples_are_those_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "WINDOW", 64)
    table = frame()
    folder = tmp_path / "parts"
    folder.mkdir()
    for number in range(4):
        written(folder / f"{number}.parquet", table.iloc[number * 100 : number * 100 + 100])
    data = load(folder, target="price", in_memory=0)
    memory = load(folder, target="price")
    assert (len(data.train), len(data.test)) == (len(memory.train), len(memory.test))
    assert data.preprocessing.description() == memory.preprocessing.description()
    for ours, theirs in ((data.train, memory.train), (data.test, memory.test)):
        ours, theirs = (torch.cat(all_of(part.in_order(11)), 1) for part in (ours, theirs))
        assert sorted(ours.tolist()) == sorted(theirs.tolist())


def test_streamed_classes_are_counted(tmp_path):
    data = load(written(tmp_path / "a.parquet", frame()), target="sold", in_memory=0)
    _, y = all_of(data.train_batches(50, 0, 0))
    assert data.class_counts == tuple(y.bincount().tolist())


def test_a_resumed_stream_does_not_read_the_batches_before(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "WINDOW", 64)
    data = load(written(tmp_path / "a.parquet", frame()), target="price", in_memory=0)
    read = []
    tables = readers.RowGroup.tables

    def counted(self, names):
        for table in tables(self, names):
            read.append(table.num_rows)
            yield table

    monkeypatch.setattr(readers.RowGroup, "tables", counted)
    assert len(list(data.train_batches(10, 0, 0, 30))) == data.steps(10) - 30
    assert sum(read) < ROWS / 4


def test_r2_is_scikit_learns():
    from sklearn.metrics import r2_score

    outputs, targets = torch.randn(50, 3), torch.randn(50, 3)
    data = load("diabetes")
    assert data.metric_name == "R2"
    assert data.metric(outputs, targets) == pytest.approx(r2_score(targets.numpy(), outputs.numpy()))
    assert load("wine").metric(torch.eye(3), torch.tensor([0, 1, 0])) == pytest.approx(200 / 3)


@pytest.mark.parametrize("result", ["pandas.DataFrame(rows)", "'rows.csv'"])
def test_a_package_adds_data_by_its_entry_points(tmp_path, monkeypatch, result):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    rows = {"size": list(range(40)), "price": [3.0 * size for size in range(40)]}
    pandas.DataFrame(rows).to_csv("rows.csv", index=False)
    module = f"import pandas\nrows = {rows}\ndef houses():\n    return {result}\ndef wrong():\n    return rows['x']\n"
    module += "def nothing():\n    pass\n"
    (tmp_path / "their_data.py").write_text(module)
    names = tmp_path / "their_data-1.0.dist-info"
    names.mkdir()
    (names / "METADATA").write_text("Metadata-Version: 2.1\nName: their-data\nVersion: 1.0\n")
    entries = "[sigmoidcore.data]\nhouses = their_data:houses\nwrong = their_data:wrong\nnothing = their_data:nothing\n"
    (names / "entry_points.txt").write_text(entries)
    data = load("houses", target="price")
    assert (data.kind, len(data.train), data.features) == (Kind.NUMBER, 32, ("size",))
    (piece,) = NewData("houses", data.preprocessing).pieces()
    assert len(piece.inputs) == 40
    with pytest.raises(DataError, match=r"entry point wrong = their_data:wrong raised KeyError: 'x'"):
        load("wrong", target="price")
    with pytest.raises(
        DataError, match="entry point nothing = their_data:nothing returned None: let it return a table"
    ):
        load("nothing", target="price")
    with pytest.raises(DataError, match="did you mean 'houses'"):
        load("house", target="price")
    monkeypatch.delitem(sys.modules, "their_data")
