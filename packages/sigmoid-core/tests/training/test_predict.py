"""Predictions of a run: the same for every format of the data, in their order, in a complete file or none."""

import os

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from core_support.runs import house_runs, houses, made_run

from sigmoidcore.training.data import DataError, InputError, NewData, readers
from sigmoidcore.training.use import open_run
from sigmoidcore.training.use.predict import predictions

NEW = houses(250, seed=1)
PROBABILITIES = ["probability_no", "probability_yes"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return house_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def sold(folder):
    return open_run(folder / "sold")


@pytest.fixture
def _small_pieces(monkeypatch):
    """Pieces of 100 rows."""
    monkeypatch.setattr(readers, "WINDOW", 100)


def test_probabilities_equal_those_of_the_network_in_the_order_of_the_data(sold):
    found = sold.predict(NEW)
    with torch.no_grad():
        expected = sold.model(sold.preprocessing.transform(NEW)).softmax(1).numpy()
    assert list(found.columns) == ["prediction", *PROBABILITIES]
    np.testing.assert_allclose(found[PROBABILITIES], expected, atol=1e-6)
    assert found["prediction"].tolist() == [("no", "yes")[place] for place in expected.argmax(1)]
    np.testing.assert_allclose(found[PROBABILITIES].sum(axis=1), 1, atol=1e-6)


def test_numbers_are_in_the_unit_of_the_target(folder):
    run = open_run(folder / "price")
    with torch.no_grad():
        outputs = run.model(run.preprocessing.transform(NEW)).double().numpy()[:, 0]
    target = run.preprocessing.target
    np.testing.assert_allclose(run.predict(NEW)["prediction"], outputs * target.scale[0] + target.mean[0], rtol=1e-6)


def test_several_numbers_have_the_names_of_their_targets(folder):
    assert list(open_run(folder / "both").predict(NEW).columns) == ["prediction_price", "prediction_rent"]


@pytest.mark.usefixtures("_small_pieces")
@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "parquet", "feather"])
def test_predictions_do_not_depend_on_the_format_of_the_data(sold, ending):
    expected = sold.predict(NEW)
    write = {"parquet": NEW.to_parquet, "feather": NEW.to_feather}.get(ending)
    if write is None:
        NEW.to_csv(f"new.{ending}", index=False, sep="\t" if ending == "tsv" else ",")
    else:
        write(f"new.{ending}")
    pandas.testing.assert_frame_equal(sold.predict(f"new.{ending}"), expected, atol=1e-6)


def test_the_target_other_columns_and_their_order_do_not_matter(sold):
    expected = sold.predict(NEW)
    fewer = NEW[["built", "garden", "colour", "rooms", "size"]]
    pandas.testing.assert_frame_equal(sold.predict(fewer), expected)
    pandas.testing.assert_frame_equal(sold.predict(NEW.assign(note=[["a list"]] * len(NEW))), expected)


@pytest.mark.usefixtures("_small_pieces")
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_file_contains_the_returned_predictions(sold, ending):
    expected = sold.predict(NEW.assign(id=range(250)), keep=["id"])
    path = sold.predict(NEW.assign(id=range(250)), f"out.{ending}", keep=["id"])
    found = (pandas.read_parquet if ending == "parquet" else pandas.read_csv)(path)
    pandas.testing.assert_frame_equal(found, expected, check_dtype=False, atol=1e-6)
    assert os.listdir() == [f"out.{ending}"]


