"""The notebooks of the documentation print their committed output."""

import importlib.util
import re

import nbformat
import pytest

pytestmark = pytest.mark.integration

NUMBER = re.compile(r"\d[\d.,]*(?:e[-+]\d+)?")


@pytest.fixture(scope="module")
def notebooks(root):
    spec = importlib.util.spec_from_file_location("notebooks", root / "docs" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed(cell):
    return "".join(output.text for output in cell.get("outputs", []) if output.output_type == "stream")


def kinds(cell):
    return [(output.output_type, sorted(output.get("data", {}))) for output in cell.get("outputs", [])]


@pytest.mark.parametrize("name", ["rescue", "physics", "fine_tuning"])
def test_the_notebook_runs_its_assertions_hold_and_it_prints_what_was_committed(name, root, notebooks, tmp_path):
    path = root / "docs" / "notebooks" / f"{name}.ipynb"
    committed = nbformat.read(path, as_version=4)
    fresh = notebooks.executed(path, tmp_path)
    for old, new in zip(committed.cells, fresh.cells, strict=True):
        assert kinds(old) == kinds(new), new.source
        if "varies" in new.metadata.get("tags", []):  # the last digits of a training are the processor's
            assert NUMBER.sub("#", printed(old)) == NUMBER.sub("#", printed(new)), new.source
        else:
            assert printed(old) == printed(new), new.source
    assert not list(tmp_path.iterdir())
