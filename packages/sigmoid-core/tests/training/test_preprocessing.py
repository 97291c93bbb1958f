"""Columns as numbers: scaled, coded and named by the training part alone; saved and read again."""

import io
import zipfile

import numpy as np
import pandas
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from core_support.tables import all_of, frame

from sigmoidcore.training.data import DataError, Preprocessing, changes, load


def test_the_numbers_are_those_of_scikit_learns_transformers():
    table = frame()[["size", "rooms", "colour", "sold"]]
    data = load(table, target="sold")
    transformers = ColumnTransformer(
        [
            (
                "numbers",
                make_pipeline(StandardScaler(), SimpleImputer(strategy="constant", fill_value=0, add_indicator=True)),
                ["size", "rooms"],
            ),
            (
                "colour",
                make_pipeline(
                    SimpleImputer(missing_values=None, strategy="constant", fill_value="z"),
                    OneHotEncoder(sparse_output=False),
                ),
                ["colour"],
            ),
        ]
    )
    plain = table.astype({"colour": object})
    plain.loc[plain["colour"].isna(), "colour"] = None
    again = data.preprocessing.transform(table)
    rows = torch.cdist(data.probes(400)[0], again).argmin(1).tolist()
    assert len(rows) == 320
    expected = transformers.fit(plain.iloc[rows]).transform(plain)
    np.testing.assert_allclose(again.numpy(), expected, atol=1e-5)


def test_columns_of_a_very_sparse_table_have_the_same_largest_value_and_are_not_centred():
    random = np.random.default_rng(0)
    words = random.random((400, 50)) * (random.random((400, 50)) < np.linspace(0.005, 0.15, 50)) * np.arange(1, 51)
    data = load(pandas.DataFrame(words).assign(topic=random.choice(["a", "b"], 400)), target="topic")
    inputs, _ = next(data.train_batches(400, seed=0, epoch=0))
    assert inputs.min() == 0
    largest = inputs.max(0).values
    torch.testing.assert_close(largest, largest[0].expand_as(largest))
    torch.testing.assert_close(inputs.var(0, correction=0).mean(), torch.tensor(1.0), rtol=0.01, atol=0)


def test_only_the_training_part_decides_the_numbers():
    table = frame()
    one = load(table, target="price")
    test = one.preprocessing.predictions(all_of(one.test_batches(50))[1])[:, 0]
    changed = table.copy()
    changed.loc[[int(abs(table["price"] - value).argmin()) for value in test], "rooms"] = 10**6
    two = load(changed, target="price")
    assert torch.equal(one.probes(400)[0], two.probes(400)[0])
    assert one.preprocessing.description() == two.preprocessing.description()
    assert changes(one.fingerprint, two.fingerprint) == ("changed: rooms",)


def test_useless_columns_are_left_out_and_named():
    data = load(frame(), target="price")
    assert data.notes == (
        "left out, because without values: nothing",
        "left out, because constant: constant",
        "left out, because different in every row: id",
    )
    assert not [name for name in data.features if name.startswith(("constant", "nothing", "id"))]


def test_the_features_have_names():
    data = load(frame(), target="price")
    for name in ("size", "missingindicator_size", "colour_red", "colour_None", "built (days)", "garden"):
        assert name in data.features
    assert len(data.features) == data.shape[0] == data.probes(1)[0].shape[1]


def test_an_unknown_category_has_no_column_and_a_missing_value_is_the_mean():
    data = load(frame(), target="price")
    row = frame().iloc[:1].copy()
    row[["colour", "street", "size"]] = ["purple", "nowhere", np.nan]
    x = dict(zip(data.features, data.preprocessing.transform(row)[0].tolist(), strict=True))
    assert [x[f"colour_{c}"] for c in ("red", "green", "blue, dark", "None")] == [0, 0, 0, 0]
    assert [name for name, value in x.items() if name.startswith("street") and value] == ["street_infrequent_sklearn"]
    assert x["size"] == 0
    assert x["missingindicator_size"] == 1


def test_dates_have_the_parts_that_vary_and_one_feature_for_missing_ones():
    table = pandas.DataFrame({"when": pandas.date_range("2024-01-01", periods=100), "y": np.arange(100) % 2})
    plain = load(table, target="y")
    assert not [name for name in plain.features if "(day " in name]
    table.loc[3:9, "when"] = pandas.NaT
    data = load(table, target="y")
    assert [name for name in data.features if "missing" in name] == ["missingindicator_when"]
    far = data.preprocessing.transform(pandas.DataFrame({"when": [pandas.Timestamp("2300-01-01")]}))
    assert float(far[0, [n for n, name in enumerate(data.features) if "days" not in name]].abs().max()) < 5


def test_thousands_separators_are_read_in_numbers(tmp_path):
    text = [f"{1000.5 * n:,}" for n in range(40)]
    pandas.DataFrame({"x": text, "y": [0, 1] * 20}).to_csv(tmp_path / "a.csv", index=False)
    data = load(tmp_path / "a.csv", target="y")
    expected = load(pandas.DataFrame({"x": [1000.5 * n for n in range(40)], "y": [0, 1] * 20}), target="y")
    assert data.features == ("x",)
    assert torch.equal(data.probes(40)[0], expected.probes(40)[0])


def test_dates_become_days_and_places_on_circles():
    table = pandas.DataFrame({"when": pandas.date_range("2024-01-01", periods=300, freq="8h"), "y": np.arange(300) % 2})
    data = load(table, target="y")
    x = data.preprocessing.transform(table)
    position = data.features.index("when (days)")
    steps = x[1:, position] - x[:-1, position]
    torch.testing.assert_close(steps, steps[:1].expand(299), rtol=1e-3, atol=1e-6)
    weekly = data.features.index("when (week sin)")
    torch.testing.assert_close(x[21:, weekly], x[:-21, weekly], rtol=0, atol=1e-5)


@pytest.mark.parametrize("written_as", ["%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%FT%TZ"])
def test_dates_in_text_are_dates(tmp_path, written_as):
    dates = pandas.date_range("2024-01-01", periods=100)
    table = pandas.DataFrame({"when": dates, "y": np.arange(100) % 2})
    text = table.assign(when=dates.strftime(written_as))
    text.to_csv(tmp_path / "a.csv", index=False)
    found = load(tmp_path / "a.csv", target="y")
    expected = load(table, target="y")
    assert found.features == expected.features
    assert torch.equal(found.probes(100)[0], expected.probes(100)[0])


@pytest.mark.parametrize("target", ["price", "sold", ["price", "rent"]])
def test_a_saved_preprocessing_gives_the_same_numbers_bit_for_bit(target):
    data = load(frame(), target=target)
    again = Preprocessing.from_bytes(data.preprocessing.to_bytes())
    assert again.description() == data.preprocessing.description()
    new = frame(50, seed=1)
    assert torch.equal(again.transform(new), data.preprocessing.transform(new))
    outputs = torch.randn(5, data.outputs)
    assert (again.predictions(outputs) == data.preprocessing.predictions(outputs)).all()


def edited(content, change):
    """A saved preprocessing with another schema."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            text = old.read(name)
            new.writestr(name, change(text.decode()).encode() if name == "schema.json" else text)
    return made.getvalue()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"ColumnTransformer"', '"FunctionTransformer"'),
        ('"StandardScaler"', '"RobustScaler"'),
        ('"__module__": "builtins"', '"__module__": "os"'),
        ("two classes", "a joy"),
        ('"content": "5"', '"content": "6"'),
    ],
)
def test_a_saved_preprocessing_that_was_edited_is_refused(old, new):
    content = load(frame(), target="sold").preprocessing.to_bytes()
    assert Preprocessing.from_bytes(edited(content, lambda text: text))
    with pytest.raises(DataError, match="is not a preprocessing of a run"):
        Preprocessing.from_bytes(edited(content, lambda text: text.replace(old, new, 1)))