FORMULAS = ['=HYPERLINK("http://x","y")', "+1", "@x", "\tx", "\rx", "-2+3", "＝1", "-1", "b", "'"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_no_text_file_contains_a_formula(tmp_path, ending):
    table = pandas.DataFrame({"=x": range(200), "y": FORMULAS * 20, "n": -1.5})
    table.to_parquet("table.parquet")
    run = open_run(made_run(tmp_path / "run", "table.parquet", target="y", drop=["n"]))
    path = run.predict("table.parquet", f"out.{ending}", keep=["=x", "y", "n"])
    if ending == "parquet":
        assert pandas.read_parquet(path)[["=x", "y", "n"]].equals(table)
        return
    found = pandas.read_csv(path, dtype={"y": str})
    texts = [*found.columns, *found["y"], *found["prediction"]]
    assert {text for text in texts if text[0] in "=+-@\t\r＝"} == {"-1"}
    assert found["n"].tolist() == table["n"].tolist()
    assert found["y"].tolist()[:7] == [f"'{text}" for text in FORMULAS[:7]]


def test_a_folder_of_parquet_files_is_read_in_the_order_of_their_names(sold):
    os.mkdir("parts")
    NEW[:100].to_parquet("parts/a.parquet")
    NEW[100:].to_parquet("parts/b.parquet")
    pandas.testing.assert_frame_equal(sold.predict("parts"), sold.predict(NEW), atol=1e-6)


def test_only_a_piece_of_a_large_file_is_in_memory(sold):
    large = pandas.concat([NEW] * 1000, ignore_index=True)
    pa.parquet.write_table(pa.Table.from_pandas(large), "large.parquet", row_group_size=20_000)
    whole = pa.Table.from_pandas(large).nbytes
    before = pa.total_allocated_bytes()
    most = rows = 0
    for table in predictions(sold.network, sold.preprocessing, NewData("large.parquet", sold.preprocessing)):
        most = max(most, pa.total_allocated_bytes() - before)
        rows += table.num_rows
    assert rows == 250_000
    assert most < whole / 3


def with_(column, row, value, dtype=object):
    table = NEW.astype({column: dtype})
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (NEW.drop(columns="size"), "the table has no column 'size', which was learnt from: the names are rooms,"),
        (NEW[["rooms"]], "no column 'size', which was learnt from (nor garden, built, colour)"),
        (
            NEW.assign(size=NEW["size"].map(str, na_action="ignore").where(NEW.index != 240, "big")),
            "column 'size' has 'big' in row 241, and is a number elsewhere",
        ),
        (
            NEW.assign(size=NEW["built"]),
            "column 'size' was a number in the data that was learnt from, and here the val",
        ),
        (NEW.assign(built=3), "column 'built' was a date in the data that was learnt from, and here the values are of"),
        (with_("size", 9, np.inf, float), "column 'size' has inf in row 10, too large"),
        (NEW.assign(colour=[["x"]] * 250), "column 'colour' has values of type list"),
        (NEW[:0], "the table has no rows"),
        (np.zeros((3, 2)), "the table has no column 'size'"),
        (np.zeros(3), "the array has the shape [3] and the type float64: give a matrix"),
        ([1, 2], "a list is not a table: give a pandas.DataFrame"),
        ("nothing.csv", "nothing.csv is neither a file nor a folder nor a built-in set"),
        ("new.xlsx", "new.xlsx is of an unknown kind: its name must end with one of .csv"),
        ("empty.csv", "empty.csv is empty"),
        ("empty", "empty is of an unknown kind"),
        ("broken.parquet", "broken.parquet cannot be read as parquet"),
        ("pickled.npz", "pickled.npz contains Python objects"),
    ],
)
@pytest.mark.usefixtures("_small_pieces")
def test_unsuitable_data_are_refused_in_one_line_without_a_file(sold, tmp_path, data, cause):
    for name in ("new.xlsx", "empty.csv", "broken.parquet"):
        (tmp_path / name).write_bytes(b"" if name == "empty.csv" else b"PAR1 and no more")
    np.savez("pickled.npz", x=np.array([{}], dtype=object))
    os.mkdir("empty")
    before = sorted(os.listdir())
    for output in (None, "out.parquet", "out.csv"):
        with pytest.raises(DataError) as raised:
            sold.predict(data, output)
        assert cause in str(raised.value)
        assert "\n" not in str(raised.value)
        assert sorted(os.listdir()) == before


