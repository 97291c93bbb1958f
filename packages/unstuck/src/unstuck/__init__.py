"""unstuck: find out why a PyTorch network does not learn.

unstuck train.py                                 # the command: a whole training, without a line of code
unstuck.diagnose(model, inputs, targets, loss)   # one batch
unstuck.Monitor(model)                           # a training, from within
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unstuck.diagnose import diagnose
    from unstuck.diagnosis import Diagnosis
    from unstuck.findings import Finding
    from unstuck.monitor import Monitor

__all__ = ["Diagnosis", "Finding", "Monitor", "diagnose"]


def __getattr__(name: str) -> object:
    # At the first use of a name: the command needs this package before PyTorch is imported.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from unstuck.diagnose import diagnose
    from unstuck.diagnosis import Diagnosis
    from unstuck.findings import Finding
    from unstuck.monitor import Monitor

    globals().update(diagnose=diagnose, Diagnosis=Diagnosis, Finding=Finding, Monitor=Monitor)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
