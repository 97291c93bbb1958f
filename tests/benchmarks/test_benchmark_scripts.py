"""Every benchmark finds what it imports from the packages."""

import importlib
from pathlib import Path

import pytest

SCRIPTS = sorted({path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("[!_]*.py")} - {"training"})


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_imported(script):
    try:
        module = importlib.import_module(script)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("sigmoidcore", "unstuck", "peers", "training", "_")):
            raise
        pytest.skip(f"{error.name} is not installed")
    assert module.__doc__
    assert callable(module.main)