def test_unknown_categories_and_missing_values_are_noted(folder):
    full = houses().assign(size=100.0 + np.arange(240), colour=["red", "white", "blue"] * 80)
    full.to_parquet("full.parquet")
    run = open_run(made_run(folder / "full", "full.parquet", target="sold"))
    data = full.assign(colour=["green", "grey", *["red"] * 236, None, None])
    data.loc[:4, "size"] = np.nan
    found = run.predict_into(data, "out.csv")
    assert found.notes == (
        "the training data did not have these values, so their predictions are less certain: 2 unknown in 'colour' "
        "(such as 'green'), 5 missing in 'size', 2 missing in 'colour'",
    )
    hot = [n for n, name in enumerate(run.preprocessing.inputs.features) if name.startswith("colour_")]
    assert run.preprocessing.transform(data)[0, hot].tolist() == [0, 0, 0]
    with pytest.warns(UserWarning, match="2 unknown in 'colour'"):
        run.predict(data[:2].assign(size=1.0))


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        ("nowhere/out.csv", "there is no folder nowhere; make it"),
        ("out.xlsx", "has an unknown ending: give a name that ends with one of .parquet"),
        ("out", "has an unknown ending"),
        ("a.csv", "a.csv is a folder: give the name of a file"),
        ("there.csv", "there.csv exists: give another name, or --overwrite"),
        ("new.csv", "new.csv is the input: give another name"),
    ],
)
def test_an_impossible_output_is_refused_before_anything_is_computed(sold, monkeypatch, tmp_path, output, cause):
    monkeypatch.setattr("sigmoidcore.training.use.predict.outputs_of", None)
    os.mkdir("a.csv")
    (tmp_path / "there.csv").write_text("mine")
    NEW.to_csv("new.csv", index=False)
    with pytest.raises(InputError) as raised:
        sold.predict("new.csv", output, overwrite=output == "new.csv")
    assert cause in str(raised.value)
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_a_full_disk_leaves_the_old_file(sold, monkeypatch, tmp_path):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    (tmp_path / "out.parquet").write_text("mine")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        sold.predict(NEW, "out.parquet", overwrite=True)
    assert (tmp_path / "out.parquet").read_text() == "mine"
    assert os.listdir() == ["out.parquet"]


def test_copied_columns_must_exist_and_have_other_names(sold):
    with pytest.raises(DataError, match="no column 'ID': did you mean 'id'"):
        sold.predict(NEW.assign(id=1), keep=["ID"])
    with pytest.raises(DataError, match="column 'prediction' cannot be kept: the predictions have this name"):
        sold.predict(NEW.assign(prediction=1), keep=["prediction"])


@pytest.fixture
def sequences(tmp_path):
    """A run on sequences, and some new ones."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(50, 9, (60, 12, 3)), generator.integers(0, 2, 60)
    np.savez(tmp_path / "sequences.npz", x=x, y=y)
    return open_run(made_run(tmp_path / "run", tmp_path / "sequences.npz", kind="rnn", depth=1)), x, y


def test_arrays_are_predicted_from_memory_and_from_files(sequences):
    run, x, y = sequences
    expected = run.predict(x)
    assert expected.shape == (60, 3)
    np.save("x.npy", x)
    np.savez("x.npz", x=x)
    np.savez("xy.npz", inputs=x.reshape(60, 36), y=y)
    for data in ("x.npy", "x.npz", "xy.npz", x.astype(np.float32), torch.from_numpy(x)):
        pandas.testing.assert_frame_equal(run.predict(data), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (
            lambda x: x[:, :5],
            "the array has samples of shape [5, 3] and type float64: give an array of numbers of the shape [12, 3]",
        ),
        (lambda x: x / 255, "give them in the same unit"),
        (lambda x: x * 255, "give them in the same unit"),
        (lambda x: np.where(x > 60, np.nan, x), "the array has a value that is not finite in sample"),
        (lambda x: x[:0], "the array has no samples"),
        (
            lambda x: "houses.csv",
            "houses.csv is not an array or an image: give samples of shape [12, 3]",
        ),
        (lambda x: "nowhere.npz", "nowhere.npz is neither a file nor a folder"),
        (lambda x: "digits", "digits has samples of shape [1, 8, 8]"),
        (lambda x: "wine", "a DataFrame has no samples"),
        (lambda x: {"x": x}, "a dict has no samples"),
    ],
)
def test_unsuitable_arrays_are_refused_in_one_line(sequences, change, cause):
    run, x, _ = sequences
    NEW.to_csv("houses.csv", index=False)
    with pytest.raises(DataError) as raised:
        run.predict(change(x))
    assert cause in str(raised.value)


def test_a_matrix_is_predicted_with_and_without_its_target(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 3))
    np.savez(tmp_path / "rows.npz", x=x, y=x @ np.ones((3, 2)))
    run = open_run(made_run(tmp_path / "run", tmp_path / "rows.npz"))
    expected = run.predict(x)
    assert list(expected.columns) == ["prediction_y0", "prediction_y1"]
    np.savez("x.npz", x=x)
    np.save("x.npy", x)
    for data in ("rows.npz", "x.npz", "x.npy"):
        pandas.testing.assert_frame_equal(run.predict(data), expected)


def test_kept_columns_of_text_files_have_types_if_no_text_is_lost(sold):
    NEW.assign(age=range(250), part=1.5, code=[f"{n:03}" for n in range(250)]).to_csv("new.csv", index=False)
    sold.predict("new.csv", "out.parquet", keep=["age", "part", "code"])
    schema = pyarrow.parquet.read_schema("out.parquet")
    assert [str(schema.field(name).type) for name in ("age", "part", "code")] == ["int64", "double", "string"]


def test_predictions_of_images_name_their_files(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for n in range(6):
            pixels = generator.integers(0, 255, (10, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{n}.png")
    run = open_run(made_run(tmp_path / "run", tmp_path / "pets", kind="conv"))
    found = run.predict("pets")
    assert list(found.columns) == ["file", "prediction", "probability_cats", "probability_dogs"]
    assert found["file"].tolist() == [f"{name}/{n}.png" for name in ("cats", "dogs") for n in range(6)]
    pandas.testing.assert_frame_equal(
        run.predict("pets/dogs")[found.columns[1:]], found.iloc[6:, 1:].reset_index(drop=True)
    )
    assert run.predict("pets/dogs/3.png").iloc[0, 2] == pytest.approx(found.iloc[9, 2], abs=1e-6)
    assert run.evaluate("pets").samples == 12
    with pytest.raises(DataError, match="has no images in it"):
        run.predict(".")
    os.rename("pets/dogs/3.png", "pets/3.png")
    with pytest.raises(DataError, match="has 'pets' in row 1, which is not one of its classes"):
        run.evaluate("pets")


def test_damaged_files_are_found_by_their_checksums(folder, tmp_path):
    for name, error, cause in (
        ("model.safetensors", InputError, "does not match its checksum; `sigmoid-core train --resume"),
        ("preprocessing.skops", DataError, "is not a preprocessing of a run"),
    ):
        copy = tmp_path / name.partition(".")[0]
        copy.mkdir()
        for path in (folder / "sold").iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2 if name.endswith("skops") else len(content) - 3] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(error) as raised:
            open_run(copy).predict(NEW)
        assert cause in str(raised.value)


def test_outputs_that_are_not_finite_are_refused(sold):
    with torch.no_grad():
        sold.model[0].weight[0, 0] = torch.nan
    with pytest.raises(DataError, match="the network's output is not finite in row 1"):
        sold.predict(NEW, "out.csv")
    assert not os.listdir()
