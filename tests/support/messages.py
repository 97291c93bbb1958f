"""The Chinese catalogues of both packages: `python tests/support/messages.py` compiles each `zh.po` to `zh.mo`."""

import io
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

CATALOGUES = sorted((Path(__file__).resolve().parents[2] / "packages").glob("*/src/*/language/zh.po"))


def compiled(catalogue: Path) -> bytes:
    """The compiled catalogue."""
    file = io.BytesIO()
    with catalogue.open("rb") as source:
        write_mo(file, read_po(source, locale="zh"))
    return file.getvalue()


if __name__ == "__main__":
    for catalogue in CATALOGUES:
        catalogue.with_suffix(".mo").write_bytes(compiled(catalogue))
        print(catalogue.with_suffix(".mo"))
