"""The notebooks of the documentation print their committed output; a notebook of a user shows a training live."""

import importlib.util
import re

import nbclient
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


@pytest.mark.parametrize("name", ["article", "rescue", "physics"])
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


CODE = """
import torch; torch.set_num_threads(1)
from sigmoidcore.training import fit, open_run
run = fit("wine", output="run", depth=3, width=16, epochs=3)
"""


def outputs_of(tmp_path, *cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    return [cell.outputs for cell in notebook.cells]


def text_of(outputs):
    return "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs)


def test_training_is_seen_live_and_the_run_is_there(tmp_path):
    trained, predicted = outputs_of(tmp_path, CODE, "print(len(run.predict('wine')), run.evaluate()['accuracy'] > 0.5)")
    assert "3 layers, 3 of 3 epochs" in text_of(trained)
    views = [o for o in trained if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert len(views) == 1
    assert "3 layers, 3 of 3 epochs" in (tmp_path / "run" / "report.txt").read_text()
    assert not any(o.get("name") == "stderr" for o in [*trained, *predicted])
    assert "178 True" in text_of(predicted)


def test_without_progress_nothing_is_shown(tmp_path):
    (trained,) = outputs_of(tmp_path, CODE.replace("epochs=3", "epochs=3, progress=False"))
    assert trained == []
