"""Fixtures of all tests."""

import gc
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent
collect_ignore = ["tests/integrations"]  # of a plain run: `make test-integrations` names the folder

# A shell ignores SIGINT in what it runs in the background, and so would these tests and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The networks here are narrow: a second thread wins nothing, and on a busy machine it costs a factor of ten.
torch.set_num_threads(1)

# A busy machine may take a second to draw one value.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Every file draws its constants from the same random state, whatever was imported before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_trials(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials take seconds: only tests that are marked with `trials` run them, and commands in other processes."""
    if request.node.get_closest_marker("trials") is None:
        monkeypatch.setattr("unstuck.trials.verdict.SECONDS", 0.0)
        monkeypatch.setattr("unstuck.cli.commentary.TRIALS", (0.0, 0.0))


@pytest.fixture(autouse=True)
def _compiling() -> None:
    """Collect observers that an earlier test dropped while they were attached: until then nothing is compiled."""
    eager = sys.modules.get("unstuck._torch.eager")
    if eager is not None and eager._EAGER._holders:
        gc.collect()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets an item whenever hidden layers are computed as one, which here the smallest are, too."""
    from sigmoidcore.nn import fused, rows

    seen: list[int] = []
    original = rows.run_as_one

    def counted(*arguments: Any) -> Any:
        output = original(*arguments)
        seen.extend([] if output is None else [1])
        return output

    monkeypatch.setattr(rows, "run_as_one", counted)
    monkeypatch.setattr(fused, "WORTH_IT", 0)
    return seen


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command with invalid input: exit code 2, empty standard output; return the one line of standard error."""

    def run(command: Callable[[list[str]], int], arguments: list[str]) -> str:
        capsys.readouterr()
        code = command(arguments)
        output, error = capsys.readouterr()
        assert (code, output, error.count("\n")) == (2, "", 1), (output, error)
        assert error.startswith(("sigmoid-core: ", "unstuck: "))
        return error

    return run


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT
