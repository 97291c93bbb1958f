"""Tables are read as people write them, and what cannot be read is named with its cell and its row."""

import numpy as np
import pandas as pd
import pytest

from sigmoidcore.tables.reading import Column, interpret, read_file
from unstuck.language.errors import InputError

SIZES, TOWNS = [1234.5, 0.75, 80.0], ["北京", "上海", "广州"]


@pytest.fixture
def column(tmp_path):
    """Reads a CSV file of one column "x", beside a column of letters; cells with a separator have quotes."""

    def read(cells, known=None, separator=",", others=()):
        rows = [f'"{cell}"{separator}{letter}' for cell, letter in zip(cells, "abcdefghijkl" * 9, strict=False)]
        path = tmp_path / "x.csv"
        path.write_text("\n".join([f"x{separator}letter", *rows, *others]), encoding="utf-8")
        return interpret(read_file(path), "x", known)

    return read


def text(separator="\t", comma=False, towns=TOWNS):
    numbers = [f"{size:,.2f}".translate(str.maketrans(",.", ".,")) if comma else f"{size}" for size in SIZES]
    return separator.join(["面积" if towns is TOWNS else "Fläche", "town"]) + "".join(
        f"\r\n{number}{separator}{town}" for number, town in zip(numbers, towns, strict=True)
    )


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (text(",").encode(), "UTF-8, separated by ','"),
        (text("|").encode("utf-8-sig"), "UTF-8, separated by '|'"),
        (text(",").encode("gb18030"), "GB18030, separated by ','"),
        (text(";", comma=True).encode("gb18030"), "GB18030, separated by ';'"),
        (text().encode("utf-16"), "UTF-16, separated by '\\t'"),
        (b"\xfe\xff" + text().encode("utf-16-be"), "UTF-16, separated by '\\t'"),
        (("a" + text()).encode("utf-16-le"), "UTF-16, separated by '\\t'"),
        (text(";", True, ["Köln", "Straße 1", "Öhringen"]).encode("cp1252"), "Windows-1252, separated by ';'"),
        (b"sep=;\r\n" + text(";", comma=True).encode(), "UTF-8, separated by ';'"),
        (text(";", comma=True).encode() + b"\r\n;\r\n;\r\n", "UTF-8, separated by ';'"),
    ],
)
def test_a_table_is_the_same_in_every_encoding(tmp_path, content, form):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    file = read_file(path)
    sizes, size = interpret(file, file.table.columns[0])
    towns, town = interpret(file, "town")
    assert (file.form, size.kind, town.kind) == (form, "number", "text")
    assert sizes.tolist() == SIZES
    assert towns.tolist() in (TOWNS, ["Köln", "Straße 1", "Öhringen"])


def test_parquet_keeps_its_types(tmp_path):
    day = pd.Timestamp("2024-03-01", tz="Asia/Shanghai")
    columns = {
        "n": pd.array([1, None, 3], "Int64"),
        "t": ["€5", " ", "€7,000"],
        "b": [True, None, False],
        "d": [day, day, None],
    }
    table = pd.DataFrame(columns | {"c": pd.Categorical(["x", "y", "x"])}, index=[5, 6, 7])
    table.to_parquet(tmp_path / "table")
    file = read_file(tmp_path / "table")
    found = {name: interpret(file, name)[0] for name in file.table}
    np.testing.assert_array_equal(found["n"], [1, np.nan, 3])
    np.testing.assert_array_equal(found["t"], [5, np.nan, 7000])
    assert found["b"].tolist() == ["True", "", "False"]
    assert found["d"][0] == pd.Timestamp("2024-02-29 16:00")
    assert found["c"].tolist() == ["x", "y", "x"]


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["1.234,56", "7"], [1234.56, 7]),
        (["1,234.56", "7"], [1234.56, 7]),
        (["1,5", "1.234"], [1.5, 1234]),
        (["1.5", "1,234"], [1.5, 1234]),
        (["0,123", "1.234.567"], [0.123, 1234567]),
        (["12,34,567", ".5"], [1234567, 0.5]),
        (["1'234.5", "1 234", "1\u202f234"], [1234.5, 1234, 1234]),
        (["€483,074", "€ 1"], [483074, 1]),
        (["1,234 €", "-5 €", "€-5", "-€5", "(5 €)"], [1234, -5, -5, -5, -5]),
        (["￥1,234"], [1234]),
        (["£1.50", "2"], [1.5, 2]),
        (["12.3%", "-7 %"], [12.3, -7]),
        (["−5", "+1e3"], [-5, 1000]),
        (["89.5㎡", "120㎡"], [89.5, 120]),
        (["1,250 m2", "80 m2"], [1250, 80]),
        (["305.5万", "98万"], [305.5, 98]),
        (["¥52,000元/平米", "¥800元/平米"], [52000, 800]),
        (["US$ 1,234", "US$5.5"], [1234, 5.5]),
        (["EUR 1.234,50", "7 EUR"], [1234.5, 7]),
    ],
)  # fmt: skip
def test_numbers_have_separators_and_signs(column, cells, numbers):
    values, how = column(cells)
    assert (values.tolist(), how.kind) == (numbers, "number")


def test_a_number_that_can_be_both_follows_its_column_then_its_file_then_the_separator(column):
    assert column(["1,234", "5.5"])[0][0] == 1234
    assert column(["1,234", "5,5"])[0][0] == 1.234
    assert column(["1.234"], others=['"1","2,5"', '"1","3,5"'])[0][0] == 1234
    assert column(["1,234"], separator=";")[0][0] == 1.234
    assert column(["1,234"])[0][0] == 1234
    assert column(["1,234"], known=Column("x", "number", ","))[0][0] == 1.234


