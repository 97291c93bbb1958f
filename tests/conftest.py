import signal
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# The benchmarks are scripts, not a package: tests import what the scripts share as the scripts do.
sys.path.insert(0, str(ROOT / "benchmarks"))

# A shell ignores SIGINT in what it runs in the background, and so would these tests and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The networks here are narrow: a second thread wins nothing, and on a busy machine it costs a factor of ten.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state, alone or among others."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT
