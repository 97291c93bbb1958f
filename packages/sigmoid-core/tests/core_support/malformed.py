"""Strategies for files that cannot be used for training or prediction."""

import gzip
import io
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from pyarrow import feather, orc
from core_support.runs import houses

QUICK = settings(
    max_examples=300,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

GOOD = "size,colour,price\n" + "".join(f"{n},{'red' if n % 3 else 'blue'},{n % 7}.5\n" for n in range(40))
NAMES = st.sampled_from(["size", "colour", "price"])
LINE = st.integers(1, 40)
ENCODED = st.sampled_from(
    [("é", "latin-1"), ("ü", "cp1252"), ("ñ", "latin-1"), ("ß", "cp1250"), ("日", "shift-jis"), ("ж", "koi8-r"),
     ("中", "gbk"), ("é", "utf-16-le"), ("é", "utf-16-be"), ("é", "utf-32")]
)  # fmt: skip
"""A letter, and an encoding in which it is no UTF-8; those of 16 bits lack the mark that tells them."""


def changed(line, text, table=GOOD):
    """A table with another line."""
    lines = table.splitlines()
    lines[line] = text
    return "\n".join(lines) + "\n"


def packed(content):
    """The same gzipped, the same every time."""
    return gzip.compress(content.encode() if isinstance(content, str) else content, mtime=0)


DEFECTS = st.one_of(
    st.tuples(LINE, st.integers(0, 8).filter(lambda n: n != 3)).map(
        lambda a: changed(a[0], ",".join("1" * a[1]) or ",")
    ),
    LINE.map(lambda n: changed(n, "1,red,")),
    st.tuples(LINE, st.sampled_from(["inf", "-inf", "nan", "NaN", "1e999", "NA"])).map(
        lambda a: changed(a[0], f"1,red,{a[1]}")
    ),
    st.tuples(LINE, st.text("abcxyz ,;!", min_size=1, max_size=9).filter(lambda t: t.strip())).map(
        lambda a: changed(a[0], f'"{a[1]}",red,1.5')
    ),
    st.tuples(LINE, st.sampled_from(["-inf", "1e999", "INF"])).map(lambda a: changed(a[0], f"{a[1]},red,1.5")),
    NAMES.map(lambda name: GOOD.replace("size", name, 1) if name != "size" else GOOD.replace("colour", name, 1)),
    st.sampled_from(["a,,price", "a,price,", "1,2,3", "price,price,price"]).map(lambda head: changed(0, head)),
    st.integers(0, 3).map(lambda n: "\n".join(GOOD.splitlines()[: n + 1]) + "\n"),
    st.text("abcdeipr", min_size=1, max_size=6).filter(lambda name: name != "price").map(
        lambda name: GOOD.replace("price", name)
    ),
    st.tuples(LINE, ENCODED).map(lambda a: changed(a[0], f"1,{a[1][0]},1.5").encode(a[1][1])),
    st.tuples(LINE).map(lambda a: changed(a[0], "1,\0,1.5")),
    st.integers(1, 60).map(lambda n: packed(GOOD)[:-n]),
    st.floats(-1e6, 1e6).map(lambda x: "\n".join(["size,colour,price", *[f"{n},red,{x}" for n in range(9)]])),
    st.text(" \n\r\t\ufeff", max_size=8),
    st.binary(min_size=0, max_size=200).filter(lambda b: b"price" not in b),
)  # fmt: skip
"""Contents of CSV files of which the column `price` cannot be learnt, as text or as bytes."""


@dataclass(frozen=True)
class File:
    """A file that is to be.

    Attributes:
        name: with its ending.
        content: None: it is a folder.
    """

    name: str
    content: bytes | None

    def put(self, folder):
        """Write it; gives its path."""
        path = folder / self.name
        if self.content is None:
            path.mkdir()
        else:
            path.write_bytes(self.content)
        return path


def as_file(content, name="a.csv", gzipped=False, marked=False):
    """Text or bytes as a file; where they are not gzipped already, gzipped, or with a byte order mark."""
    raw = content.encode() if isinstance(content, str) else content
    if raw[:2] != b"\x1f\x8b":
        raw = b"\xef\xbb\xbf" + raw if marked and raw[:2] not in (b"\xff\xfe", b"\xfe\xff") else raw
        raw = packed(raw) if gzipped else raw
    return File(name, raw)


def of_kind(ending, table):
    """The bytes of a table in a file of this kind."""
    file = io.BytesIO()
    write = {
        "parquet": lambda: table.to_parquet(file),
        "feather": lambda: feather.write_feather(pa.Table.from_pandas(table), file),
        "orc": lambda: orc.write_table(pa.Table.from_pandas(table, preserve_index=False), file),
        "npy": lambda: np.save(file, table.select_dtypes("number").to_numpy()),
        "csv": lambda: file.write(table.to_csv(index=False).encode()),
    }
    write[ending]()
    return file.getvalue()


ENDINGS = st.sampled_from(["csv", "tsv", "csv.gz", "parquet", "feather", "orc", "npy", "npz"])
NO_FILES = st.one_of(
    st.tuples(ENDINGS, st.binary(max_size=60)).map(lambda a: File(f"a.{a[0]}", a[1])),
    ENDINGS.map(lambda ending: File(f"a.{ending}", None)),
    st.text("abcdefghijklmno", min_size=1, max_size=4).map(lambda ending: File(f"a.{ending}", GOOD.encode())),
    st.just(File("a.csv.gz", GOOD.encode())),
)  # fmt: skip
"""Files of another kind than their names, folders with names of files, and unknown kinds."""

MALFORMED = st.one_of(
    st.builds(as_file, DEFECTS, gzipped=st.booleans(), marked=st.booleans()),
    st.builds(as_file, DEFECTS, gzipped=st.booleans(), marked=st.booleans()),
    NO_FILES,
)
"""Files of which the column `price` cannot be learnt."""


NEW = houses(12, seed=1).fillna({"size": 100.0, "colour": "red"})
NEW_TEXT = NEW.to_csv(index=False)
LEARNT = ("size", "rooms", "colour", "garden", "built")
"""What the run has learnt from."""
ROW = st.integers(0, len(NEW) - 1)
WORDS = st.text("abcxyzé", min_size=1, max_size=8).filter(lambda t: t not in ("red", "white", "blue", "nan", "null"))


def with_(column, row, value):
    """The new rows with one value that is another one."""
    table = NEW.astype({column: object})
    table.loc[row, column] = value
    return table


CHANGED = st.one_of(
    st.tuples(st.sampled_from(["size", "rooms", "garden", "built"]), ROW, WORDS).map(lambda a: with_(*a)),
    st.tuples(st.sampled_from(["size", "rooms"]), ROW, st.sampled_from([np.inf, -np.inf, 1e300])).map(
        lambda a: with_(*a)
    ),
    st.sampled_from(LEARNT).map(lambda name: NEW.drop(columns=name)),
    st.tuples(st.sampled_from(LEARNT), WORDS).map(lambda a: NEW.rename(columns={a[0]: a[1]})),
    st.just(NEW[:0]),
)
"""New rows that do not fit: other types, numbers too large, missing columns, no rows."""

TYPED = st.one_of(
    st.sampled_from(LEARNT).map(lambda name: NEW.assign(**{name: [[1, 2]] * len(NEW)})),
    st.sampled_from(["size", "rooms"]).map(lambda name: NEW.assign(**{name: NEW["built"]})),
    st.floats(-1e9, 1e9).map(lambda x: NEW.assign(built=x)),
    st.just(NEW[:0]),
    st.sampled_from(LEARNT).map(lambda name: NEW.drop(columns=name)),
)
"""The same where columns have types: lists, dates that are numbers, numbers that are dates."""

LINES = st.integers(1, len(NEW))
MISFITS = st.one_of(
    st.builds(
        as_file, CHANGED.map(lambda t: t.to_csv(index=False)), gzipped=st.booleans(), marked=st.booleans()
    ),
    st.builds(
        as_file, CHANGED.map(lambda t: t.to_csv(index=False)), gzipped=st.booleans(), marked=st.booleans()
    ),
    st.tuples(st.sampled_from(["parquet", "feather", "orc"]), TYPED).map(lambda a: File(f"a.{a[0]}", of_kind(*a))),
    st.tuples(LINES, st.integers(1, 12).filter(lambda n: n != NEW.shape[1])).map(
        lambda a: as_file(changed(a[0], ",".join("1" * a[1]), NEW_TEXT))
    ),
    st.sampled_from(LEARNT[1:]).map(lambda name: as_file(NEW_TEXT.replace(name, "size", 1))),
    st.tuples(LINES, ENCODED).map(
        lambda a: as_file(changed(a[0], f"1,1,{a[1][0]},True,1990-01-01,1,1,yes", NEW_TEXT).encode(a[1][1]))
    ),
    st.integers(1, 60).map(lambda n: as_file(packed(NEW_TEXT)[:-n])),
    st.text(" \n\r\t\ufeff", max_size=8).map(as_file),
    LINES.map(lambda n: as_file(changed(n, "1,1,\0,True,1990-01-01,1,1,yes", NEW_TEXT))),
    NO_FILES,
)  # fmt: skip
"""Files that do not fit a run which has learnt `sold` of `houses()`."""