@pytest.mark.parametrize(
    "cells",
    [
        ["2024-02-01", "2024-02-13"], ["2024-02-01T00:00:00Z", "2024-02-13"], ["1.2.2024", "13.2.2024"],
        ["01/02/2024", "13/02/2024"], ["2/1/2024", "2/13/2024"], ["2/1/24 12:00 AM", "2/13/24 12:00 AM"],
        ["2024/2/1", "2024/2/13"], ["2024年2月1日", "2024年2月13日"], ["1-Feb-2024", "13-Feb-2024"],
    ],
)  # fmt: skip
def test_dates_are_found_in_their_usual_forms(column, cells):
    values, how = column([*cells, ""])
    assert how.kind == "date"
    assert values.tolist()[:2] == [pd.Timestamp("2024-02-01"), pd.Timestamp("2024-02-13")]
    assert pd.isna(values[2])
    assert column(cells[:1], how)[0][0] == values[0]


def test_the_day_is_first_beside_points(column):
    assert column(["01.02.2024"])[0][0].month == 2
    assert column(["01/02/2024"])[0][0].month == 1


@pytest.mark.parametrize(
    "cells",
    [
        ["May", "June"],
        ["10.0.0.1", "10.0.0.2"],
        ["3-4", "5-6"],
        ["+49 30 123", "12:30"],
        ["3室2厅", "2室1厅"],
        ["house 1", "house 2"],
        ["12a", "12b"],
        ["1 Jan", "2 Feb"],
    ],
)
def test_other_texts_stay_texts(column, cells):
    values, how = column(cells)
    assert (values.tolist(), how.kind) == (cells, "text")


def test_blanks_and_words_for_a_missing_value_are_missing(column):
    assert column([" ", "NA", "#DIV/0!", "x"])[0].tolist() == ["", "", "", "x"]
    np.testing.assert_array_equal(column(["-", "n/a", "5"] + ["6"] * 9)[0][:3], [np.nan, np.nan, 5])


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1"] * 40 + ["abc"], "'abc' in row 41, not a number like '1': correct it"),
        (["1,5"] * 40 + ["1.5"], "'1.5' in row 41, not a number like '1,5'"),
        (["$5"] * 40 + ["5 €"], r"'5 €' in row 41, not a number like '\$5'"),
        (["5%"] * 40 + ["0.05"], "'0.05' in row 41, not a number like '5%'"),
        (["1"] * 40 + ["1e200"], "'1e200' in row 41"),
        (["80 m2"] * 40 + ["80"], "'80' in row 41, not a number like '80 m2'"),
        (["1.2亿"] + ["80万"] * 40, "'1.2亿' in row 1, not a number like '80万'"),
        (["2024-02-01"] * 40 + ["2024-02-31"], "'2024-02-31' in row 41, not a date like '2024-02-01'"),
    ],
)
def test_a_cell_unlike_the_others_is_shown_with_its_row(column, cells, message):
    with pytest.raises(InputError, match=message):
        column(cells)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.csv is empty: save the table again"),
        (b"a,b\n\n", "no rows below"),
        (b"1,2\n3,4\n", "numbers in its first line"),
        (b"a,b,a\n1,2,3\n", "the same name: 'a', column 3"),
        (b"a,,b\n1,2,3\n", "without a name, or with the same name: '', column 2"),
        (b"a,b\n1,2\n3,4,5\n", "3 instead of 2 columns in row 2: '3,4,5'"),
        (b'a,b\n"1,2\n3,4\n', "1 instead of 2 columns in row 1"),
        (b"PK\x03\x04\x14\0\0\0", "neither CSV nor Parquet"),
        (bytes(range(256)), "neither CSV nor Parquet"),
        (b"a,b\n1,2\n3,4\0\n", "a NUL character in line 3"),
        (b"PAR1 and no more", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_is_not_a_table_is_refused_in_a_line(tmp_path, content, message):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_file(tmp_path / "x.csv")


def test_parquet_without_rows_is_refused(tmp_path):
    pd.DataFrame({"x": [1]}).head(0).to_parquet(tmp_path / "x")
    with pytest.raises(InputError, match="x has no rows, or no columns"):
        read_file(tmp_path / "x")


def test_row_numbers_and_empty_columns_without_a_name_are_left_out(tmp_path):
    (tmp_path / "x.csv").write_text(",a,,b,\n0,1, ,x,\n1,2,,y,\n,,,,\n")
    assert read_file(tmp_path / "x.csv").table.to_dict("list") == {"a": ["1", "2"], "b": ["x", "y"]}


def test_values_that_are_neither_numbers_nor_texts_are_refused(tmp_path):
    pd.DataFrame({"x": [[1], [2]], "time": pd.to_timedelta([1, 2], "D")}).to_parquet(tmp_path / "x")
    for name, cell in (("x", r"\[1\]"), ("time", "1 days 00:00:00")):
        with pytest.raises(InputError, match=f"column '{name}' has '{cell}' .*: leave it out"):
            interpret(read_file(tmp_path / "x"), name)


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    (tmp_path / "x.csv").write_text("price,size\n1,2\n")
    with pytest.raises(InputError, match="no column 'prise': choose from price, size"):
        read_file(tmp_path / "x.csv").check("size", "prise")
